// SPDX-License-Identifier: GPL-2.0-only
/*
 * Messages without data, many at a time.
 *
 * On a channel with BATCH and USER_COPY a message is its header, in both
 * directions. So a batch is an array: it is copied as one, and the lock is taken
 * once for all of it. What does not fit this - the rest of a header that was
 * begun, a reply that says data follows it - goes the way of the stream.
 */
#include "dm-user.h"

/* On the stack: 640 bytes. */
#define DMU_HEADERS_MAX	16

/* Takes the next requests; they count as delivered before they are copied. */
static unsigned int dmu_headers_fill(struct dmu_channel *chan,
				     struct dm_user_message *msgs, unsigned int max)
{
	struct dmu_control *ctl = chan->ctl;
	struct dmu_request *req;
	unsigned int n = 0;

	/* As in dmu_channel_readable(): who waits looks again. */
	if (list_empty(&ctl->queue))
		return 0;
	spin_lock(&ctl->lock);
	while (n < max && !list_empty(&ctl->queue)) {
		req = __dmu_request_take(chan);
		dmu_message_fill(&msgs[n++], req);
		__dmu_request_delivered(req);
	}
	if (n)
		__dmu_deadline_arm(ctl, false);
	spin_unlock(&ctl->lock);
	return n;
}

/* The daemon's memory took no more: what it has not got goes back. */
static void dmu_headers_unfill(struct dmu_channel *chan,
			       const struct dm_user_message *msgs, unsigned int n)
{
	struct dmu_control *ctl = chan->ctl;
	struct dmu_request *req;
	unsigned int i;

	spin_lock(&ctl->lock);
	for (i = 0; i < n; i++) {
		/* Some may have been taken away, or answered, meanwhile. */
		req = __dmu_request_find(chan, msgs[i].seq);
		if (req)
			__dmu_take_back(chan, req);
	}
	spin_unlock(&ctl->lock);
	wake_up_interruptible(&ctl->wait);
}

/**
 * dmu_headers_give() - As many messages as are there and fit
 * @chan: channel with BATCH and USER_COPY; its read_mutex is held, and no
 *	message is in transfer
 * @to: the daemon's memory, room for one header at the least
 *
 * Return: bytes, whole headers; -EAGAIN if there is nothing to read, -EFAULT,
 * -ENOTBLK, -ESHUTDOWN.
 */
ssize_t dmu_headers_give(struct dmu_channel *chan, struct iov_iter *to)
{
	struct dm_user_message msgs[DMU_HEADERS_MAX] DMU_UNINITIALIZED;
	size_t bytes, copied;
	unsigned int n;

	if (READ_ONCE(chan->ctl->state) == DM_USER_STATE_REMOVED)
		return -ENOTBLK;
	if (READ_ONCE(chan->stopped))
		return -ESHUTDOWN;
	n = min_t(size_t, DMU_HEADERS_MAX, iov_iter_count(to) / DMU_HEADER_BYTES);
	n = dmu_headers_fill(chan, msgs, n);
	if (!n)
		return -EAGAIN;
	bytes = n * DMU_HEADER_BYTES;
	copied = copy_to_iter(msgs, bytes, to);
	if (likely(copied == bytes))
		return bytes;
	iov_iter_revert(to, copied % DMU_HEADER_BYTES);
	copied -= copied % DMU_HEADER_BYTES;
	dmu_headers_unfill(chan, msgs + copied / DMU_HEADER_BYTES,
			   (bytes - copied) / DMU_HEADER_BYTES);
	return copied ? copied : -EFAULT;
}

/* One reply; false if it names no request, or a place that cannot be. */
static bool __dmu_headers_answer(struct dmu_channel *chan,
				 const struct dm_user_message *msg,
				 struct list_head *done)
{
	struct dmu_request *req = __dmu_request_find(chan, msg->seq);
	blk_status_t status = BLK_STS_IOERR;

	if (!req)
		return false;
	chan->ctl->stats.served += req->nr;
	if (msg->type == DM_USER_RESP_REMAP && chan->remap)
		return __dmu_remap(chan->ctl, req, msg, done);
	if (msg->type == DM_USER_RESP_SUCCESS)
		status = BLK_STS_OK;
	else if (msg->type == DM_USER_RESP_UNSUPPORTED)
		status = BLK_STS_NOTSUPP;
	__dmu_finish(chan->ctl, req, status, done);
	return true;
}

/**
 * dmu_headers_take() - Some of the replies that are offered
 * @chan: channel with BATCH and USER_COPY; its write_mutex is held, and no reply
 *	is in transfer
 * @from: the daemon's memory, one header at the least
 * @stale: counts replies that were passed over
 *
 * Return: bytes, whole headers; 0 if the next one is no header alone; -EFAULT,
 * -ENOTBLK.
 */
ssize_t dmu_headers_take(struct dmu_channel *chan, struct iov_iter *from,
			 u32 *stale)
{
	struct dm_user_message msgs[DMU_HEADERS_MAX] DMU_UNINITIALIZED;
	struct dmu_control *ctl = chan->ctl;
	unsigned int i, n;
	LIST_HEAD(done);
	size_t copied;

	if (READ_ONCE(ctl->state) == DM_USER_STATE_REMOVED)
		return -ENOTBLK;
	n = min_t(size_t, DMU_HEADERS_MAX, iov_iter_count(from) / DMU_HEADER_BYTES);
	copied = copy_from_iter(msgs, n * DMU_HEADER_BYTES, from);
	n = copied / DMU_HEADER_BYTES;
	if (!n) {
		iov_iter_revert(from, copied);
		return -EFAULT;
	}

	spin_lock(&ctl->lock);
	for (i = 0; i < n; i++) {
		if (msgs[i].type == DM_USER_RESP_SUCCESS && msgs[i].len)
			break;
		if (!__dmu_headers_answer(chan, &msgs[i], &done))
			++*stale;
	}
	ctl->progress = jiffies;
	spin_unlock(&ctl->lock);
	dmu_complete_all(&done);

	copied -= i * DMU_HEADER_BYTES;
	if (copied)
		iov_iter_revert(from, copied);
	return i * DMU_HEADER_BYTES;
}

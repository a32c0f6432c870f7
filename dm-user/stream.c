// SPDX-License-Identifier: GPL-2.0-only
/*
 * The stream: read() gives requests out, write() takes replies in.
 *
 * Owns the two transfers of a channel and the wire format's framing; knows
 * nothing of queues and deadlines. The rules, which are Android's but for the
 * last three:
 *
 * 1. A read() returns bytes of a header or bytes of a payload, never both.
 * 2. Messages may be read and written in pieces of any size.
 * 3. A write() takes one reply at most, so it may be short.
 * 4. A fault ends the call with what passed before it, or with EFAULT; nothing
 *    is lost.
 * 5. A reply that names no request of this channel is refused with EINVAL, and
 *    the next write() begins a new reply.
 * 6. When a request is taken away in the middle of its payload (a deadline, a
 *    suspend), the call for the next part fails once, read() with ECANCELED
 *    and write() with EINVAL, and a new message begins.
 */
#include <linux/highmem.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>

#include "dm-user.h"

/**
 * dmu_copy_some() - Copy as far as that goes without a page fault
 * @req: request, kept by dmu_copy_begin()
 * @xfer: where in its bios to go on, with bytes left; moved on
 * @iter: the daemon's memory
 * @out: true towards the daemon
 *
 * Return: bytes copied, no more than DMU_COPY_BYTES_MAX.
 */
size_t dmu_copy_some(struct dmu_request *req, struct dmu_transfer *xfer,
		     struct iov_iter *iter, bool out)
{
	/* Not for each page: that is a call into the device-mapper. */
	struct bio *bio = dmu_request_bio(xfer->part);
	size_t total = 0;

	pagefault_disable();
	while (xfer->left && iov_iter_count(iter) && total < DMU_COPY_BYTES_MAX) {
		struct bio_vec bv = bio_iter_iovec(bio, xfer->iter);
		size_t want = min_t(size_t, bv.bv_len, iov_iter_count(iter));
		size_t copied;

		if (out) {
			copied = copy_page_to_iter(bv.bv_page, bv.bv_offset, want, iter);
		} else {
			copied = copy_page_from_iter(bv.bv_page, bv.bv_offset, want, iter);
			flush_dcache_page(bv.bv_page);
		}
		bio = dmu_transfer_advance(xfer, req, bio, copied);
		total += copied;
		if (copied < want)
			break;
	}
	pagefault_enable();
	return total;
}

/**
 * dmu_copy() - Move payload between a request and the daemon
 * @ctl: control
 * @xfer: side of a channel whose mutex is held, in its payload
 * @iter: the daemon's memory
 * @out: true towards the daemon
 *
 * Return: bytes moved, which may be fewer than there were; -EFAULT or -EINTR
 * if none was; -ECANCELED if the request was taken away, even if some were.
 */
static ssize_t dmu_copy(struct dmu_control *ctl, struct dmu_transfer *xfer,
			struct iov_iter *iter, bool out)
{
	unsigned int tries = 0;
	ssize_t total = 0;

	while (xfer->left && iov_iter_count(iter)) {
		struct dmu_request *req = dmu_copy_begin(ctl, xfer);
		size_t bytes, missing;

		if (!req)
			return -ECANCELED;
		bytes = dmu_copy_some(req, xfer, iter, out);
		dmu_copy_end(ctl, req);
		total += bytes;
		cond_resched();
		if (bytes) {
			tries = 0;
			continue;
		}
		if (fatal_signal_pending(current))
			return total ? total : -EINTR;
		bytes = min_t(size_t, xfer->left, iov_iter_count(iter));
		bytes = min_t(size_t, bytes, DMU_COPY_BYTES_MAX);
		missing = out ? fault_in_iov_iter_writeable(iter, bytes) :
				fault_in_iov_iter_readable(iter, bytes);
		if (missing == bytes || ++tries > DMU_COPY_TRIES_MAX)
			return total ? total : -EFAULT;
	}
	return total;
}

/**
 * dmu_read_begin() - Begin a message if none is in transfer
 * @chan: channel whose read_mutex is held
 *
 * Return: false if there is nothing to read.
 */
bool dmu_read_begin(struct dmu_channel *chan)
{
	struct dmu_control *ctl = chan->ctl;
	struct dmu_transfer *rd = &chan->rd;
	struct dm_user_message msg = {};
	struct dmu_request *req;

	spin_lock(&ctl->lock);
	if (!rd->active) {
		req = __dmu_request_pick(chan);
		if (req) {
			dmu_message_fill(&msg, req);
			memcpy(rd->header, &msg, DMU_HEADER_BYTES);
			rd->header_done = 0;
			rd->left = chan->user_copy ? 0 : dmu_request_payload_out(req);
			dmu_transfer_at(rd, req, 0);
		}
	}
	spin_unlock(&ctl->lock);
	return rd->active;
}

/* The message has passed, or its request is gone. */
static void dmu_read_end(struct dmu_channel *chan)
{
	struct dmu_control *ctl = chan->ctl;

	spin_lock(&ctl->lock);
	if (chan->rd.req)
		__dmu_request_delivered(chan->rd.req);
	chan->rd.req = NULL;
	WRITE_ONCE(chan->rd.active, false);
	chan->rd.header_done = 0;
	spin_unlock(&ctl->lock);
}

static ssize_t dmu_read_header(struct dmu_channel *chan, struct iov_iter *to)
{
	struct dmu_transfer *rd = &chan->rd;
	size_t bytes;

	bytes = copy_to_iter(rd->header + rd->header_done,
			     DMU_HEADER_BYTES - rd->header_done, to);
	rd->header_done += bytes;
	if (!rd->header_done) {
		/* Another channel may have better luck with it. */
		spin_lock(&chan->ctl->lock);
		__dmu_request_unpick(chan);
		spin_unlock(&chan->ctl->lock);
	}
	if (rd->header_done == DMU_HEADER_BYTES && !rd->left)
		dmu_read_end(chan);
	return bytes ? bytes : -EFAULT;
}

/**
 * dmu_read_once() - One call's worth of a message
 * @chan: channel whose read_mutex is held
 * @to: the daemon's memory, not empty
 *
 * Return: as dmu_read_iter(); -EAGAIN if there is nothing to read.
 */
ssize_t dmu_read_once(struct dmu_channel *chan, struct iov_iter *to)
{
	ssize_t ret;

	if (READ_ONCE(chan->ctl->state) == DM_USER_STATE_REMOVED)
		return -ENOTBLK;
	if (READ_ONCE(chan->stopped) && !READ_ONCE(chan->rd.active))
		return -ESHUTDOWN;
	if (!dmu_read_begin(chan))
		return -EAGAIN;
	if (chan->rd.header_done < DMU_HEADER_BYTES)
		return dmu_read_header(chan, to);

	ret = dmu_copy(chan->ctl, &chan->rd, to, true);
	if (ret == -ECANCELED || !chan->rd.left)
		dmu_read_end(chan);
	return ret;
}

/**
 * dmu_wait() - Sleep until a read() would return
 * @chan: channel
 * @timeout: jiffies, and what is left of them
 * @fetch: ends the wait when it is canceled; may be NULL
 * @wake_fd: file that ends the wait, as if the time was over; may be NULL
 *
 * Return: 0, also when the time is over; -ERESTARTSYS, -ECANCELED, and what
 * dmu_waker_begin() returns.
 */
int dmu_wait(struct dmu_channel *chan, long *timeout, struct dmu_fetch *fetch,
	     int *wake_fd)
{
	struct dmu_waker waker DMU_UNINITIALIZED;
	struct dmu_control *ctl = chan->ctl;
	DEFINE_WAIT(wait);
	int ret = 0;

	if (wake_fd) {
		ret = dmu_waker_begin(&waker, *wake_fd);
		if (ret)
			return ret;
	}
	/* Before it is looked whether there is something: see dmu_wake_next(). */
	atomic_inc(&chan->nr_waiting);
	for (;;) {
		prepare_to_wait_exclusive(&ctl->wait, &wait, TASK_INTERRUPTIBLE);
		if (dmu_channel_readable(chan) || !*timeout)
			break;
		if (wake_fd && READ_ONCE(waker.ready)) {
			*timeout = 0;
			break;
		}
		if (fetch && READ_ONCE(fetch->state) == DMU_FETCH_CANCELED) {
			ret = -ECANCELED;
			break;
		}
		if (signal_pending(current)) {
			ret = -ERESTARTSYS;
			break;
		}
		*timeout = schedule_timeout(*timeout);
		/* What it was woken for, nearly always. */
		if (dmu_channel_readable(chan))
			break;
	}
	finish_wait(&ctl->wait, &wait);
	atomic_dec(&chan->nr_waiting);
	if (wake_fd)
		dmu_waker_end(&waker);
	return ret;
}

/**
 * dmu_wake_next() - Pass a wake-up on
 * @chan: channel
 *
 * A wake-up is given to one reader only. Who leaves while there is still
 * something to read passes it on: a reader that was woken and got a signal, or
 * the rest of another message; and a reader that leaves the rest of a message
 * to others who sleep in the same file.
 */
void dmu_wake_next(struct dmu_channel *chan)
{
	struct dmu_control *ctl = chan->ctl;
	bool rest;

	/* What comes later wakes by itself. */
	if (!READ_ONCE(chan->rd.active) && list_empty(&ctl->queue))
		return;
	/*
	 * A reader counts itself, then looks at @rd.active with a barrier between
	 * (that of its task's state); here it is the other way round.
	 */
	smp_mb();
	rest = READ_ONCE(chan->rd.active) &&
	       (atomic_read(&chan->nr_waiting) || READ_ONCE(chan->nr_parked));
	if (rest)
		wake_up_interruptible_all(&ctl->wait);
	else if (!list_empty(&ctl->queue))
		wake_up_interruptible(&ctl->wait);
}

/**
 * dmu_read_iter() - read() of a channel
 * @iocb: the file
 * @to: the daemon's memory
 *
 * Waits for a request unless the file or the call is non-blocking.
 *
 * Return: bytes of a header or of a payload; 0 only if none were asked for;
 * -EAGAIN, -ERESTARTSYS, -EFAULT, -ECANCELED (rule 6), -ENOTBLK (removed),
 * -ESHUTDOWN (stopped).
 */
ssize_t dmu_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct dmu_channel *chan = iocb->ki_filp->private_data;
	bool nowait = iocb->ki_flags & IOCB_NOWAIT;
	long timeout = MAX_SCHEDULE_TIMEOUT;
	bool waited = false;
	ssize_t ret;

	if (!iov_iter_count(to))
		return 0;
	WRITE_ONCE(chan->used, true);
	dmu_channel_serve(chan);

	for (;;) {
		if (!nowait)
			ret = mutex_lock_interruptible(&chan->read_mutex);
		else
			ret = mutex_trylock(&chan->read_mutex) ? 0 : -EAGAIN;
		if (ret)
			break;
		ret = chan->batch ? dmu_batch_read(chan, to) : dmu_read_once(chan, to);
		mutex_unlock(&chan->read_mutex);
		if (ret != -EAGAIN || nowait || (iocb->ki_filp->f_flags & O_NONBLOCK))
			break;
		waited = true;
		ret = dmu_wait(chan, &timeout, NULL, NULL);
		if (ret)
			break;
	}
	if (waited || ret == -EFAULT || READ_ONCE(chan->rd.active))
		dmu_wake_next(chan);
	return ret == -EINTR ? -ERESTARTSYS : ret;
}

/*
 * A header has come in whole: finds its request, and completes it unless a
 * payload is to follow. Returns the bytes due, or -EINVAL.
 */
static ssize_t dmu_reply_begin(struct dmu_channel *chan)
{
	struct dmu_control *ctl = chan->ctl;
	struct dmu_transfer *wr = &chan->wr;
	struct dmu_request *req;
	struct dm_user_message msg;
	blk_status_t status;
	LIST_HEAD(done);
	bool stale;
	u32 due;

	memcpy(&msg, wr->header, DMU_HEADER_BYTES);
	wr->header_done = 0;
	wr->left = 0;
	/* What follows a good reply in a batch, if nobody wants it. */
	if (chan->batch && msg.type == DM_USER_RESP_SUCCESS)
		wr->skip = min_t(u64, msg.len, UINT_MAX);

	spin_lock(&ctl->lock);
	req = __dmu_request_find(chan, msg.seq);
	if (!req) {
		spin_unlock(&ctl->lock);
		return -EINVAL;
	}
	ctl->progress = jiffies;
	if (msg.type == DM_USER_RESP_SUCCESS)
		status = BLK_STS_OK;
	else if (msg.type == DM_USER_RESP_UNSUPPORTED)
		status = BLK_STS_NOTSUPP;
	else
		status = BLK_STS_IOERR;
	if (msg.type == DM_USER_RESP_REMAP && chan->remap) {
		ctl->stats.served += req->nr;
		stale = !__dmu_remap(ctl, req, &msg, &done);
		spin_unlock(&ctl->lock);
		dmu_complete_all(&done);
		return stale ? -EINVAL : 0;
	}
	due = chan->user_copy ? 0 : dmu_request_payload_in(req);
	/* A daemon that has lost count: the data cannot be trusted either. */
	stale = chan->batch && status == BLK_STS_OK && msg.len != due;
	if (stale)
		status = BLK_STS_IOERR;
	else
		wr->skip = 0;
	if (status == BLK_STS_OK && due) {
		req->state = DMU_WRITING;
		wr->req = req;
		wr->active = true;
		wr->left = due;
		dmu_transfer_at(wr, req, 0);
	} else {
		ctl->stats.served += req->nr;
		__dmu_finish(ctl, req, status, &done);
	}
	spin_unlock(&ctl->lock);

	dmu_complete_all(&done);
	return stale ? -EINVAL : (ssize_t)wr->left;
}

/* The last byte of a payload is in, or its request is gone. */
static void dmu_reply_end(struct dmu_channel *chan)
{
	struct dmu_control *ctl = chan->ctl;
	LIST_HEAD(done);

	spin_lock(&ctl->lock);
	if (chan->wr.req) {
		ctl->stats.served += chan->wr.req->nr;
		__dmu_finish(ctl, chan->wr.req, BLK_STS_OK, &done);
	}
	chan->wr.active = false;
	spin_unlock(&ctl->lock);
	dmu_complete_all(&done);
}

/**
 * dmu_write_once() - One call's worth of a reply
 * @chan: channel whose write_mutex is held
 * @from: the daemon's memory, not empty
 *
 * Return: as dmu_write_iter(). After -EINVAL @wr.skip bytes of a batch belong
 * to what was refused.
 */
ssize_t dmu_write_once(struct dmu_channel *chan, struct iov_iter *from)
{
	struct dmu_transfer *wr = &chan->wr;
	ssize_t ret, total = 0;

	if (READ_ONCE(chan->ctl->state) == DM_USER_STATE_REMOVED)
		return -ENOTBLK;

	if (!wr->active) {
		total = copy_from_iter(wr->header + wr->header_done,
				       DMU_HEADER_BYTES - wr->header_done, from);
		wr->header_done += total;
		if (!total)
			return -EFAULT;
		if (wr->header_done < DMU_HEADER_BYTES)
			return total;
		ret = dmu_reply_begin(chan);
		if (ret <= 0)
			return ret ? ret : total;
		if (!iov_iter_count(from))
			return total;
	}

	ret = dmu_copy(chan->ctl, wr, from, false);
	if (ret == -ECANCELED || !wr->left)
		dmu_reply_end(chan);
	/* Rule 6: what came with the payload must not be taken for a header. */
	if (ret == -ECANCELED) {
		wr->skip = chan->batch ? wr->left : 0;
		return -EINVAL;
	}
	if (ret < 0)
		return total ? total : ret;
	return total + ret;
}

/**
 * dmu_write_iter() - write() of a channel
 * @iocb: the file
 * @from: the daemon's memory
 *
 * Never waits for anything but another writer of the same file.
 *
 * Return: bytes taken, one reply at most; 0 only if none were offered;
 * -EINVAL (rules 5 and 6), -EFAULT, -ERESTARTSYS, -EAGAIN, -ENOTBLK (removed).
 */
ssize_t dmu_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct dmu_channel *chan = iocb->ki_filp->private_data;
	u32 stale = 0;
	ssize_t ret;

	if (!iov_iter_count(from))
		return 0;
	WRITE_ONCE(chan->used, true);
	if (!(iocb->ki_flags & IOCB_NOWAIT))
		ret = mutex_lock_interruptible(&chan->write_mutex);
	else
		ret = mutex_trylock(&chan->write_mutex) ? 0 : -EAGAIN;
	if (ret)
		return ret == -EINTR ? -ERESTARTSYS : ret;
	ret = chan->batch ? dmu_batch_write(chan, from, &stale) :
			    dmu_write_once(chan, from);
	mutex_unlock(&chan->write_mutex);
	return ret;
}

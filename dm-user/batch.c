// SPDX-License-Identifier: GPL-2.0-only
/*
 * Batches: many messages in one call. What a channel asks for by ioctl and a
 * version 1 daemon never meets.
 *
 * A batch is the stream without its pauses: read() goes on with the next
 * message, write() with the next reply. Two things are new. A message is begun
 * behind another only if all of it fits, so that a daemon with a large buffer
 * never sees one cut. And a reply says itself how many bytes follow it, so that
 * one for a request that was taken away can be passed over, and those behind it
 * are not lost. Where messages are headers alone, many go at a time (headers.c).
 */
#include <linux/blkdev.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "dm-user.h"

/**
 * dmu_batch_read() - As many messages as are there and fit
 * @chan: channel, in batch mode; its read_mutex is held
 * @to: the daemon's memory
 *
 * Return: bytes; -EAGAIN if there is nothing to read, and what a read() of the
 * stream returns. A message that is taken away in the middle ends the batch,
 * and the next call returns -ECANCELED.
 */
ssize_t dmu_batch_read(struct dmu_channel *chan, struct iov_iter *to)
{
	struct dmu_transfer *rd = &chan->rd;
	ssize_t ret = 0, total = 0;

	if (chan->rd_canceled) {
		chan->rd_canceled = false;
		return -ECANCELED;
	}
	while (iov_iter_count(to)) {
		if (chan->user_copy && !READ_ONCE(rd->active) &&
		    iov_iter_count(to) >= DMU_HEADER_BYTES) {
			ret = dmu_headers_give(chan, to);
			if (ret < 0)
				break;
			total += ret;
			/* What comes from now on wakes, or is for the next call. */
			if (list_empty(&chan->ctl->queue))
				break;
			continue;
		}
		if (total && !READ_ONCE(rd->active)) {
			if (!dmu_read_begin(chan))
				break;
			if (DMU_HEADER_BYTES + rd->left > iov_iter_count(to)) {
				spin_lock(&chan->ctl->lock);
				__dmu_request_unpick(chan);
				spin_unlock(&chan->ctl->lock);
				/* Who was woken for it may have seen nothing. */
				dmu_wake_next(chan);
				break;
			}
		}
		ret = dmu_read_once(chan, to);
		if (ret < 0)
			break;
		total += ret;
	}
	if (total && ret == -ECANCELED)
		chan->rd_canceled = true;
	return total ? total : ret;
}

/**
 * dmu_batch_write() - As many replies as are offered
 * @chan: channel, in batch mode; its write_mutex is held
 * @from: the daemon's memory
 * @stale: counts replies that were passed over: they name no request of this
 *	channel, or one that was taken away, or not the length of their request
 *
 * Return: bytes taken, passed over included; or what a write() of the stream
 * returns if there were none.
 */
ssize_t dmu_batch_write(struct dmu_channel *chan, struct iov_iter *from,
			u32 *stale)
{
	struct dmu_transfer *wr = &chan->wr;
	size_t before = iov_iter_count(from);
	/* Remapped bios reach their device together. */
	bool plugs = chan->remap && before > DMU_HEADER_BYTES;
	struct blk_plug plug;
	ssize_t ret = 0;

	if (plugs)
		blk_start_plug(&plug);
	while (iov_iter_count(from)) {
		if (wr->skip) {
			size_t bytes = min_t(size_t, wr->skip, iov_iter_count(from));

			iov_iter_advance(from, bytes);
			wr->skip -= bytes;
			continue;
		}
		if (chan->user_copy && !wr->active && !wr->header_done &&
		    iov_iter_count(from) >= DMU_HEADER_BYTES) {
			ret = dmu_headers_take(chan, from, stale);
			if (ret > 0)
				continue;
			if (ret < 0)
				break;
		}
		ret = dmu_write_once(chan, from);
		if (ret == -EINVAL)
			++*stale;
		else if (ret < 0)
			break;
	}
	if (plugs)
		blk_finish_plug(&plug);
	if (before == iov_iter_count(from))
		return ret;
	return before - iov_iter_count(from);
}

/**
 * dmu_batch_load() - Get the argument of a batch
 * @chan: channel
 * @batch: filled, with nothing taken or given yet
 * @arg: struct dm_user_batch
 *
 * Return: 0, -EINVAL, -EFAULT.
 */
int dmu_batch_load(struct dmu_channel *chan, struct dm_user_batch *batch,
		   void __user *arg)
{
	if (!READ_ONCE(chan->batch))
		return -EINVAL;
	if (copy_from_user(batch, arg, sizeof(*batch)))
		return -EFAULT;
	if ((batch->flags & ~DM_USER_BATCH_WAKE) ||
	    (batch->wake_fd && !(batch->flags & DM_USER_BATCH_WAKE)) ||
	    batch->reserved[0] || batch->reserved[1] || batch->reserved[2] ||
	    batch->segments > DM_USER_BATCH_SEGMENTS_MAX)
		return -EINVAL;
	batch->taken_bytes = 0;
	batch->given_bytes = 0;
	batch->stale = 0;
	return 0;
}

/**
 * dmu_batch_store() - Say what became of a batch
 * @batch: batch
 * @arg: struct dm_user_batch
 *
 * Return: 0, -EFAULT.
 */
int dmu_batch_store(const struct dm_user_batch *batch, void __user *arg)
{
	struct dm_user_batch __user *out = arg;

	BUILD_BUG_ON(offsetof(struct dm_user_batch, stale) !=
		     offsetof(struct dm_user_batch, taken_bytes) + 2 * sizeof(u32));
	return copy_to_user(&out->taken_bytes, &batch->taken_bytes,
			    3 * sizeof(u32)) ? -EFAULT : 0;
}

/**
 * dmu_batch_take() - Take the replies of a batch
 * @chan: channel, in batch mode
 * @batch: batch; says afterwards what was taken. If that is not all, nothing is
 *	to be given: a reply that could not be taken may be what the next request
 *	waits for
 *
 * Return: 0, or what a write() returns if nothing was taken.
 */
int dmu_batch_take(struct dmu_channel *chan, struct dm_user_batch *batch)
{
	struct iovec segments[DM_USER_BATCH_SEGMENTS_MAX] DMU_UNINITIALIZED;
	struct iovec *iov = segments;
	struct iov_iter from;
	ssize_t ret;

	if (!batch->replies_bytes)
		return batch->segments ? -EINVAL : 0;
	if (batch->segments) {
		/* Allocates nothing: they fit. */
		ret = import_iovec(WRITE, u64_to_user_ptr(batch->replies),
				   batch->segments, ARRAY_SIZE(segments), &iov, &from);
		if (ret < 0)
			return ret;
		if (ret != batch->replies_bytes)
			return -EINVAL;
	} else {
		if (!access_ok(u64_to_user_ptr(batch->replies), batch->replies_bytes))
			return -EFAULT;
		iov_iter_ubuf(&from, WRITE, u64_to_user_ptr(batch->replies),
			      batch->replies_bytes);
	}
	if (mutex_lock_killable(&chan->write_mutex))
		return -EINTR;
	ret = dmu_batch_write(chan, &from, &batch->stale);
	mutex_unlock(&chan->write_mutex);
	if (ret < 0)
		return ret;
	batch->taken_bytes = ret;
	return 0;
}

/**
 * dmu_batch_give_now() - Give the requests that are there
 * @chan: channel, in batch mode, that serves
 * @batch: batch
 *
 * Return: bytes given; -EAGAIN if there is nothing; or what a read() returns.
 */
ssize_t dmu_batch_give_now(struct dmu_channel *chan, struct dm_user_batch *batch)
{
	struct iov_iter to;
	ssize_t ret;

	if (!batch->requests_bytes)
		return 0;
	if (!access_ok(u64_to_user_ptr(batch->requests), batch->requests_bytes))
		return -EFAULT;
	iov_iter_ubuf(&to, READ, u64_to_user_ptr(batch->requests),
		      batch->requests_bytes);
	if (mutex_lock_killable(&chan->read_mutex))
		return -EINTR;
	ret = dmu_batch_read(chan, &to);
	/* What was taken must be told first. */
	if (ret == -ECANCELED && batch->taken_bytes) {
		chan->rd_canceled = true;
		ret = 0;
	}
	mutex_unlock(&chan->read_mutex);
	return ret;
}

/**
 * dmu_batch_give() - Give requests, and wait for the first if there is none
 * @chan: channel, in batch mode
 * @batch: batch; its timeout holds
 * @fetch: ends the wait when it is canceled; may be NULL
 *
 * Return: bytes given, 0 when the time is over or the other file can be read; or
 * what a read() and dmu_waker_begin() return.
 */
ssize_t dmu_batch_give(struct dmu_channel *chan, struct dm_user_batch *batch,
		       struct dmu_fetch *fetch)
{
	long timeout = batch->timeout_ms == U32_MAX ? MAX_SCHEDULE_TIMEOUT :
		       (long)msecs_to_jiffies(batch->timeout_ms);
	bool waited = false;
	ssize_t ret;

	if (!batch->requests_bytes)
		return 0;
	dmu_channel_serve(chan);
	for (;;) {
		/* After a wait it is nearly always. */
		ret = waited || dmu_channel_readable(chan) ?
			dmu_batch_give_now(chan, batch) : -EAGAIN;
		if (ret != -EAGAIN || !timeout)
			break;
		waited = true;
		ret = dmu_wait(chan, &timeout, fetch,
			       batch->flags & DM_USER_BATCH_WAKE ?
			       &batch->wake_fd : NULL);
		if (ret)
			break;
	}
	if (waited || ret == -EFAULT || READ_ONCE(chan->rd.active))
		dmu_wake_next(chan);
	return ret == -EAGAIN ? 0 : ret;
}

/**
 * dmu_ioctl_batch() - DM_USER_IOC_BATCH
 * @chan: channel
 * @arg: struct dm_user_batch
 *
 * Return: 0, or an error if nothing was taken and nothing given.
 */
long dmu_ioctl_batch(struct dmu_channel *chan, void __user *arg)
{
	struct dm_user_batch batch DMU_UNINITIALIZED;
	ssize_t ret;

	ret = dmu_batch_load(chan, &batch, arg);
	if (ret)
		return ret;
	ret = dmu_batch_take(chan, &batch);
	if (!ret && batch.taken_bytes == batch.replies_bytes)
		ret = dmu_batch_give(chan, &batch, NULL);
	if (ret > 0)
		batch.given_bytes = ret;
	/* What was taken must be told; an error will come again. */
	if (ret < 0 && !batch.taken_bytes)
		return ret == -EINTR ? -ERESTARTSYS : ret;
	return dmu_batch_store(&batch, arg);
}

/* The request a copy is for, kept from being completed until dmu_copy_end(). */
static struct dmu_request *dmu_user_copy_begin(struct dmu_channel *chan, u64 seq)
{
	struct dmu_control *ctl = chan->ctl;
	struct dmu_request *req;

	spin_lock(&ctl->lock);
	req = __dmu_request_find(chan, seq);
	if (req)
		req->copies++;
	spin_unlock(&ctl->lock);
	return req;
}

/**
 * dmu_ioctl_copy() - DM_USER_IOC_COPY
 * @chan: channel, with DM_USER_CHANNEL_USER_COPY
 * @arg: struct dm_user_copy
 *
 * Each round finds the request anew: it may be taken away, or answered, while
 * a page of the daemon is brought in.
 *
 * Return: bytes copied, fewer than asked for only after a fault; -ENOENT if the
 * channel has no such request, -EFAULT, -EINVAL.
 */
long dmu_ioctl_copy(struct dmu_channel *chan, void __user *arg)
{
	struct dmu_transfer xfer = {};
	struct dm_user_copy copy;
	unsigned int tries = 0;
	struct iov_iter iter = {};
	bool out;
	long total = 0;

	if (!READ_ONCE(chan->user_copy))
		return -EINVAL;
	if (copy_from_user(&copy, arg, sizeof(copy)))
		return -EFAULT;
	if (copy.flags || !copy.bytes || copy.bytes > INT_MAX ||
	    memchr_inv(copy.reserved, 0, sizeof(copy.reserved)))
		return -EINVAL;
	if (!access_ok(u64_to_user_ptr(copy.buffer), copy.bytes))
		return -EFAULT;

	while (total < copy.bytes) {
		struct dmu_request *req = dmu_user_copy_begin(chan, copy.seq);
		size_t bytes, missing;
		u32 payload;

		if (!req)
			return -ENOENT;
		out = dmu_request_payload_out(req);
		payload = out ? dmu_request_payload_out(req) :
				dmu_request_payload_in(req);
		if (copy.offset >= payload || copy.bytes > payload - copy.offset) {
			dmu_copy_end(chan->ctl, req);
			return -EINVAL;
		}
		if (!xfer.left) {
			iov_iter_ubuf(&iter, out ? READ : WRITE,
				      u64_to_user_ptr(copy.buffer), copy.bytes);
			xfer.left = copy.bytes;
			dmu_transfer_at(&xfer, req, copy.offset);
		}
		bytes = dmu_copy_some(req, &xfer, &iter, out);
		dmu_copy_end(chan->ctl, req);
		total += bytes;
		cond_resched();
		if (bytes) {
			tries = 0;
			continue;
		}
		if (fatal_signal_pending(current))
			return total ? total : -EINTR;
		bytes = min_t(size_t, xfer.left, DMU_COPY_BYTES_MAX);
		missing = out ? fault_in_iov_iter_writeable(&iter, bytes) :
				fault_in_iov_iter_readable(&iter, bytes);
		if (missing == bytes || ++tries > DMU_COPY_TRIES_MAX)
			return total ? total : -EFAULT;
	}
	return total;
}

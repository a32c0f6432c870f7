// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of a request, from the bio to its completion: the queue in order of
 * sequence numbers, delivery, the copies that may run, giving back, and ending
 * exactly once. DOC: Life of a request in dm-user.h has the states.
 *
 * Not here: what a request looks like on the wire (wire.c), how it is transferred
 * (stream.c), and what has waited too long (deadline.c).
 */
#include <linux/list_sort.h>

#include "dm-user.h"

/* The queue is walked so far under the lock to make one message. */
#define DMU_GROUP_MAX	256

static struct hlist_head *dmu_bucket(struct dmu_control *ctl, u64 seq)
{
	return &ctl->delivered[seq & (DMU_HASH_SIZE - 1)];
}

/**
 * dmu_request_modifies() - Does it matter if this is done twice, or late?
 * @req: a request that is not completed
 *
 * Repeating any operation at once does no harm. What does is a dead server's
 * attempt that reaches the storage after the next server's, and after a later
 * write to the same place; so only what changes data counts.
 *
 * Return: true for a write with data, discard, secure erase, write zeroes.
 */
bool dmu_request_modifies(struct dmu_request *req)
{
	return op_is_write(bio_op(dmu_request_bio(req))) && dmu_request_bytes(req);
}

static int dmu_bio_end(struct bio *bio, blk_status_t status)
{
	bio->bi_status = status;
	bio_endio(bio);
	return DM_MAPIO_SUBMITTED;
}

/**
 * dmu_request_map() - Take a bio into the queue
 * @t: target
 * @bio: clone the device-mapper made for it
 *
 * Neither allocates nor sleeps, so REQ_NOWAIT needs no special case.
 *
 * Context: process context.
 * Return: DM_MAPIO_*
 */
int dmu_request_map(struct dmu_target *t, struct bio *bio)
{
	struct dmu_request *req = dm_per_bio_data(bio, sizeof(*req));
	struct dmu_control *ctl = t->ctl;
	int r = DM_MAPIO_SUBMITTED;

	if (unlikely(dmu_wire_type(bio) == DMU_WIRE_NONE))
		return dmu_bio_end(bio, BLK_STS_NOTSUPP);
	/* Nothing to transfer and nothing to flush: there is nothing to ask. */
	if (unlikely(!bio->bi_iter.bi_size && bio_op(bio) != REQ_OP_FLUSH &&
		     !(bio->bi_opf & REQ_PREFLUSH)))
		return dmu_bio_end(bio, BLK_STS_OK);
	if (unlikely(test_bit(DMU_OPT_READ_ONLY, &t->opts.given) &&
		     op_is_write(bio_op(bio))))
		return DM_MAPIO_KILL;

	memset(req, 0, sizeof(*req));
	INIT_HLIST_NODE(&req->hash);
	INIT_LIST_HEAD(&req->riders);
	req->nr = 1;
	req->bytes = bio->bi_iter.bi_size;
	req->state = DMU_QUEUED;
	req->since = jiffies;
	req->arrived = req->since;
	req->bio = bio;
	req->target = t;

	spin_lock(&ctl->lock);
	/*
	 * Only while the suspend lasts may a bio be handed back; when it was
	 * interrupted, and the undo hook has not come yet, queue as usual.
	 */
	if (unlikely(t->push_back && dm_noflush_suspending(t->ti))) {
		/* Not counted: the core may come with the same bio many times. */
		r = DM_MAPIO_REQUEUE;
	} else if (unlikely(ctl->state == DM_USER_STATE_FAILED)) {
		ctl->stats.errors++;
		r = DM_MAPIO_KILL;
	} else {
		req->seq = ctl->next_seq++;
		list_add_tail(&req->list, &ctl->queue);
		ctl->nr_queued++;
		__dmu_deadline_arm(ctl, false);
	}
	spin_unlock(&ctl->lock);

	/* Who is about to wait looks at the queue when it stands in the list. */
	if (r == DM_MAPIO_SUBMITTED && wq_has_sleeper(&ctl->wait))
		wake_up_interruptible(&ctl->wait);
	return r;
}

/* May @next, from behind @req in the queue, be part of its message? */
static bool dmu_joins(struct dmu_request *req, struct dmu_request *next,
		      u32 limit_bytes)
{
	struct bio *a = dmu_request_bio(req), *b = dmu_request_bio(next);

	return !next->sealed && next->nr == 1 && req->nr < DMU_GROUP_MAX &&
	       next->bytes && a->bi_opf == b->bi_opf &&
	       (bio_op(a) == REQ_OP_READ || bio_op(a) == REQ_OP_WRITE) &&
	       !(a->bi_opf & (REQ_PREFLUSH | REQ_FUA | REQ_NOMERGE)) &&
	       b->bi_iter.bi_sector ==
	       a->bi_iter.bi_sector + (req->bytes >> SECTOR_SHIFT) &&
	       req->bytes < limit_bytes && next->bytes <= limit_bytes - req->bytes;
}

/* Takes what is adjacent from the head of the queue into the message of @req. */
static void __dmu_coalesce(struct dmu_channel *chan, struct dmu_request *req)
{
	struct dmu_control *ctl = chan->ctl;
	u32 limit_bytes = chan->coalesce_bytes;
	struct dmu_request *next;

	if (!limit_bytes || req->sealed)
		return;
	if (ctl->active && ctl->active->opts.max_io_sectors)
		limit_bytes = min_t(u64, limit_bytes,
				    (u64)ctl->active->opts.max_io_sectors << SECTOR_SHIFT);
	while (!list_empty(&ctl->queue)) {
		next = list_first_entry(&ctl->queue, struct dmu_request, list);
		if (!dmu_joins(req, next, limit_bytes))
			break;
		list_move_tail(&next->list, &req->riders);
		req->nr++;
		req->bytes += next->bytes;
		ctl->stats.coalesced++;
	}
}

/**
 * __dmu_request_take() - Take the oldest request from the queue
 * @chan: channel that is to get it
 *
 * The caller sees to its deadline.
 *
 * Context: &dmu_control.lock held.
 * Return: the request, now READING; NULL if none is queued.
 */
struct dmu_request *__dmu_request_take(struct dmu_channel *chan)
{
	struct dmu_control *ctl = chan->ctl;
	struct dmu_request *req;

	lockdep_assert_held(&ctl->lock);

	req = list_first_entry_or_null(&ctl->queue, struct dmu_request, list);
	if (!req)
		return NULL;
	list_del_init(&req->list);
	__dmu_coalesce(chan, req);
	ctl->nr_queued -= req->nr;
	ctl->nr_delivered += req->nr;
	ctl->progress = jiffies;
	req->state = DMU_READING;
	req->since = jiffies;
	req->chan = chan;
	return req;
}

/**
 * __dmu_request_pick() - Begin to deliver the oldest queued request
 * @chan: channel that is to get it; it has none in its reading side
 *
 * Context: &dmu_control.lock held.
 * Return: the request, now READING; NULL if none is queued.
 */
struct dmu_request *__dmu_request_pick(struct dmu_channel *chan)
{
	struct dmu_request *req = __dmu_request_take(chan);

	if (!req)
		return NULL;
	chan->rd.req = req;
	WRITE_ONCE(chan->rd.active, true);
	__dmu_deadline_arm(chan->ctl, false);
	return req;
}

/**
 * __dmu_request_unpick() - Undo __dmu_request_pick()
 * @chan: channel that has not passed on one byte of the message
 *
 * Context: &dmu_control.lock held.
 */
void __dmu_request_unpick(struct dmu_channel *chan)
{
	struct dmu_control *ctl = chan->ctl;
	struct dmu_request *req = chan->rd.req, *next;

	lockdep_assert_held(&ctl->lock);

	WRITE_ONCE(chan->rd.active, false);
	chan->rd.req = NULL;
	if (!req)
		return;
	req->state = DMU_QUEUED;
	req->chan = NULL;
	/* A channel that closed meanwhile may have given older ones back. */
	list_for_each_entry(next, &ctl->queue, list)
		if (next->seq > req->seq)
			break;
	list_add_tail(&req->list, &next->list);
	ctl->nr_queued += req->nr;
	ctl->nr_delivered -= req->nr;
}

/**
 * __dmu_request_delivered() - The whole message has reached the server
 * @req: request in READING
 *
 * Context: &dmu_control.lock held.
 */
void __dmu_request_delivered(struct dmu_request *req)
{
	struct dmu_channel *chan = req->chan;

	lockdep_assert_held(&chan->ctl->lock);

	req->state = DMU_DELIVERED;
	req->since = jiffies;
	req->touched = true;
	req->sealed = true;
	list_add_tail(&req->list, &chan->delivered);
	hlist_add_head(&req->hash, dmu_bucket(chan->ctl, req->seq));
}

/**
 * __dmu_request_find() - The request a reply is for
 * @chan: channel the reply came by
 * @seq: sequence number in the reply
 *
 * Context: &dmu_control.lock held.
 * Return: a request DELIVERED to @chan, or NULL.
 */
struct dmu_request *__dmu_request_find(struct dmu_channel *chan, u64 seq)
{
	struct dmu_request *req;

	lockdep_assert_held(&chan->ctl->lock);

	hlist_for_each_entry(req, dmu_bucket(chan->ctl, seq), hash)
		if (req->seq == seq)
			return req->chan == chan && req->state == DMU_DELIVERED ?
				req : NULL;
	return NULL;
}

/* Takes a request from whatever list it is on. */
static void __dmu_detach(struct dmu_control *ctl, struct dmu_request *req)
{
	struct dmu_channel *chan = req->chan;

	lockdep_assert_held(&ctl->lock);

	switch (req->state) {
	case DMU_QUEUED:
		ctl->nr_queued -= req->nr;
		list_del_init(&req->list);
		break;
	case DMU_HELD:
		ctl->nr_held -= req->nr;
		list_del_init(&req->list);
		break;
	case DMU_READING:
		/* The transfer stays active: its rest must be refused. */
		ctl->nr_delivered -= req->nr;
		list_del_init(&req->list);
		chan->rd.req = NULL;
		break;
	case DMU_WRITING:
		chan->wr.req = NULL;
		fallthrough;
	case DMU_DELIVERED:
		ctl->nr_delivered -= req->nr;
		hlist_del_init(&req->hash);
		list_del_init(&req->list);
		break;
	case DMU_DONE:
		break;
	}
	req->chan = NULL;
}

/**
 * __dmu_finish() - Decide a request, wherever it is
 * @ctl: control
 * @req: a request that is not DONE
 * @status: result for the bio
 * @done: gets the request, for dmu_complete_all() once the lock is dropped;
 *	not if a copy is running, whose end then completes the request
 *
 * Context: &dmu_control.lock held.
 */
void __dmu_finish(struct dmu_control *ctl, struct dmu_request *req,
		  blk_status_t status, struct list_head *done)
{
	__dmu_detach(ctl, req);
	req->state = DMU_DONE;
	req->status = status;
	if (status == BLK_STS_DM_REQUEUE)
		ctl->stats.pushed_back += req->nr;
	else if (status)
		ctl->stats.errors += req->nr;
	if (!req->copies)
		list_add_tail(&req->list, done);
}

/**
 * __dmu_finish_waiting() - Decide all requests no server has
 * @ctl: control
 * @status: result for the bios
 * @done: as in __dmu_finish()
 *
 * Context: &dmu_control.lock held.
 */
void __dmu_finish_waiting(struct dmu_control *ctl, blk_status_t status,
			  struct list_head *done)
{
	struct dmu_request *req, *next;

	list_for_each_entry_safe(req, next, &ctl->queue, list)
		__dmu_finish(ctl, req, status, done);
	list_for_each_entry_safe(req, next, &ctl->held, list)
		__dmu_finish(ctl, req, status, done);
}

/**
 * __dmu_finish_all() - Decide all requests
 * @ctl: control
 * @status: result for the bios
 * @done: as in __dmu_finish()
 *
 * Context: &dmu_control.lock held.
 */
void __dmu_finish_all(struct dmu_control *ctl, blk_status_t status,
		      struct list_head *done)
{
	struct dmu_request *req, *next;
	struct dmu_channel *chan;

	__dmu_finish_waiting(ctl, status, done);
	list_for_each_entry(chan, &ctl->channels, node) {
		list_for_each_entry_safe(req, next, &chan->delivered, list)
			__dmu_finish(ctl, req, status, done);
		if (chan->rd.req)
			__dmu_finish(ctl, chan->rd.req, status, done);
	}
}

static void dmu_request_end_one(struct dmu_request *req, blk_status_t status)
{
	if (req->remap)
		dmu_remap_send(req);
	else
		dmu_bio_end(dmu_request_bio(req), status);
}

/*
 * Ends a decided request and its riders, or sends them to where they are; the
 * memory of all of them goes.
 */
static void dmu_request_end(struct dmu_request *req)
{
	blk_status_t status = req->status;
	struct dmu_request *rider, *next;
	LIST_HEAD(riders);

	if (likely(list_empty(&req->riders))) {
		dmu_request_end_one(req, status);
		return;
	}
	list_splice_init(&req->riders, &riders);
	dmu_request_end_one(req, status);
	list_for_each_entry_safe(rider, next, &riders, list) {
		list_del(&rider->list);
		dmu_request_end_one(rider, status);
	}
}

/**
 * dmu_complete_all() - End the bios of decided requests
 * @done: requests in DONE; empty afterwards
 *
 * Context: no lock held; an ended bio may bring the next one at once.
 */
void dmu_complete_all(struct list_head *done)
{
	struct dmu_request *req, *next;

	list_for_each_entry_safe(req, next, done, list) {
		list_del(&req->list);
		dmu_request_end(req);
	}
}

/* On to the bio of the next rider. */
static void dmu_transfer_next(struct dmu_transfer *xfer, struct dmu_request *req)
{
	if (xfer->part == req)
		xfer->part = list_first_entry(&req->riders, struct dmu_request, list);
	else
		xfer->part = list_next_entry(xfer->part, list);
	xfer->iter = dmu_request_bio(xfer->part)->bi_iter;
}

/**
 * dmu_transfer_at() - Set out for a place in a request's data
 * @xfer: side of a channel; only where it stands is changed
 * @req: request, kept or under the lock
 * @offset_bytes: less than its length, or 0
 */
void dmu_transfer_at(struct dmu_transfer *xfer, struct dmu_request *req,
		     u32 offset_bytes)
{
	xfer->part = req;
	xfer->iter = dmu_request_bio(req)->bi_iter;
	while (offset_bytes && offset_bytes >= xfer->iter.bi_size) {
		offset_bytes -= xfer->iter.bi_size;
		dmu_transfer_next(xfer, req);
	}
	if (offset_bytes)
		bio_advance_iter(dmu_request_bio(xfer->part), &xfer->iter, offset_bytes);
}

/**
 * dmu_transfer_advance() - Some bytes of one segment have passed
 * @xfer: side of a channel
 * @req: its request, kept
 * @bio: the bio it stands in
 * @bytes: how many, no more than were left in the segment
 *
 * Return: the bio it stands in now.
 */
struct bio *dmu_transfer_advance(struct dmu_transfer *xfer,
				 struct dmu_request *req, struct bio *bio,
				 u32 bytes)
{
	bio_advance_iter_single(bio, &xfer->iter, bytes);
	xfer->left -= bytes;
	if (xfer->iter.bi_size || !xfer->left)
		return bio;
	dmu_transfer_next(xfer, req);
	return dmu_request_bio(xfer->part);
}

/**
 * dmu_copy_begin() - Keep the request of a transfer while its pages are copied
 * @ctl: control
 * @xfer: one side of a channel, whose mutex is held
 *
 * Context: process context.
 * Return: the request, for dmu_copy_end(); NULL if it was taken away.
 */
struct dmu_request *dmu_copy_begin(struct dmu_control *ctl,
				   struct dmu_transfer *xfer)
{
	struct dmu_request *req;

	spin_lock(&ctl->lock);
	req = xfer->req;
	if (req) {
		req->copies++;
		req->touched = true;
	}
	spin_unlock(&ctl->lock);
	return req;
}

/**
 * dmu_copy_end() - Counterpart of dmu_copy_begin()
 * @ctl: control
 * @req: not to be touched afterwards
 *
 * Completes the request if somebody decided it in the meantime.
 *
 * Context: no lock of dm-user held but the mutex of a direction.
 */
void dmu_copy_end(struct dmu_control *ctl, struct dmu_request *req)
{
	bool complete;

	spin_lock(&ctl->lock);
	complete = !--req->copies && req->state == DMU_DONE;
	spin_unlock(&ctl->lock);
	if (complete)
		dmu_request_end(req);
}

static int dmu_seq_cmp(void *priv, const struct list_head *a,
		       const struct list_head *b)
{
	return list_entry(a, struct dmu_request, list)->seq >
	       list_entry(b, struct dmu_request, list)->seq;
}

/* Puts requests into the queue, each where its sequence number belongs. */
static void __dmu_queue_merge(struct dmu_control *ctl, struct list_head *given)
{
	struct list_head *at = ctl->queue.next;
	struct dmu_request *req, *next;

	list_sort(NULL, given, dmu_seq_cmp);
	list_for_each_entry_safe(req, next, given, list) {
		while (at != &ctl->queue &&
		       list_entry(at, struct dmu_request, list)->seq < req->seq)
			at = at->next;
		req->state = DMU_QUEUED;
		req->since = jiffies;
		req->touched = false;
		list_move_tail(&req->list, at);
		ctl->nr_queued += req->nr;
	}
}

/**
 * __dmu_take_back() - Undo __dmu_request_delivered()
 * @chan: channel that has not passed on one byte of the message
 * @req: a request DELIVERED to it
 *
 * Context: &dmu_control.lock held.
 */
void __dmu_take_back(struct dmu_channel *chan, struct dmu_request *req)
{
	LIST_HEAD(given);

	lockdep_assert_held(&chan->ctl->lock);

	__dmu_detach(chan->ctl, req);
	list_add_tail(&req->list, &given);
	__dmu_queue_merge(chan->ctl, &given);
}

static enum dmu_unfenced __dmu_policy(struct dmu_channel *chan,
				      struct dmu_request *req)
{
	if (chan->fenced || !req->touched || !dmu_request_modifies(req) ||
	    !chan->ctl->active)
		return DMU_UNFENCED_REQUEUE;
	return chan->ctl->active->opts.unfenced;
}

/**
 * __dmu_give_back() - Take from a closing channel all it has not answered
 * @chan: channel with no system call in progress, so with no copy running
 * @done: gets what the policy fails, for dmu_complete_all()
 *
 * Context: &dmu_control.lock held.
 * Return: how many requests went back to the queue.
 */
unsigned int __dmu_give_back(struct dmu_channel *chan, struct list_head *done)
{
	struct dmu_control *ctl = chan->ctl;
	struct dmu_request *req, *next;
	unsigned int given_back = 0;
	LIST_HEAD(given);

	lockdep_assert_held(&ctl->lock);

	/* What was half delivered goes the way of the rest. */
	if (chan->rd.req)
		list_add_tail(&chan->rd.req->list, &chan->delivered);
	list_for_each_entry_safe(req, next, &chan->delivered, list) {
		switch (__dmu_policy(chan, req)) {
		case DMU_UNFENCED_REQUEUE:
			__dmu_detach(ctl, req);
			list_add_tail(&req->list, &given);
			given_back += req->nr;
			break;
		case DMU_UNFENCED_HOLD:
			__dmu_detach(ctl, req);
			req->state = DMU_HELD;
			req->since = jiffies;
			list_add_tail(&req->list, &ctl->held);
			ctl->nr_held += req->nr;
			break;
		default:
			__dmu_finish(ctl, req, BLK_STS_IOERR, done);
			break;
		}
	}
	__dmu_queue_merge(ctl, &given);
	ctl->stats.given_back += given_back;
	return given_back;
}

/**
 * __dmu_requeue_held() - Let held writes be delivered again
 * @ctl: control
 *
 * Context: &dmu_control.lock held.
 * Return: how many went back to the queue.
 */
unsigned int __dmu_requeue_held(struct dmu_control *ctl)
{
	unsigned int n = ctl->nr_held;
	LIST_HEAD(given);

	lockdep_assert_held(&ctl->lock);

	list_splice_init(&ctl->held, &given);
	ctl->nr_held = 0;
	__dmu_queue_merge(ctl, &given);
	ctl->stats.given_back += n;
	return n;
}

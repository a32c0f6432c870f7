// SPDX-License-Identifier: GPL-2.0-only
/*
 * Remap: a request that is answered with the place where its data is. The check
 * of the place, the way of the bio to the device, and the worker for those that
 * have to wait there. DOC: Remap in redirect.h has the rules.
 */
#include <linux/blkdev.h>

#include "dm-user.h"

/* Sends what waits, and sleeps for it if that is what it takes. */
static void dmu_remap_late(struct work_struct *work)
{
	struct dmu_redirect *red = container_of(work, struct dmu_redirect, late_work);
	struct bio_list late;
	struct bio *bio;

	spin_lock_irq(&red->late_lock);
	late = red->late;
	bio_list_init(&red->late);
	spin_unlock_irq(&red->late_lock);
	while ((bio = bio_list_pop(&late)))
		dm_submit_bio_remap(bio, NULL);
}

/**
 * dmu_remap_init() - Prepare the worker of a target
 * @red: redirect that is being opened
 */
void dmu_remap_init(struct dmu_redirect *red)
{
	spin_lock_init(&red->late_lock);
	bio_list_init(&red->late);
	INIT_WORK(&red->late_work, dmu_remap_late);
}

/**
 * dmu_remap_exit() - Counterpart of dmu_remap_init()
 * @red: redirect of a target that has no bio any more
 *
 * The worker may not have returned from what it sent last.
 */
void dmu_remap_exit(struct dmu_redirect *red)
{
	cancel_work_sync(&red->late_work);
}

static void dmu_remap_defer(struct dmu_redirect *red, struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&red->late_lock, flags);
	bio_list_add(&red->late, bio);
	spin_unlock_irqrestore(&red->late_lock, flags);
	queue_work(dmu_io_wq, &red->late_work);
}

/* Is the place one where all of the request can be? BLK_STS_OK if so. */
static blk_status_t dmu_remap_check(const struct dmu_redirect *red,
				    struct dmu_request *req,
				    const struct dm_user_message *msg)
{
	enum req_op op = bio_op(dmu_request_bio(req));
	u64 sectors = req->bytes >> SECTOR_SHIFT, end;
	struct block_device *bdev;

	if (!red || msg->flags >= red->nr_devices || msg->len || !sectors)
		return BLK_STS_IOERR;
	bdev = red->devices[msg->flags]->bdev;
	if (op_is_write(op) && !red->writable)
		return BLK_STS_IOERR;
	if ((msg->sector & (red->block_sectors - 1)) ||
	    check_add_overflow(msg->sector, sectors, &end) ||
	    end > bdev_nr_sectors(bdev))
		return BLK_STS_IOERR;
	return dmu_device_takes(bdev, op) ? BLK_STS_OK : BLK_STS_NOTSUPP;
}

/**
 * __dmu_remap() - Decide a request with DM_USER_RESP_REMAP
 * @ctl: control
 * @req: a request that is DELIVERED
 * @msg: the reply
 * @done: as in __dmu_finish()
 *
 * Context: &dmu_control.lock held.
 * Return: false if there is no such place; the request fails.
 */
bool __dmu_remap(struct dmu_control *ctl, struct dmu_request *req,
		 const struct dm_user_message *msg, struct list_head *done)
{
	blk_status_t status = dmu_remap_check(req->target->redirect, req, msg);
	struct dmu_request *rider;
	u64 at = msg->sector;

	lockdep_assert_held(&ctl->lock);

	if (!status) {
		req->remap = true;
		req->device = msg->flags;
		req->at = at;
		at += bio_sectors(dmu_request_bio(req));
		list_for_each_entry(rider, &req->riders, list) {
			rider->remap = true;
			rider->device = msg->flags;
			rider->at = at;
			at += bio_sectors(dmu_request_bio(rider));
		}
		ctl->stats.remapped += req->nr;
	}
	__dmu_finish(ctl, req, status, done);
	return status != BLK_STS_IOERR;
}

/*
 * May the daemon's thread send it? See DOC: Remap. A write of somebody who waits
 * for it has both flags, and write-back throttling lets it pass.
 */
static bool dmu_remap_at_once(struct block_device *bdev, const struct bio *bio)
{
	const blk_opf_t waits = REQ_SYNC | REQ_IDLE;

	if (!bdev_nowait(bdev))
		return false;
	return !op_is_write(bio_op(bio)) || (bio->bi_opf & waits) == waits;
}

/**
 * dmu_remap_send() - Send the bio of one request to its place
 * @req: leader or rider, DONE and remapped; its memory may be gone afterwards
 *
 * Context: process context, no lock held.
 */
void dmu_remap_send(struct dmu_request *req)
{
	struct dmu_redirect *red = req->target->redirect;
	struct block_device *bdev = red->devices[req->device]->bdev;
	struct bio *bio = dmu_request_bio(req);

	req->epoch = dmu_redirect_count(red, req->device, bio) + 1;
	bio_set_dev(bio, bdev);
	bio->bi_iter.bi_sector = req->at;
	/* Both are about the submitter, who has gone on: see DOC: Remap. */
	bio->bi_opf &= ~(REQ_NOWAIT | REQ_POLLED);
	if (!dmu_remap_at_once(bdev, bio)) {
		dmu_remap_defer(red, bio);
		return;
	}
	req->sent = bio->bi_iter;
	req->epoch |= DMU_EPOCH_AGAIN;
	bio->bi_opf |= REQ_NOWAIT;
	dm_submit_bio_remap(bio, NULL);
}

/**
 * dmu_remap_again() - A bio could not be sent without sleeping
 * @red: redirect of its target
 * @bio: bio that has ended for the REQ_NOWAIT of dmu_remap_send(); the worker
 *	sends it as it was, but without that
 *
 * Context: any.
 */
void dmu_remap_again(struct dmu_redirect *red, struct bio *bio)
{
	struct dmu_request *req = dm_per_bio_data(bio, sizeof(*req));

	req->epoch &= ~DMU_EPOCH_AGAIN;
	bio->bi_opf &= ~REQ_NOWAIT;
	bio->bi_status = BLK_STS_OK;
	bio->bi_iter = req->sent;
	/* Which also takes back that a partition was resolved. */
	bio_set_dev(bio, red->devices[req->device]->bdev);
	dmu_remap_defer(red, bio);
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Redirect: the backing devices of a table line, and the way of a bio that is
 * in an extent: lookup, remapping, counting, flushes. DOC: Redirect in
 * redirect.h has the rules; how the extents come and go is in extents.c.
 */
#include <linux/slab.h>

#include "dm-user.h"

static int dmu_open_devices(struct dmu_target *t, struct dmu_redirect *red)
{
	struct dm_target *ti = t->ti;
	blk_mode_t mode = dm_table_get_mode(ti->table);
	unsigned int i;
	int r;

	if (test_bit(DMU_OPT_READ_ONLY, &t->opts.given))
		mode &= ~BLK_OPEN_WRITE;
	red->writable = !!(mode & BLK_OPEN_WRITE);
	for (i = 0; i < t->opts.nr_devices; i++) {
		struct block_device *bdev;

		r = dm_get_device(ti, t->opts.device_names[i], mode,
				  &red->devices[i]);
		if (r) {
			ti->error = "Cannot open a redirect device";
			return r;
		}
		t->opts.devices[i] = red->devices[i];
		red->nr_devices++;
		bdev = red->devices[i]->bdev;
		/* The core of older kernels (6.1) does not look. */
		if (bdev->bd_disk == dm_disk(dm_table_get_md(ti->table))) {
			ti->error = "A redirect device must not be the device itself";
			return -EINVAL;
		}
		if (bdev_is_zoned(bdev)) {
			ti->error = "A redirect device must not be zoned";
			return -EINVAL;
		}
		if (bdev_logical_block_size(bdev) <= t->opts.logical_block_bytes)
			continue;
		if (test_bit(DMU_OPT_LOGICAL_BLOCK, &t->opts.given)) {
			ti->error = "A redirect device has larger blocks than logical_block";
			return -EINVAL;
		}
		t->opts.logical_block_bytes = bdev_logical_block_size(bdev);
	}
	return 0;
}

/**
 * dmu_redirect_open() - Open what the table line names
 * @t: target under construction, with its options
 *
 * Without the feature nothing happens, and @t->redirect stays NULL. Raises the
 * logical block to the largest of the devices unless the table gives it.
 *
 * Context: constructor.
 * Return: 0 or a negative errno with ti->error set.
 */
int dmu_redirect_open(struct dmu_target *t)
{
	struct dmu_redirect *red;
	int r;

	if (!test_bit(DMU_OPT_REDIRECT, &t->opts.given))
		return 0;
	if (t->ti->len >> DMU_EXTENT_SECTORS_BITS) {
		t->ti->error = "Target is too long for redirect";
		return -EINVAL;
	}
	red = kzalloc(sizeof(*red), GFP_KERNEL);
	if (red)
		red->counts = alloc_percpu(struct dmu_redirect_counts);
	if (!red || !red->counts) {
		kfree(red);
		t->ti->error = "Cannot allocate redirect";
		return -ENOMEM;
	}
	kref_init(&red->ref);
	mutex_init(&red->mutex);
	init_waitqueue_head(&red->wait);
	dmu_remap_init(red);
	red->max_extents = t->opts.max_extents;
	red->begin = t->ti->begin;
	red->sectors = t->ti->len;
	red->no_flush = test_bit(DMU_OPT_NO_FLUSH, &t->opts.given);
	t->redirect = red;

	r = dmu_open_devices(t, red);
	red->block_sectors = t->opts.logical_block_bytes >> SECTOR_SHIFT;
	if (r)
		dmu_redirect_close(t);
	return r;
}

static void dmu_redirect_release(struct kref *ref)
{
	struct dmu_redirect *red = container_of(ref, struct dmu_redirect, ref);

	/* The target is gone, and with it all who could be reading. */
	kvfree(rcu_dereference_protected(red->map, true));
	kvfree(red->retired);
	free_percpu(red->counts);
	mutex_destroy(&red->mutex);
	kfree(red);
}

/**
 * dmu_redirect_put() - Drop a reference
 * @red: not to be touched afterwards
 */
void dmu_redirect_put(struct dmu_redirect *red)
{
	kref_put(&red->ref, dmu_redirect_release);
}

/**
 * dmu_redirect_close() - Counterpart of dmu_redirect_open()
 * @t: target that no bio and no ioctl can reach any more
 */
void dmu_redirect_close(struct dmu_target *t)
{
	struct dmu_redirect *red = t->redirect;
	unsigned int i;

	if (!red)
		return;
	dmu_remap_exit(red);
	for (i = 0; i < red->nr_devices; i++)
		dm_put_device(t->ti, red->devices[i]);
	t->redirect = NULL;
	dmu_redirect_put(red);
}

/**
 * dmu_device_takes() - Does a backing device know an operation?
 * @bdev: device
 * @op: operation of a bio that is not empty
 *
 * Return: true if it may be sent there.
 */
bool dmu_device_takes(struct block_device *bdev, enum req_op op)
{
	switch (op) {
	case REQ_OP_READ:
	case REQ_OP_WRITE:
		return true;
	case REQ_OP_DISCARD:
		return bdev_max_discard_sectors(bdev);
	case REQ_OP_SECURE_ERASE:
		return bdev_max_secure_erase_sectors(bdev);
	case REQ_OP_WRITE_ZEROES:
		return bdev_write_zeroes_sectors(bdev);
	default:
		return false;
	}
}

/*
 * May this operation go to the device of an extent? What changes data only if
 * the extent says so; what the device does not know is the daemon's as well.
 */
static bool dmu_applies(const struct dmu_redirect *red,
			const struct dmu_extent *e, enum req_op op)
{
	return (e->writable || op == REQ_OP_READ) &&
	       dmu_device_takes(red->devices[e->device]->bdev, op);
}

/*
 * Finds what is to become of the first sectors of a bio: true with the extent
 * they are in, or false if they are the daemon's. @sectors is set to how many
 * they are.
 */
static bool dmu_lookup(const struct dmu_redirect *red,
		       const struct dmu_extent_map *map, struct bio *bio,
		       struct dmu_extent *found, unsigned int *sectors)
{
	enum req_op op = bio_op(bio);
	u64 first = bio->bi_iter.bi_sector, end = bio_end_sector(bio);
	unsigned int i;

	*sectors = bio_sectors(bio);
	if (!map || (op != REQ_OP_READ && !map->nr_writable))
		return false;
	for (i = dmu_extent_find(map, first); i < map->nr; i++) {
		const struct dmu_extent *e = &map->extents[i];

		if (e->first >= end)
			break;
		if (!dmu_applies(red, e, op))
			continue;
		if (e->first > first) {
			*sectors = e->first - first;
			return false;
		}
		*sectors = min(end, dmu_extent_end(e)) - first;
		*found = *e;
		return true;
	}
	return false;
}

/*
 * The core sends a flush once for the daemon, unless it wants none, and once
 * for each device.
 */
static int dmu_redirect_flush(struct dmu_redirect *red, struct bio *bio)
{
	unsigned int i = dm_bio_get_target_bio_nr(bio);

	if (!red->no_flush && !i--)
		return DMU_MAPIO_DAEMON;
	/* A write that has ended before the flush began has left its mark. */
	if (!READ_ONCE(red->written[i])) {
		bio->bi_status = BLK_STS_OK;
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	}
	bio_set_dev(bio, red->devices[i]->bdev);
	return DM_MAPIO_REMAPPED;
}

/* A bio is about to go to a device: a write that ends has left its mark. */
static void dmu_mark_written(struct dmu_redirect *red, unsigned int device,
			     struct bio *bio)
{
	if (op_is_write(bio_op(bio)) && !READ_ONCE(red->written[device]))
		WRITE_ONCE(red->written[device], true);
}

/**
 * dmu_redirect_count() - A bio of the daemon's is about to go to a device
 * @red: redirect of its target
 * @device: which
 * @bio: bio that is not counted
 *
 * Return: the epoch in which it counts from now on.
 */
unsigned int dmu_redirect_count(struct dmu_redirect *red, unsigned int device,
				struct bio *bio)
{
	unsigned int epoch;

	if (!READ_ONCE(red->remapped))
		WRITE_ONCE(red->remapped, true);
	rcu_read_lock();
	/* As in dmu_redirect_map(): pairs with the release in dmu_turn_epoch(). */
	epoch = smp_load_acquire(&red->epoch);
	this_cpu_inc(red->counts->in_flight[epoch]);
	rcu_read_unlock();
	dmu_mark_written(red, device, bio);
	return epoch;
}

/**
 * dmu_redirect_map() - Send a bio to a backing device if that is where it belongs
 * @t: target with redirect
 * @bio: clone the device-mapper made for it; may be cut short
 *
 * Takes no lock, allocates nothing and does not sleep: REQ_NOWAIT goes on to
 * the device.
 *
 * Context: process context.
 * Return: DM_MAPIO_*, or DMU_MAPIO_DAEMON if what is left of the bio is for
 * the daemon.
 */
int dmu_redirect_map(struct dmu_target *t, struct bio *bio)
{
	struct dmu_request *req = dm_per_bio_data(bio, sizeof(*req));
	struct dmu_redirect *red = t->redirect;
	struct dmu_extent e;
	unsigned int epoch, sectors;
	bool hit;

	/* Whatever becomes of the bio, ->end_io will ask. */
	req->epoch = DMU_NOT_REDIRECTED;
	if (!bio->bi_iter.bi_size) {
		if (bio->bi_opf & REQ_PREFLUSH)
			return dmu_redirect_flush(red, bio);
		return DMU_MAPIO_DAEMON;
	}

	if (!rcu_access_pointer(red->map))
		return DMU_MAPIO_DAEMON;
	rcu_read_lock();
	/* Pairs with the release in dmu_turn_epoch(). */
	epoch = smp_load_acquire(&red->epoch);
	hit = dmu_lookup(red, rcu_dereference(red->map), bio, &e, &sectors);
	if (hit)
		this_cpu_inc(red->counts->in_flight[epoch]);
	rcu_read_unlock();

	if (sectors < bio_sectors(bio))
		dm_accept_partial_bio(bio, sectors);
	if (!hit)
		return DMU_MAPIO_DAEMON;

	req->epoch = epoch + 1;
	this_cpu_inc(red->counts->redirected);
	dmu_mark_written(red, e.device, bio);
	bio_set_dev(bio, red->devices[e.device]->bdev);
	bio->bi_iter.bi_sector += e.at - e.first;
	return DM_MAPIO_REMAPPED;
}

/**
 * dmu_redirect_end_io() - A bio of the target has ended
 * @ti: target
 * @bio: redirected or not
 * @error: result; stays as it is: an error is that of this bio alone
 *
 * Context: any.
 * Return: DM_ENDIO_DONE; DM_ENDIO_INCOMPLETE if the bio is on its way again.
 */
int dmu_redirect_end_io(struct dm_target *ti, struct bio *bio,
			blk_status_t *error)
{
	struct dmu_redirect *red = ((struct dmu_target *)ti->private)->redirect;
	struct dmu_request *req;

	if (!red)
		return DM_ENDIO_DONE;
	req = dm_per_bio_data(bio, sizeof(*req));
	if (req->epoch == DMU_NOT_REDIRECTED)
		return DM_ENDIO_DONE;
	if (unlikely(*error == BLK_STS_AGAIN && (req->epoch & DMU_EPOCH_AGAIN))) {
		dmu_remap_again(red, bio);
		return DM_ENDIO_INCOMPLETE;
	}
	/*
	 * The grace period between setting @draining and looking at the counts
	 * makes sure that this is either counted there or seen here.
	 */
	rcu_read_lock();
	this_cpu_dec(red->counts->in_flight[(req->epoch & DMU_EPOCH_MASK) - 1]);
	if (unlikely(READ_ONCE(red->draining)))
		wake_up(&red->wait);
	rcu_read_unlock();
	return DM_ENDIO_DONE;
}

/**
 * dmu_redirect_iterate() - Tell the core of the devices
 * @t: target
 * @fn: to be called for each
 * @data: for @fn
 *
 * Any part of a device may be used, so all of it is told, but for what is left
 * of a last block.
 *
 * Return: the first result of @fn that is not 0; 0 without devices.
 */
int dmu_redirect_iterate(struct dmu_target *t, iterate_devices_callout_fn fn,
			 void *data)
{
	struct dmu_redirect *red = t->redirect;
	unsigned int i;
	int r = 0;

	for (i = 0; red && i < red->nr_devices && !r; i++) {
		u64 sectors = bdev_nr_sectors(red->devices[i]->bdev);

		r = fn(t->ti, red->devices[i], 0,
		       round_down(sectors, red->block_sectors), data);
	}
	return r;
}

static u64 dmu_count_redirected(struct dmu_redirect *red)
{
	u64 redirected = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		redirected += per_cpu_ptr(red->counts, cpu)->redirected;
	return redirected;
}

/**
 * dmu_redirect_fold() - Keep the counters of a target with its name
 * @t: target that gets no bios any more
 *
 * Context: &dmu_control.lock held.
 */
void dmu_redirect_fold(struct dmu_target *t)
{
	int cpu;

	lockdep_assert_held(&t->ctl->lock);

	if (!t->redirect)
		return;
	t->ctl->stats.redirected += dmu_count_redirected(t->redirect);
	for_each_possible_cpu(cpu)
		per_cpu_ptr(t->redirect->counts, cpu)->redirected = 0;
}

/**
 * dmu_redirect_status() - Figures for the status line
 * @t: target
 * @redirected: bios redirected since the name exists
 * @extents: how many this target has
 *
 * Context: &dmu_control.lock held.
 */
void dmu_redirect_status(struct dmu_target *t, u64 *redirected,
			 unsigned int *extents)
{
	const struct dmu_extent_map *map;

	lockdep_assert_held(&t->ctl->lock);

	*redirected = t->ctl->stats.redirected;
	*extents = 0;
	if (!t->redirect)
		return;
	*redirected += dmu_count_redirected(t->redirect);
	rcu_read_lock();
	map = rcu_dereference(t->redirect->map);
	*extents = map ? map->nr : 0;
	rcu_read_unlock();
}

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Redirect: bios that go straight to a backing device, without the daemon.
 */
#ifndef DM_USER_REDIRECT_H
#define DM_USER_REDIRECT_H

#include <linux/bio.h>
#include <linux/device-mapper.h>
#include <linux/kref.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "uapi/dm-user.h"

struct dmu_channel;
struct dmu_control;
struct dmu_request;
struct dmu_target;

/**
 * DOC: Redirect
 *
 * A table line may name backing devices and how many extents there may be. The
 * daemon then says of ranges of the target on which device they are, and where;
 * a bio in such a range is remapped in map(), and nobody is woken.
 *
 * The extents are an array in ascending order, which is never changed once it
 * is published: whoever changes something builds another (&dmu_redirect.mutex),
 * publishes it, and frees the old one after a grace period. map() looks a bio up
 * under RCU: no lock, no allocation. A bio that only begins in an extent, or
 * before one, is cut there; the core comes again with the rest.
 *
 * A revoke must not return before the bios that were redirected by what it has
 * taken away have ended, and it must not wait for those that come meanwhile.
 * Each redirected bio is therefore counted in one of two epochs, from map() to
 * ->end_io. map() reads the epoch, then the array. A revoke publishes the new
 * array, then turns the epoch; so whoever has read the new epoch reads the new
 * array as well. After a grace period all others have been counted, in the old
 * epoch, to which none is added any more: it waits until that is empty. The
 * epoch is turned only when the other one is empty, so that what a revoke left
 * unfinished (a timeout, a signal) is waited for by the next.
 *
 * Extents belong to the target and go with its table: another table, which may
 * have other devices, starts with none. They do not belong to the channel: with
 * the daemon gone, what was redirected still is.
 */

/**
 * DOC: Remap
 *
 * The other way to a backing device: the daemon sees each request, and answers
 * with the place where its data is. The bio then goes there from the daemon's own
 * system call, and is counted in an epoch as a redirected one.
 *
 * The daemon has one thread for many devices, and must not sleep for what one of
 * them is short of. So a bio is sent with REQ_NOWAIT first; if it comes back for
 * that, and where it would not be enough, a worker sends it, which may sleep:
 *
 * - the device does not know REQ_NOWAIT;
 * - a write that the block layer may hold up before it looks at REQ_NOWAIT,
 *   because it belongs to no one who waits for it (write-back throttling).
 *
 * The submitter's own REQ_NOWAIT is over by then: it did not wait when the request
 * was queued. Passed on it would end in an error nobody expects; io_uring tries
 * again only what is refused in the task that submitted it. Nor is the bio to be
 * polled for (REQ_POLLED), which is the affair of who submits.
 *
 * Of the bio nothing but its iterator is changed below, which is written down
 * before, in &dmu_request.
 */

/* What a table line may ask for. 24 bytes per extent, twice during a change. */
#define DMU_EXTENTS_MAX		BIT(24)
#define DMU_DEVICES_MAX		16U

#define DMU_EXTENT_SECTORS_BITS	48

/**
 * struct dmu_extent - a range that is on a backing device
 * @first: first sector, counted as in bios: from the start of the dm device
 * @at: first sector on the backing device
 * @sectors: length; no target is longer than this can say
 * @device: index of the backing device
 * @writable: what changes data goes there too
 */
struct dmu_extent {
	u64 first;
	u64 at;
	u64 sectors : DMU_EXTENT_SECTORS_BITS;
	u64 device : 8;
	u64 writable : 1;
};

/**
 * struct dmu_extent_map - all extents of a target at one time
 * @nr: how many; not 0
 * @nr_writable: those among them with @writable
 * @extents: ascending, without overlap; neighbours that could be one are one
 */
struct dmu_extent_map {
	unsigned int nr;
	unsigned int nr_writable;
	struct dmu_extent extents[];
};

/**
 * struct dmu_redirect_counts - of one CPU; only sums over all CPUs mean anything
 * @in_flight: redirected bios that have not ended, by epoch
 * @redirected: bios redirected since the target was made
 */
struct dmu_redirect_counts {
	long in_flight[2];
	unsigned long redirected;
};

/**
 * struct dmu_redirect - backing devices and extents of one target
 * @ref: held by the target, and by ioctls that are at work
 * @map: the extents; NULL if there are none. RCU, changed under @mutex
 * @epoch: 0 or 1: where redirected bios are counted
 * @draining: somebody waits for an epoch to become empty
 * @counts: per CPU
 * @devices: backing devices; for map() and the core alone, who have the target
 * @written: a write has gone to the device, so it takes part in flushes
 * @nr_devices: length of @devices
 * @max_extents: bound of &dmu_extent_map.nr
 * @block_sectors: extents start and end at multiples of it
 * @begin: first sector of the target
 * @sectors: length of the target
 * @writable: the devices were opened for writing
 * @no_flush: flushes are not for the daemon
 * @mutex: serialises changes of @map, and revokes as a whole
 * @retired: the map before @map, until its grace period is over; @mutex
 * @retired_at: that grace period
 * @undrained: bios of extents that are revoked may be in flight; @mutex
 * @remapped: bios of the daemon's have been sent, whatever the extents were
 * @wait: the revoke
 * @late_lock: protects @late; taken in any context, last of all locks
 * @late: remapped bios that the worker is to send
 * @late_work: the worker
 */
struct dmu_redirect {
	struct kref ref;
	struct dmu_extent_map __rcu *map;
	unsigned int epoch;
	bool draining;
	struct dmu_redirect_counts __percpu *counts;
	struct dm_dev *devices[DMU_DEVICES_MAX];
	bool written[DMU_DEVICES_MAX];
	unsigned int nr_devices;
	unsigned int max_extents;
	unsigned int block_sectors;
	u64 begin;
	u64 sectors;
	bool writable;
	bool no_flush;
	/* One change of the extents at a time. */
	struct mutex mutex;
	struct dmu_extent_map *retired;
	unsigned long retired_at;
	bool undrained;
	bool remapped;
	wait_queue_head_t wait;
	/* What ->end_io, in an interrupt perhaps, leaves to the worker. */
	spinlock_t late_lock;
	struct bio_list late;
	struct work_struct late_work;
};

/* redirect.c: the devices, and the way of a bio */

int dmu_redirect_open(struct dmu_target *t);
void dmu_redirect_close(struct dmu_target *t);
void dmu_redirect_put(struct dmu_redirect *red);
bool dmu_device_takes(struct block_device *bdev, enum req_op op);
unsigned int dmu_redirect_count(struct dmu_redirect *red, unsigned int device,
				struct bio *bio);
int dmu_redirect_map(struct dmu_target *t, struct bio *bio);
int dmu_redirect_end_io(struct dm_target *ti, struct bio *bio,
			blk_status_t *error);
int dmu_redirect_iterate(struct dmu_target *t, iterate_devices_callout_fn fn,
			 void *data);
void dmu_redirect_fold(struct dmu_target *t);
void dmu_redirect_status(struct dmu_target *t, u64 *redirected,
			 unsigned int *extents);

/* remap.c: answers that say where the data is */

void dmu_remap_init(struct dmu_redirect *red);
void dmu_remap_exit(struct dmu_redirect *red);
bool __dmu_remap(struct dmu_control *ctl, struct dmu_request *req,
		 const struct dm_user_message *msg, struct list_head *done);
void dmu_remap_send(struct dmu_request *req);
void dmu_remap_again(struct dmu_redirect *red, struct bio *bio);

/* extents.c: what the daemon asks for */

unsigned int dmu_extent_find(const struct dmu_extent_map *map, u64 sector);
long dmu_ioctl_device(struct dmu_channel *chan, void __user *arg);
long dmu_ioctl_extents_add(struct dmu_channel *chan, void __user *arg);
long dmu_ioctl_extents_get(struct dmu_channel *chan, void __user *arg);
long dmu_ioctl_extents_revoke(struct dmu_channel *chan, void __user *arg);

/*
 * Where the bio is counted, &dmu_request.epoch: 0 if nowhere, else the epoch plus
 * one; and whether it has REQ_NOWAIT from here, so that ->end_io tries again.
 */
#define DMU_NOT_REDIRECTED	0
#define DMU_EPOCH_MASK		0x03
#define DMU_EPOCH_AGAIN		0x80

/* Of dmu_redirect_map(), beside DM_MAPIO_*. */
#define DMU_MAPIO_DAEMON	(-1)

/**
 * dmu_extent_end() - First sector behind an extent
 * @e: extent
 *
 * Return: sector.
 */
static inline u64 dmu_extent_end(const struct dmu_extent *e)
{
	return e->first + e->sectors;
}

#endif /* DM_USER_REDIRECT_H */

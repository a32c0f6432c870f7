// SPDX-License-Identifier: GPL-2.0-only
/*
 * The extents of a target, as the daemon asks for them: add, list, revoke, and
 * which devices there are. DOC: Redirect in redirect.h has the rules; how a bio
 * meets the extents is in redirect.c.
 *
 * All of it runs in the daemon's context and allocates there, without I/O: the
 * daemon may be what memory is waiting for.
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "dm-user.h"

/* What an ioctl works with: not the target, which may go meanwhile. */
struct dmu_extents_call {
	struct dmu_redirect *red;
	u64 device_sectors[DMU_DEVICES_MAX];
};

/* On success the redirect is to be put. */
static int dmu_call_begin(struct dmu_channel *chan, struct dmu_extents_call *call)
{
	struct dmu_control *ctl = chan->ctl;
	struct dmu_redirect *red;
	unsigned int i;
	int r = 0;

	spin_lock(&ctl->lock);
	if (ctl->state == DM_USER_STATE_REMOVED || !ctl->active) {
		r = -ENOTBLK;
	} else if (!ctl->active->redirect) {
		r = -EOPNOTSUPP;
	} else {
		red = ctl->active->redirect;
		kref_get(&red->ref);
		call->red = red;
		for (i = 0; i < red->nr_devices; i++)
			call->device_sectors[i] = bdev_nr_sectors(red->devices[i]->bdev);
	}
	spin_unlock(&ctl->lock);
	return r;
}

static struct dmu_extent_map *dmu_map_locked(struct dmu_redirect *red)
{
	return rcu_dereference_protected(red->map, lockdep_is_held(&red->mutex));
}

/**
 * dmu_extent_find() - First extent that ends behind a sector
 * @map: extents
 * @sector: sector
 *
 * Return: index; &dmu_extent_map.nr if there is none.
 */
unsigned int dmu_extent_find(const struct dmu_extent_map *map, u64 sector)
{
	unsigned int low = 0, high = map->nr;

	while (low < high) {
		unsigned int middle = low + (high - low) / 2;

		if (dmu_extent_end(&map->extents[middle]) > sector)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static struct dmu_extent_map *dmu_map_alloc(unsigned int nr)
{
	unsigned int noio = memalloc_noio_save();
	struct dmu_extent_map *map;

	map = kvmalloc(struct_size(map, extents, nr), GFP_KERNEL_ACCOUNT);
	memalloc_noio_restore(noio);
	if (map) {
		map->nr = 0;
		map->nr_writable = 0;
	}
	return map;
}

/* Makes room for one more map: there are never more than two. */
static void dmu_map_reap(struct dmu_redirect *red)
{
	lockdep_assert_held(&red->mutex);

	if (!red->retired)
		return;
	cond_synchronize_rcu_expedited(red->retired_at);
	kvfree(red->retired);
	red->retired = NULL;
}

/* Adds @e behind the last extent; false if there is no room. */
static bool dmu_map_append(struct dmu_extent_map *map, unsigned int room,
			   const struct dmu_extent *e)
{
	struct dmu_extent *last = map->nr ? &map->extents[map->nr - 1] : NULL;

	if (last && dmu_extent_end(last) == e->first &&
	    last->at + last->sectors == e->at && last->device == e->device &&
	    last->writable == e->writable) {
		last->sectors += e->sectors;
		return true;
	}
	if (map->nr == room)
		return false;
	map->extents[map->nr++] = *e;
	map->nr_writable += e->writable;
	return true;
}

/* Why an extent cannot be; DM_USER_EXTENT_GOOD if it can. */
static u32 dmu_extent_check(const struct dmu_extents_call *call,
			    const struct dm_user_extent *u)
{
	const struct dmu_redirect *red = call->red;
	u64 first = u->first_sector - red->begin;

	if (u->flags & ~DM_USER_EXTENT_WRITABLE)
		return DM_USER_EXTENT_FLAGS;
	if (u->flags && !red->writable)
		return DM_USER_EXTENT_READ_ONLY;
	if (!u->sectors || u->first_sector < red->begin ||
	    first >= red->sectors || u->sectors > red->sectors - first)
		return DM_USER_EXTENT_RANGE;
	if (u->device >= red->nr_devices)
		return DM_USER_EXTENT_DEVICE;
	if (u->device_sector >= call->device_sectors[u->device] ||
	    u->sectors > call->device_sectors[u->device] - u->device_sector)
		return DM_USER_EXTENT_DEVICE_RANGE;
	/* A power of two: what holds for all bits together holds for each. */
	if ((u->first_sector | u->sectors | u->device_sector) &
	    (red->block_sectors - 1))
		return DM_USER_EXTENT_ALIGNMENT;
	return DM_USER_EXTENT_GOOD;
}

static int dmu_reason_errno(u32 reason)
{
	switch (reason) {
	case DM_USER_EXTENT_GOOD:
		return 0;
	case DM_USER_EXTENT_READ_ONLY:
		return -EROFS;
	case DM_USER_EXTENT_OVERLAP:
		return -EEXIST;
	case DM_USER_EXTENT_BOUND:
		return -ENOSPC;
	default:
		return -EINVAL;
	}
}

/* Makes of @old and what the daemon adds a new map; both are in order. */
static int dmu_merge_added(const struct dmu_extents_call *call,
			   const struct dmu_extent_map *old,
			   struct dm_user_extents *add,
			   struct dmu_extent_map *new, unsigned int room)
{
	const struct dm_user_extent __user *from = u64_to_user_ptr(add->extents);
	unsigned int at = 0, nr = old ? old->nr : 0;
	struct dm_user_extent u;
	struct dmu_extent e;
	u64 behind = 0;

	for (add->wrong = 0; add->wrong < add->count; add->wrong++) {
		if (copy_from_user(&u, from + add->wrong, sizeof(u)))
			return -EFAULT;
		add->reason = dmu_extent_check(call, &u);
		if (!add->reason && u.first_sector < behind)
			add->reason = DM_USER_EXTENT_ORDER;
		if (add->reason)
			return dmu_reason_errno(add->reason);
		behind = u.first_sector + u.sectors;

		add->reason = DM_USER_EXTENT_BOUND;
		for (; at < nr && dmu_extent_end(&old->extents[at]) <= u.first_sector; at++)
			if (!dmu_map_append(new, room, &old->extents[at]))
				return -ENOSPC;
		if (at < nr && old->extents[at].first < behind) {
			add->reason = DM_USER_EXTENT_OVERLAP;
			return -EEXIST;
		}
		e.first = u.first_sector;
		e.at = u.device_sector;
		e.sectors = u.sectors;
		e.device = u.device;
		e.writable = !!u.flags;
		if (!dmu_map_append(new, room, &e))
			return -ENOSPC;

		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	for (; at < nr; at++) {
		if (!dmu_map_append(new, room, &old->extents[at])) {
			add->wrong = add->count - 1;
			return -ENOSPC;
		}
		if (!(at & 1023))
			cond_resched();
	}
	add->reason = DM_USER_EXTENT_GOOD;
	return 0;
}

static int dmu_extents_add(struct dmu_extents_call *call, struct dm_user_extents *add)
{
	struct dmu_redirect *red = call->red;
	struct dmu_extent_map *old, *new;
	u64 room;
	int r;

	r = mutex_lock_killable(&red->mutex);
	if (r)
		return r;
	dmu_map_reap(red);
	old = dmu_map_locked(red);
	room = min_t(u64, red->max_extents, (old ? (u64)old->nr : 0) + add->count);
	new = dmu_map_alloc(room);
	if (!new) {
		r = -ENOMEM;
		goto out;
	}
	r = dmu_merge_added(call, old, add, new, room);
	if (r) {
		kvfree(new);
		goto out;
	}
	rcu_assign_pointer(red->map, new);
	red->retired = old;
	red->retired_at = start_poll_synchronize_rcu();
out:
	mutex_unlock(&red->mutex);
	return r;
}

static bool dmu_extents_read(struct dm_user_extents *extents, void __user *arg,
			     long *ret)
{
	if (copy_from_user(extents, arg, sizeof(*extents)))
		*ret = -EFAULT;
	else if (extents->flags || memchr_inv(extents->reserved, 0,
					      sizeof(extents->reserved)))
		*ret = -EINVAL;
	else
		*ret = 0;
	return !*ret;
}

/**
 * dmu_ioctl_extents_add() - DM_USER_IOC_EXTENTS_ADD
 * @chan: channel
 * @arg: struct dm_user_extents
 *
 * Return: 0 with all of them added, or an errno with none.
 */
long dmu_ioctl_extents_add(struct dmu_channel *chan, void __user *arg)
{
	struct dmu_extents_call call;
	struct dm_user_extents add;
	long ret;

	if (!dmu_extents_read(&add, arg, &ret))
		return ret;
	ret = dmu_call_begin(chan, &call);
	if (ret)
		return ret;
	add.wrong = 0;
	add.reason = DM_USER_EXTENT_GOOD;
	if (add.count)
		ret = dmu_extents_add(&call, &add);
	dmu_redirect_put(call.red);
	if (copy_to_user(arg, &add, sizeof(add)) && !ret)
		ret = -EFAULT;
	return ret == -EINTR ? -ERESTARTSYS : ret;
}

/**
 * dmu_ioctl_extents_get() - DM_USER_IOC_EXTENTS_GET
 * @chan: channel
 * @arg: struct dm_user_extents
 *
 * Return: 0, also when there are none, or an errno.
 */
long dmu_ioctl_extents_get(struct dmu_channel *chan, void __user *arg)
{
	const struct dmu_extent_map *map;
	struct dmu_extents_call call;
	struct dm_user_extents get;
	struct dm_user_extent __user *to;
	unsigned int i, given = 0;
	long ret;

	if (!dmu_extents_read(&get, arg, &ret))
		return ret;
	ret = dmu_call_begin(chan, &call);
	if (ret)
		return ret;
	to = u64_to_user_ptr(get.extents);
	ret = mutex_lock_killable(&call.red->mutex);
	if (ret)
		goto put;
	map = dmu_map_locked(call.red);
	i = map ? dmu_extent_find(map, get.first_sector) : 0;
	for (; map && i < map->nr && given < get.count && !ret; i++, given++) {
		const struct dmu_extent *e = &map->extents[i];
		struct dm_user_extent u = {
			.first_sector = e->first,
			.sectors = e->sectors,
			.device_sector = e->at,
			.device = e->device,
			.flags = e->writable ? DM_USER_EXTENT_WRITABLE : 0,
		};

		if (copy_to_user(to + given, &u, sizeof(u)))
			ret = -EFAULT;
		else if (fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	mutex_unlock(&call.red->mutex);
	get.count = given;
	if (!ret && copy_to_user(arg, &get, sizeof(get)))
		ret = -EFAULT;
put:
	dmu_redirect_put(call.red);
	return ret == -EINTR ? -ERESTARTSYS : ret;
}

/* Copies @old without a range. */
static void dmu_map_cut(const struct dmu_extent_map *old, u64 first, u64 end,
			struct dmu_extent_map *new, unsigned int room)
{
	unsigned int i;

	for (i = 0; i < old->nr; i++) {
		const struct dmu_extent *e = &old->extents[i];
		u64 e_end = dmu_extent_end(e);
		struct dmu_extent part = *e;

		if (!(i & 1023))
			cond_resched();
		if (e->first < first) {
			part.sectors = min(e_end, first) - e->first;
			dmu_map_append(new, room, &part);
		}
		if (e_end > end) {
			part.first = max_t(u64, e->first, end);
			part.at = e->at + (part.first - e->first);
			part.sectors = e_end - part.first;
			/*
			 * In two, at the bound: the second half goes as well.
			 * The daemon must be able to serve it anyway.
			 */
			if (e->first < first && new->nr + (old->nr - i - 1) >= room)
				continue;
			dmu_map_append(new, room, &part);
		}
	}
}

/*
 * Takes a range out of the map. Returns true if there was any of it, -ENOMEM.
 * The caller has to wait for a grace period before it frees *@old.
 */
static int dmu_map_revoke(struct dmu_redirect *red, u64 first, u64 end,
			  struct dmu_extent_map **old)
{
	struct dmu_extent_map *new, *map = dmu_map_locked(red);
	unsigned int i, room;

	*old = NULL;
	if (!map)
		return false;
	i = dmu_extent_find(map, first);
	if (i == map->nr || map->extents[i].first >= end)
		return false;

	dmu_map_reap(red);
	if (first <= map->extents[0].first &&
	    end >= dmu_extent_end(&map->extents[map->nr - 1])) {
		/* Everything: this must work with no memory at all. */
		new = NULL;
	} else {
		room = min(map->nr + 1, red->max_extents);
		new = dmu_map_alloc(room);
		if (!new)
			return -ENOMEM;
		dmu_map_cut(map, first, end, new, room);
	}
	rcu_assign_pointer(red->map, new);
	red->undrained = true;
	*old = map;
	return true;
}

static bool dmu_epoch_empty(struct dmu_redirect *red, unsigned int epoch)
{
	long in_flight = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		in_flight += READ_ONCE(per_cpu_ptr(red->counts, cpu)->in_flight[epoch]);
	/* What the daemon does next comes after what the bios have done. */
	smp_mb();
	return !in_flight;
}

/* Waits until an epoch to which nothing is added is empty. */
static int dmu_await_epoch(struct dmu_redirect *red, unsigned int epoch, long *timeout)
{
	long left = wait_event_killable_timeout(red->wait, dmu_epoch_empty(red, epoch),
						*timeout);

	if (left < 0)
		return -EINTR;
	if (!left)
		return -ETIMEDOUT;
	*timeout = left;
	return 0;
}

/* From now on bios are counted in the other epoch, and find the map of now. */
static void dmu_turn_epoch(struct dmu_redirect *red)
{
	/* Pairs with the acquire in dmu_redirect_map(). */
	smp_store_release(&red->epoch, red->epoch ^ 1);
}

/*
 * Waits for all bios that were redirected by maps before the present one.
 * Always waits for a grace period since the map was published. Expedited,
 * because the daemon serves nobody meanwhile.
 */
static int dmu_drain(struct dmu_redirect *red, long timeout)
{
	unsigned int epoch = red->epoch;
	int r = 0;

	WRITE_ONCE(red->draining, true);
	if (!dmu_epoch_empty(red, epoch ^ 1)) {
		/* A revoke that did not come to its end. */
		synchronize_rcu_expedited();
		r = dmu_await_epoch(red, epoch ^ 1, &timeout);
	}
	if (!r) {
		dmu_turn_epoch(red);
		synchronize_rcu_expedited();
		r = dmu_await_epoch(red, epoch, &timeout);
	}
	WRITE_ONCE(red->draining, false);
	return r;
}

static long dmu_timeout(u32 ms)
{
	return ms == U32_MAX ? MAX_SCHEDULE_TIMEOUT : (long)msecs_to_jiffies(ms);
}

static int dmu_extents_revoke(struct dmu_redirect *red, u64 first, u64 end, u32 timeout_ms)
{
	struct dmu_extent_map *old;
	int r = mutex_lock_killable(&red->mutex);

	if (r)
		return r;
	r = dmu_map_revoke(red, first, end, &old);
	if (r >= 0 && (red->undrained || READ_ONCE(red->remapped))) {
		r = dmu_drain(red, dmu_timeout(timeout_ms));
		if (!r)
			red->undrained = false;
	}
	kvfree(old);
	mutex_unlock(&red->mutex);
	return r;
}

/**
 * dmu_ioctl_extents_revoke() - DM_USER_IOC_EXTENTS_REVOKE
 * @chan: channel
 * @arg: struct dm_user_revoke
 *
 * Return: 0 once nothing that was redirected in the range is in flight; an
 * errno otherwise.
 */
long dmu_ioctl_extents_revoke(struct dmu_channel *chan, void __user *arg)
{
	struct dmu_extents_call call;
	struct dm_user_revoke revoke;
	u64 first = 0, end = U64_MAX;
	u64 mask;
	int ret;

	if (copy_from_user(&revoke, arg, sizeof(revoke)))
		return -EFAULT;
	if ((revoke.flags & ~DM_USER_REVOKE_ALL) ||
	    memchr_inv(revoke.reserved, 0, sizeof(revoke.reserved)))
		return -EINVAL;
	ret = dmu_call_begin(chan, &call);
	if (ret)
		return ret;
	mask = call.red->block_sectors - 1;
	if (!(revoke.flags & DM_USER_REVOKE_ALL)) {
		first = revoke.first_sector;
		end = first + revoke.sectors;
	}
	/* Half a block is nowhere: neither on the device nor with the daemon. */
	if (end <= first || ((first & mask) || (end != U64_MAX && (end & mask))))
		ret = -EINVAL;
	else
		ret = dmu_extents_revoke(call.red, first, end, revoke.timeout_ms);
	dmu_redirect_put(call.red);
	return ret == -EINTR ? -ERESTARTSYS : ret;
}

/**
 * dmu_ioctl_device() - DM_USER_IOC_DEVICE
 * @chan: channel
 * @arg: struct dm_user_device
 *
 * Return: 0 or an errno; -ENOENT if there is no such device.
 */
long dmu_ioctl_device(struct dmu_channel *chan, void __user *arg)
{
	struct dmu_control *ctl = chan->ctl;
	struct dm_user_device device;
	struct dmu_redirect *red;
	struct block_device *bdev;
	long ret = 0;

	if (copy_from_user(&device, arg, sizeof(device)))
		return -EFAULT;
	if (memchr_inv(device.reserved, 0, sizeof(device.reserved)))
		return -EINVAL;
	spin_lock(&ctl->lock);
	red = ctl->active ? ctl->active->redirect : NULL;
	if (ctl->state == DM_USER_STATE_REMOVED) {
		ret = -ENOTBLK;
	} else if (!red || device.device >= red->nr_devices) {
		ret = -ENOENT;
	} else {
		bdev = red->devices[device.device]->bdev;
		device.flags = red->writable ? DM_USER_DEVICE_WRITABLE : 0;
		device.major = MAJOR(bdev->bd_dev);
		device.minor = MINOR(bdev->bd_dev);
		device.sectors = bdev_nr_sectors(bdev);
	}
	spin_unlock(&ctl->lock);
	if (!ret && copy_to_user(arg, &device, sizeof(device)))
		ret = -EFAULT;
	return ret;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * One open file of /dev/dm-user/<name>: open, close, poll, ioctl.
 *
 * A channel counts as a server from its first read(), from the first poll()
 * that asks for input, and from DM_USER_IOC_SET_CHANNEL. To open the node is
 * not enough: a tool that looks at device nodes, or a supervisor that keeps a
 * descriptor, must not suspend the deadlines.
 */
#include <linux/compat.h>
#include <linux/poll.h>
#include <linux/slab.h>

#include "dm-user.h"

/* No bio is longer on most devices, and it bounds the work of one message. */
#define DMU_COALESCE_BYTES_MAX	(4U << 20)

static int dmu_open(struct inode *inode, struct file *file)
{
	struct dmu_control *ctl = container_of(file->private_data,
					       struct dmu_control, misc);
	struct dmu_channel *chan = kzalloc(sizeof(*chan), GFP_KERNEL);

	if (!chan)
		return -ENOMEM;
	/* The misc core holds its lock, so the node's own reference is there. */
	kref_get(&ctl->ref);
	chan->ctl = ctl;
	INIT_LIST_HEAD(&chan->delivered);
	mutex_init(&chan->read_mutex);
	mutex_init(&chan->write_mutex);
	dmu_fetch_init(chan);

	spin_lock(&ctl->lock);
	list_add_tail(&chan->node, &ctl->channels);
	ctl->nr_channels++;
	spin_unlock(&ctl->lock);

	file->private_data = chan;
	file->f_mode |= FMODE_NOWAIT;
	return stream_open(inode, file);
}

/* Runs with the last reference to the file, so no system call is in it. */
static int dmu_release(struct inode *inode, struct file *file)
{
	struct dmu_channel *chan = file->private_data;
	struct dmu_control *ctl = chan->ctl;
	unsigned int given_back;
	LIST_HEAD(done);

	spin_lock(&ctl->lock);
	list_del(&chan->node);
	ctl->nr_channels--;
	given_back = __dmu_give_back(chan, &done);
	if (chan->serving && !--ctl->nr_servers)
		__dmu_server_gone(ctl, &done);
	else
		__dmu_deadline_arm(ctl, true);
	spin_unlock(&ctl->lock);

	dmu_complete_all(&done);
	if (given_back)
		wake_up_interruptible_nr(&ctl->wait, given_back);
	mutex_destroy(&chan->read_mutex);
	mutex_destroy(&chan->write_mutex);
	kfree(chan);
	dmu_control_put(ctl);
	return 0;
}

/**
 * dmu_channel_serve() - From now on the channel counts as a server
 * @chan: channel; nothing happens if it serves already
 *
 * Context: process context.
 */
void dmu_channel_serve(struct dmu_channel *chan)
{
	struct dmu_control *ctl = chan->ctl;

	if (READ_ONCE(chan->serving))
		return;
	spin_lock(&ctl->lock);
	if (!chan->serving && ctl->state != DM_USER_STATE_REMOVED) {
		WRITE_ONCE(chan->serving, true);
		ctl->nr_servers++;
		__dmu_state_set(ctl, DM_USER_STATE_LIVE);
		__dmu_deadline_arm(ctl, true);
	}
	spin_unlock(&ctl->lock);
}

/**
 * dmu_channel_readable() - Would a read() return at once?
 * @chan: channel
 *
 * Context: any; without the lock, so the answer may be old. A waiter asks
 * again after each wake-up, and each change that makes it true wakes.
 * Return: true if a request, the rest of one, or an error is there.
 */
bool dmu_channel_readable(struct dmu_channel *chan)
{
	struct dmu_control *ctl = chan->ctl;

	return READ_ONCE(chan->rd.active) || READ_ONCE(chan->rd_canceled) ||
	       READ_ONCE(chan->stopped) || !list_empty(&ctl->queue) ||
	       READ_ONCE(ctl->state) == DM_USER_STATE_REMOVED;
}

static __poll_t dmu_poll(struct file *file, poll_table *wait)
{
	struct dmu_channel *chan = file->private_data;
	__poll_t mask = EPOLLOUT | EPOLLWRNORM;

	if (poll_requested_events(wait) & (EPOLLIN | EPOLLRDNORM))
		dmu_channel_serve(chan);
	poll_wait(file, &chan->ctl->wait, wait);
	/* As in dmu_fetch_park(); older kernels (6.12) have none in poll_wait(). */
	smp_mb();
	if (dmu_channel_readable(chan))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (READ_ONCE(chan->ctl->state) == DM_USER_STATE_REMOVED)
		mask |= EPOLLHUP | EPOLLERR;
	return mask;
}

static long dmu_ioctl_info(struct dmu_control *ctl, void __user *arg)
{
	struct dm_user_info info = {
		.abi_version = 1,
		.features = DM_USER_FEATURE_FENCED | DM_USER_FEATURE_POLL |
			    DM_USER_FEATURE_BATCH | DM_USER_FEATURE_USER_COPY |
			    DM_USER_FEATURE_COALESCE | DM_USER_FEATURE_REDIRECT |
			    DM_USER_FEATURE_URING | DM_USER_FEATURE_STOPPED |
			    DM_USER_FEATURE_SEGMENTS | DM_USER_FEATURE_REMAP |
			    DM_USER_FEATURE_WAKE |
			    (DMU_URING_PARKS ? DM_USER_FEATURE_URING_PARKS : 0),
	};

	spin_lock(&ctl->lock);
	info.state = ctl->state;
	if (ctl->active) {
		info.sectors = ctl->active->ti->len;
		info.start_sector = ctl->active->ti->begin;
		info.max_io_bytes = (u64)ctl->active->opts.max_io_sectors << SECTOR_SHIFT;
		info.redirect_devices = ctl->active->opts.nr_devices;
		info.max_extents = ctl->active->opts.max_extents;
		info.block_bytes = ctl->active->opts.logical_block_bytes;
	}
	spin_unlock(&ctl->lock);

	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long dmu_ioctl_set_channel(struct dmu_channel *chan, void __user *arg)
{
	const u64 alone = DM_USER_CHANNEL_BATCH | DM_USER_CHANNEL_USER_COPY;
	const u64 modes = alone | DM_USER_CHANNEL_REMAP;
	const u64 known = DM_USER_CHANNEL_FENCED | DM_USER_CHANNEL_COALESCE |
			  DM_USER_CHANNEL_STOPPED | modes;
	struct dm_user_channel set;
	bool stops = false;
	int ret = 0;

	if (copy_from_user(&set, arg, sizeof(set)))
		return -EFAULT;
	if ((set.flags & ~known) ||
	    !(set.flags & DM_USER_CHANNEL_COALESCE) != !set.coalesce_bytes ||
	    set.coalesce_bytes > DMU_COALESCE_BYTES_MAX ||
	    ((set.flags & DM_USER_CHANNEL_REMAP) && (set.flags & alone) != alone) ||
	    memchr_inv(set.reserved, 0, sizeof(set.reserved)))
		return -EINVAL;
	if (READ_ONCE(chan->ctl->state) == DM_USER_STATE_REMOVED)
		return -ENOTBLK;

	dmu_channel_serve(chan);
	spin_lock(&chan->ctl->lock);
	if (chan->batch != !!(set.flags & DM_USER_CHANNEL_BATCH) ||
	    chan->user_copy != !!(set.flags & DM_USER_CHANNEL_USER_COPY) ||
	    chan->remap != !!(set.flags & DM_USER_CHANNEL_REMAP)) {
		/* Half a message may be in transfer. */
		if (READ_ONCE(chan->used))
			ret = -EBUSY;
		else if ((set.flags & DM_USER_CHANNEL_REMAP) &&
			 !(chan->ctl->active && chan->ctl->active->redirect))
			ret = -EOPNOTSUPP;
	}
	if (!ret) {
		chan->fenced = set.flags & DM_USER_CHANNEL_FENCED;
		chan->coalesce_bytes = set.coalesce_bytes;
		stops = !chan->stopped && (set.flags & DM_USER_CHANNEL_STOPPED);
		WRITE_ONCE(chan->stopped, set.flags & DM_USER_CHANNEL_STOPPED);
		WRITE_ONCE(chan->batch, set.flags & DM_USER_CHANNEL_BATCH);
		WRITE_ONCE(chan->user_copy, set.flags & DM_USER_CHANNEL_USER_COPY);
		chan->remap = set.flags & DM_USER_CHANNEL_REMAP;
	}
	spin_unlock(&chan->ctl->lock);
	if (stops)
		wake_up_interruptible_all(&chan->ctl->wait);
	return ret;
}

static long dmu_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct dmu_channel *chan = file->private_data;

	switch (cmd) {
	case DM_USER_IOC_INFO:
		return dmu_ioctl_info(chan->ctl, (void __user *)arg);
	case DM_USER_IOC_SET_CHANNEL:
		return dmu_ioctl_set_channel(chan, (void __user *)arg);
	case DM_USER_IOC_BATCH:
		WRITE_ONCE(chan->used, true);
		return dmu_ioctl_batch(chan, (void __user *)arg);
	case DM_USER_IOC_COPY:
		return dmu_ioctl_copy(chan, (void __user *)arg);
	case DM_USER_IOC_EXTENTS_ADD:
		return dmu_ioctl_extents_add(chan, (void __user *)arg);
	case DM_USER_IOC_EXTENTS_GET:
		return dmu_ioctl_extents_get(chan, (void __user *)arg);
	case DM_USER_IOC_EXTENTS_REVOKE:
		return dmu_ioctl_extents_revoke(chan, (void __user *)arg);
	case DM_USER_IOC_DEVICE:
		return dmu_ioctl_device(chan, (void __user *)arg);
	default:
		return -ENOTTY;
	}
}

/* The control node. */
const struct file_operations dmu_fops = {
	.owner = THIS_MODULE,
	.open = dmu_open,
	.flush = dmu_flush,
	.release = dmu_release,
	.read_iter = dmu_read_iter,
	.write_iter = dmu_write_iter,
	.poll = dmu_poll,
	.unlocked_ioctl = dmu_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.uring_cmd = dmu_uring_cmd,
};

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Batches as commands of an io_uring: the replies go in, the next requests come
 * out, and while there are none the command waits in the kernel.
 *
 * What a batch is, is in batch.c. Here is only where a command waits, who ends
 * it, and in whose context. DOC: Life of a fetch has it all.
 */
#include <linux/sched.h>
#include <linux/uaccess.h>

#include "dm-user.h"

/**
 * DOC: Life of a fetch
 *
 * A command takes its replies when it is submitted, in the submitter's context,
 * and gives requests at once if there are any. If there are none, it becomes a
 * fetch, one of DMU_FETCH_MAX of its channel, and is parked: the channel stands
 * in the wait queue of the control, as an exclusive waiter like any reader, and
 * a bio that comes wakes one waiter of all. To wake a fetch is to put in work for
 * its submitter; the copy to the buffer is made there and nowhere else, for that
 * is the memory it is in. So map() never copies and never waits.
 *
 * ::
 *
 *     submitted --> RUNNING --nothing there--> PARKED --wake-up--> WOKEN
 *                    |  ^                        | |                 |
 *                    |  +---it came meanwhile----+ |              work in the
 *                    |  +------------------------- | -----------  submitter
 *                    v                             |                 |
 *                  done  <--- asked back, --+------+              CANCELED
 *                             or closed  (CANCELED, work)         or nobody
 *                                                                 there: done
 *
 * Whoever takes a fetch out of PARKED, under the lock of the wait queue, owns it
 * and sees to its end; all others keep off. One that finds nothing after its
 * wake-up, because another channel was faster, parks again. One that ends after
 * its wake-up passes on what it leaves (dmu_wake_next()); so no wake-up is lost
 * with the one who got it.
 *
 * A parked command holds a reference to the file, so there is no release() while
 * there is one. It ends by
 *
 * - a request, DM_USER_CHANNEL_STOPPED, or the end of the target: wake-up;
 * - the end of the ring, by close, exit, kill or exec: io_uring asks for it back
 *   (->uring_cmd() with IO_URING_F_CANCEL);
 * - the end of the submitter while others keep the ring: at the latest the next
 *   wake-up finds the submitter gone, ends the command and passes the wake-up
 *   on; if the process has the file open, as it should, flush() ends it at once;
 * - close() of the file by the process that submitted it: flush(). It misses what
 *   another thread is only about to issue; the end of the ring does not.
 *
 * In all of these the channel then closes as ever, with what was delivered given
 * back. A parked command itself has no request in its hands: a suspend, a reload
 * or a deadline has nothing to take from it.
 *
 * Where io_uring cannot ask for a command back (before 6.7), a parked one would
 * keep the ring, the file and, at exec or with a kernel thread that submits, the
 * process from ending. There, and for commands that io_uring runs in a thread of
 * its own anyway, the thread waits like one in the ioctl: io_uring interrupts it
 * when the ring or the process ends. It costs a thread and two switches, so
 * DM_USER_FEATURE_URING_PARKS is not set.
 */

static struct dmu_fetch *dmu_fetch_of(struct io_uring_cmd *cmd)
{
	return *(struct dmu_fetch **)cmd->pdu;
}

/* Gives a command a fetch; NULL if the channel has no more. */
static struct dmu_fetch *dmu_fetch_get(struct dmu_channel *chan,
				       struct io_uring_cmd *cmd,
				       const struct dm_user_batch *batch)
{
	wait_queue_head_t *wait = &chan->ctl->wait;
	struct dmu_fetch *fetch = NULL;
	unsigned int i;

	spin_lock_irq(&wait->lock);
	for (i = 0; i < DMU_FETCH_MAX && !fetch; i++) {
		if (chan->fetches[i].state == DMU_FETCH_FREE)
			fetch = &chan->fetches[i];
	}
	if (fetch) {
		fetch->cmd = cmd;
		fetch->state = DMU_FETCH_RUNNING;
		fetch->owner = current->files;
		fetch->requests = batch->requests;
		fetch->requests_bytes = batch->requests_bytes;
	}
	spin_unlock_irq(&wait->lock);
	return fetch;
}

static void dmu_fetch_put(struct dmu_channel *chan, struct dmu_fetch *fetch)
{
	wait_queue_head_t *wait = &chan->ctl->wait;

	spin_lock_irq(&wait->lock);
	fetch->cmd = NULL;
	fetch->state = DMU_FETCH_FREE;
	spin_unlock_irq(&wait->lock);
}

static void __dmu_fetch_park(struct dmu_channel *chan, struct dmu_fetch *fetch)
{
	fetch->state = DMU_FETCH_PARKED;
	WRITE_ONCE(chan->nr_parked, chan->nr_parked + 1);
	if (chan->nr_parked == 1)
		__add_wait_queue_entry_tail_exclusive(&chan->ctl->wait, &chan->fetch_wait);
}

static void __dmu_fetch_unpark(struct dmu_channel *chan, struct dmu_fetch *fetch,
			       enum dmu_fetch_state state)
{
	fetch->state = state;
	WRITE_ONCE(chan->nr_parked, chan->nr_parked - 1);
	if (!chan->nr_parked)
		list_del_init(&chan->fetch_wait.entry);
}

/*
 * Parks a fetch that found nothing. Returns true if it is somebody else's now,
 * and not to be touched; false if it is to be looked at again.
 */
static bool dmu_fetch_park(struct dmu_channel *chan, struct dmu_fetch *fetch)
{
	wait_queue_head_t *wait = &chan->ctl->wait;
	bool parked;

	spin_lock_irq(&wait->lock);
	parked = fetch->state != DMU_FETCH_CANCELED;
	if (parked)
		__dmu_fetch_park(chan, fetch);
	spin_unlock_irq(&wait->lock);
	/*
	 * What comes after this wakes it; what came before is seen here. Who brings
	 * something looks whether anybody is in the queue without its lock, in
	 * dmu_request_map() and dmu_wake_next(), so the lock is no barrier for that.
	 */
	smp_mb();
	if (!parked || !dmu_channel_readable(chan))
		return parked;

	spin_lock_irq(&wait->lock);
	parked = fetch->state != DMU_FETCH_PARKED;
	if (!parked)
		__dmu_fetch_unpark(chan, fetch, DMU_FETCH_RUNNING);
	spin_unlock_irq(&wait->lock);
	return parked;
}

/* Ends a command whose fetch is the caller's. */
static void dmu_fetch_end(struct dmu_channel *chan, struct dmu_fetch *fetch,
			  int result, unsigned int issue_flags)
{
	struct io_uring_cmd *cmd = fetch->cmd;

	dmu_fetch_put(chan, fetch);
	dmu_uring_done(cmd, result, issue_flags);
}

/*
 * Serves a fetch of the caller's in the submitter's context, to its end or until
 * it is parked. @woken: it has had a wake-up, which must not be lost.
 */
static void dmu_fetch_run(struct dmu_channel *chan, struct dmu_fetch *fetch,
			  unsigned int issue_flags, bool woken)
{
	struct dm_user_batch batch = {
		.requests = fetch->requests,
		.requests_bytes = fetch->requests_bytes,
	};
	ssize_t ret;

	do {
		if (READ_ONCE(fetch->state) == DMU_FETCH_CANCELED) {
			ret = -ECANCELED;
			break;
		}
		ret = dmu_channel_readable(chan) ?
			dmu_batch_give_now(chan, &batch) : -EAGAIN;
	} while (ret == -EAGAIN && !dmu_fetch_park(chan, fetch));

	if (ret == -EAGAIN)
		return;
	if (woken || ret == -EFAULT || READ_ONCE(chan->rd.active))
		dmu_wake_next(chan);
	dmu_fetch_end(chan, fetch, ret, issue_flags);
}

/* In the submitter's context or, when that is gone, a worker's. */
DMU_URING_WORK(dmu_fetch_work)
{
	struct dmu_channel *chan = cmd->file->private_data;
	struct dmu_fetch *fetch = dmu_fetch_of(cmd);

	if ((current->flags & (PF_EXITING | PF_KTHREAD)) || !current->mm) {
		dmu_wake_next(chan);
		dmu_fetch_end(chan, fetch, -ECANCELED, issue_flags);
		return;
	}
	dmu_fetch_run(chan, fetch, issue_flags, true);
}

/*
 * A wake-up of the control's wait queue: for one fetch of the channel, or for all
 * when none will get a request any more. The lock of the queue is held.
 */
static int dmu_fetch_wake(struct wait_queue_entry *entry, unsigned int mode,
			  int sync, void *key)
{
	struct dmu_channel *chan = container_of(entry, struct dmu_channel, fetch_wait);
	bool all = READ_ONCE(chan->ctl->state) == DM_USER_STATE_REMOVED ||
		   READ_ONCE(chan->stopped);
	unsigned int i, woken = 0;

	for (i = 0; i < DMU_FETCH_MAX && (all || !woken); i++) {
		struct dmu_fetch *fetch = &chan->fetches[i];

		if (fetch->state != DMU_FETCH_PARKED)
			continue;
		__dmu_fetch_unpark(chan, fetch, DMU_FETCH_WOKEN);
		io_uring_cmd_complete_in_task(fetch->cmd, dmu_fetch_work);
		woken++;
	}
	/* Other channels come first next time. */
	if (chan->nr_parked)
		list_move_tail(&entry->entry, &chan->ctl->wait.head);
	return woken;
}

/**
 * dmu_fetch_init() - Prepare a channel for commands
 * @chan: channel that is being opened
 */
void dmu_fetch_init(struct dmu_channel *chan)
{
	init_waitqueue_func_entry(&chan->fetch_wait, dmu_fetch_wake);
	INIT_LIST_HEAD(&chan->fetch_wait.entry);
}

/* io_uring wants a parked command back. If it is not parked, its end is near. */
static void dmu_uring_cancel(struct dmu_channel *chan, struct io_uring_cmd *cmd,
			     unsigned int issue_flags)
{
	wait_queue_head_t *wait = &chan->ctl->wait;
	struct dmu_fetch *fetch = dmu_fetch_of(cmd);
	bool mine;

	spin_lock_irq(&wait->lock);
	mine = fetch->cmd == cmd && fetch->state == DMU_FETCH_PARKED;
	if (mine)
		__dmu_fetch_unpark(chan, fetch, DMU_FETCH_RUNNING);
	spin_unlock_irq(&wait->lock);
	if (mine)
		dmu_fetch_end(chan, fetch, -ECANCELED, issue_flags);
}

/**
 * dmu_flush() - A descriptor of the file is being closed
 * @file: channel
 * @id: table of open files it was in
 *
 * Ends the fetches that the same process has submitted; the channel closes with
 * the last reference, as ever.
 *
 * Return: 0
 */
int dmu_flush(struct file *file, fl_owner_t id)
{
	struct dmu_channel *chan = file->private_data;
	wait_queue_head_t *wait = &chan->ctl->wait;
	bool waiting = false;
	unsigned int i;

	spin_lock_irq(&wait->lock);
	for (i = 0; i < DMU_FETCH_MAX; i++) {
		struct dmu_fetch *fetch = &chan->fetches[i];

		if (fetch->state == DMU_FETCH_FREE || fetch->owner != id)
			continue;
		if (fetch->state == DMU_FETCH_PARKED) {
			__dmu_fetch_unpark(chan, fetch, DMU_FETCH_CANCELED);
			io_uring_cmd_complete_in_task(fetch->cmd, dmu_fetch_work);
			continue;
		}
		waiting |= fetch->state == DMU_FETCH_RUNNING;
		WRITE_ONCE(fetch->state, DMU_FETCH_CANCELED);
	}
	spin_unlock_irq(&wait->lock);
	/* Perhaps in a thread of its own. */
	if (waiting)
		wake_up_interruptible_all(wait);
	return 0;
}

/* In a thread of io_uring's, which may wait. */
static ssize_t dmu_uring_wait(struct dmu_channel *chan, struct io_uring_cmd *cmd,
			      struct dm_user_batch *batch)
{
	struct dmu_fetch *fetch = dmu_fetch_get(chan, cmd, batch);
	ssize_t ret;

	if (!fetch)
		return -EBUSY;
	ret = dmu_batch_give(chan, batch, fetch);
	dmu_fetch_put(chan, fetch);
	return ret == -ERESTARTSYS ? -EINTR : ret;
}

/* Gives what there is, or parks the command and returns -EIOCBQUEUED. */
static ssize_t dmu_uring_park(struct dmu_channel *chan, struct io_uring_cmd *cmd,
			      struct dm_user_batch *batch, unsigned int issue_flags)
{
	struct dmu_fetch *fetch;
	ssize_t ret;

	dmu_channel_serve(chan);
	ret = dmu_channel_readable(chan) ?
		dmu_batch_give_now(chan, batch) : -EAGAIN;
	if (ret == -EFAULT || READ_ONCE(chan->rd.active))
		dmu_wake_next(chan);
	if (ret != -EAGAIN)
		return ret;
	if (!batch->timeout_ms)
		return 0;
	fetch = dmu_fetch_get(chan, cmd, batch);
	if (!fetch)
		return -EBUSY;
	*(struct dmu_fetch **)cmd->pdu = fetch;
	dmu_uring_cancelable(cmd, issue_flags);
	dmu_fetch_run(chan, fetch, issue_flags, false);
	return -EIOCBQUEUED;
}

/**
 * dmu_uring_cmd() - An io_uring command for a channel
 * @cmd: command; DM_USER_IOC_BATCH with a struct dm_user_uring
 * @issue_flags: io_uring's
 *
 * Context: of the submitter, or of a thread of io_uring's in its stead.
 * Return: -EIOCBQUEUED, or an error, or -EAGAIN for such a thread.
 */
int dmu_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct dmu_channel *chan = cmd->file->private_data;
	const struct dm_user_uring *payload;
	struct dm_user_batch batch;
	void __user *arg;
	ssize_t ret;

	/* Nothing else of the command may be looked at then. */
	if (dmu_uring_is_cancel(issue_flags)) {
		dmu_uring_cancel(chan, cmd, issue_flags);
		return 0;
	}
	if (!DMU_URING_PARKS && (issue_flags & IO_URING_F_NONBLOCK))
		return -EAGAIN;

	if (cmd->cmd_op != DM_USER_IOC_BATCH)
		return -EOPNOTSUPP;
	payload = dmu_uring_payload(cmd);
	if (READ_ONCE(payload->reserved))
		return -EINVAL;
	arg = u64_to_user_ptr(READ_ONCE(payload->batch));
	ret = dmu_batch_load(chan, &batch, arg);
	if (ret)
		return ret;
	if ((batch.timeout_ms && batch.timeout_ms != U32_MAX) ||
	    batch.requests_bytes > INT_MAX || batch.flags)
		return -EINVAL;
	WRITE_ONCE(chan->used, true);

	ret = dmu_batch_take(chan, &batch);
	if (batch.replies_bytes && dmu_batch_store(&batch, arg))
		return -EFAULT;
	if (!ret && batch.taken_bytes == batch.replies_bytes && batch.requests_bytes) {
		/* Told already: no error needs to hide for it. */
		batch.taken_bytes = 0;
		ret = issue_flags & IO_URING_F_NONBLOCK ?
			dmu_uring_park(chan, cmd, &batch, issue_flags) :
			dmu_uring_wait(chan, cmd, &batch);
	}
	if (ret > 0) {
		dmu_uring_done(cmd, ret, issue_flags);
		return -EIOCBQUEUED;
	}
	return ret;
}

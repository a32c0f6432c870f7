// SPDX-License-Identifier: GPL-2.0-only
/*
 * A file that ends a wait for requests: one entry in its wait queue, for as long
 * as the wait lasts.
 */
#include <linux/file.h>
#include <linux/sched.h>

#include "dm-user.h"

#define DMU_WAKER_EVENTS	(EPOLLIN | EPOLLRDNORM | EPOLLERR | EPOLLHUP)

/* Somebody wakes those who wait for the file; the lock of its queue is held. */
static int dmu_waker_wake(wait_queue_entry_t *wait, unsigned int mode, int sync,
			  void *key)
{
	struct dmu_waker *waker = container_of(wait, struct dmu_waker, wait);
	__poll_t events = key_to_poll(key);

	if (unlikely(events & POLLFREE)) {
		/*
		 * The queue goes before the file does, once an RCU grace period
		 * is over. Nothing here is touched afterwards.
		 */
		list_del_init(&wait->entry);
		WRITE_ONCE(waker->ready, true);
		wake_up_process(waker->task);
		/* Pairs with the acquire in dmu_waker_end(). */
		smp_store_release(&waker->head, NULL);
		return 1;
	}
	if (events && !(events & DMU_WAKER_EVENTS))
		return 0;
	WRITE_ONCE(waker->ready, true);
	return wake_up_process(waker->task);
}

static void dmu_waker_queue(struct file *file, wait_queue_head_t *head,
			    poll_table *pt)
{
	struct dmu_waker *waker = container_of(pt, struct dmu_waker, pt);

	/* A file with several queues is not waited for: it is looked at again. */
	if (waker->head) {
		waker->ready = true;
		return;
	}
	waker->head = head;
	add_wait_queue(head, &waker->wait);
}

/**
 * dmu_waker_begin() - Wait for a file too
 * @waker: filled; on the stack of who waits, until dmu_waker_end()
 * @fd: file of the caller
 *
 * From here on @waker->ready becomes true, and the caller is woken, when the file
 * can be read. To be looked at after the caller's state is set, as any condition.
 *
 * Return: 0, -EBADF, -EPERM.
 */
int dmu_waker_begin(struct dmu_waker *waker, int fd)
{
	waker->file = fdget(fd);
	if (!fd_file(waker->file))
		return -EBADF;
	if (!file_can_poll(fd_file(waker->file))) {
		fdput(waker->file);
		return -EPERM;
	}
	waker->head = NULL;
	waker->task = current;
	waker->ready = false;
	init_waitqueue_func_entry(&waker->wait, dmu_waker_wake);
	init_poll_funcptr(&waker->pt, dmu_waker_queue);
	if (vfs_poll(fd_file(waker->file), &waker->pt) & DMU_WAKER_EVENTS)
		WRITE_ONCE(waker->ready, true);
	return 0;
}

/**
 * dmu_waker_end() - Counterpart of dmu_waker_begin()
 * @waker: not to be used afterwards
 */
void dmu_waker_end(struct dmu_waker *waker)
{
	wait_queue_head_t *head;

	rcu_read_lock();
	/* Pairs with the release in dmu_waker_wake(). */
	head = smp_load_acquire(&waker->head);
	if (head)
		remove_wait_queue(head, &waker->wait);
	rcu_read_unlock();
	fdput(waker->file);
}

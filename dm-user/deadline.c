// SPDX-License-Identifier: GPL-2.0-only
/*
 * States of the server, and the deadlines of requests that wait for one.
 *
 * One delayed work per control looks after all requests: only the oldest of
 * each list can be due next, so nothing is armed per request and nothing is
 * cancelled when one is answered. A timer that fires too early looks, finds
 * nothing, and sleeps again; with nothing waiting it is not armed at all.
 *
 * Which deadline counts, and from when:
 *
 * - nobody has served yet (NEW): new_ms from when the request was queued;
 * - the server is gone (ORPHANED): orphan_ms from then, or from when the
 *   request was queued, whichever is later;
 * - a held write (HELD): orphan_ms from when its channel closed, whoever
 *   serves by now;
 * - a server is there (LIVE): stuck_ms from when a request was delivered; and
 *   for those still queued, from when the server last took or answered any.
 *
 * When a deadline of the first two passes, the control is FAILED: all that
 * waits fails, and so does whatever comes, until a channel serves again.
 */
#include "dm-user.h"

/**
 * __dmu_state_set() - Change the state and tell who wants to know
 * @ctl: control
 * @state: DM_USER_STATE_*
 *
 * Context: &dmu_control.lock held.
 */
void __dmu_state_set(struct dmu_control *ctl, u32 state)
{
	lockdep_assert_held(&ctl->lock);

	if (ctl->state == state)
		return;
	WRITE_ONCE(ctl->state, state);
	ctl->state_since = jiffies;
	ctl->progress = jiffies;
	if (state != DM_USER_STATE_REMOVED)
		queue_work(dmu_wq, &ctl->event_work);
}

/**
 * __dmu_deadline_ms() - Deadline in force
 * @ctl: control
 * @which: which of them
 *
 * Context: &dmu_control.lock held.
 * Return: milliseconds or DMU_FOREVER.
 */
u32 __dmu_deadline_ms(struct dmu_control *ctl, enum dmu_deadline which)
{
	const struct dmu_target *t = ctl->active;

	lockdep_assert_held(&ctl->lock);

	if (t && test_bit(DMU_OPT_NEW_MS + which, &t->opts.given))
		return t->opts.ms[which];
	return which == DMU_STUCK ? DMU_FOREVER : dmu_default_ms();
}

static unsigned long dmu_later(unsigned long a, unsigned long b)
{
	return time_after(a, b) ? a : b;
}

/* The earliest moment found so far at which something is due. */
struct dmu_due {
	bool any;
	unsigned long at;
};

static void dmu_due_add(struct dmu_due *due, unsigned long from, u32 ms)
{
	unsigned long at = from + msecs_to_jiffies(ms);

	if (ms == DMU_FOREVER)
		return;
	if (!due->any || time_before(at, due->at))
		due->at = at;
	due->any = true;
}

static bool dmu_is_due(unsigned long from, u32 ms)
{
	return ms != DMU_FOREVER &&
	       time_after_eq(jiffies, from + msecs_to_jiffies(ms));
}

static struct dmu_request *dmu_first(struct list_head *list)
{
	return list_first_entry_or_null(list, struct dmu_request, list);
}

/* From when the oldest queued request has waited, by the rules above. */
static unsigned long dmu_queue_from(struct dmu_control *ctl)
{
	unsigned long since = dmu_first(&ctl->queue)->since;

	if (ctl->state == DM_USER_STATE_NEW)
		return since;
	if (ctl->state == DM_USER_STATE_LIVE)
		return dmu_later(since, ctl->progress);
	return dmu_later(since, ctl->state_since);
}

static u32 dmu_queue_ms(struct dmu_control *ctl)
{
	if (ctl->state == DM_USER_STATE_NEW)
		return __dmu_deadline_ms(ctl, DMU_NEW);
	if (ctl->state == DM_USER_STATE_LIVE)
		return __dmu_deadline_ms(ctl, DMU_STUCK);
	return __dmu_deadline_ms(ctl, DMU_ORPHAN);
}

static struct dmu_due dmu_next_due(struct dmu_control *ctl)
{
	struct dmu_due due = {};
	struct dmu_channel *chan;
	struct dmu_request *req;
	u32 stuck_ms = __dmu_deadline_ms(ctl, DMU_STUCK);

	if (!list_empty(&ctl->queue))
		dmu_due_add(&due, dmu_queue_from(ctl), dmu_queue_ms(ctl));
	req = dmu_first(&ctl->held);
	if (req)
		dmu_due_add(&due, req->since, __dmu_deadline_ms(ctl, DMU_ORPHAN));
	if (stuck_ms == DMU_FOREVER)
		return due;
	list_for_each_entry(chan, &ctl->channels, node) {
		req = dmu_first(&chan->delivered);
		if (req)
			dmu_due_add(&due, req->since, stuck_ms);
		if (chan->rd.req)
			dmu_due_add(&due, chan->rd.req->since, stuck_ms);
	}
	return due;
}

/**
 * __dmu_deadline_set() - Arm the work for the moment something is due, if any is
 * @ctl: control
 *
 * Context: &dmu_control.lock held.
 */
void __dmu_deadline_set(struct dmu_control *ctl)
{
	struct dmu_due due;
	unsigned long delay;

	lockdep_assert_held(&ctl->lock);

	if (ctl->state == DM_USER_STATE_REMOVED)
		return;
	due = dmu_next_due(ctl);
	if (!due.any)
		return;
	delay = time_after(due.at, jiffies) ? due.at - jiffies : 0;
	mod_delayed_work(dmu_wq, &ctl->deadline_work, delay);
}

static void dmu_expire(struct dmu_control *ctl, struct dmu_request *req,
		       struct list_head *done)
{
	ctl->stats.expired += req->nr;
	/* Android's status for the one; a hung server is told apart. */
	__dmu_finish(ctl, req, ctl->state == DM_USER_STATE_LIVE &&
		     req->state != DMU_HELD ? BLK_STS_TIMEOUT : BLK_STS_IOERR,
		     done);
}

/* Nobody came in time: all that waits fails, and what comes will. */
static void dmu_fail_control(struct dmu_control *ctl, struct list_head *done)
{
	DMWARN_LIMIT("%s: no daemon in time, %u requests failed; more will fail until one comes",
		     ctl->name, ctl->nr_queued);
	while (!list_empty(&ctl->queue))
		dmu_expire(ctl, dmu_first(&ctl->queue), done);
	__dmu_state_set(ctl, DM_USER_STATE_FAILED);
}

static void dmu_expire_stuck(struct dmu_control *ctl, struct list_head *done)
{
	u32 stuck_ms = __dmu_deadline_ms(ctl, DMU_STUCK);
	struct dmu_channel *chan;
	struct dmu_request *req;

	if (stuck_ms == DMU_FOREVER)
		return;
	list_for_each_entry(chan, &ctl->channels, node) {
		while ((req = dmu_first(&chan->delivered)) &&
		       dmu_is_due(req->since, stuck_ms))
			dmu_expire(ctl, req, done);
		req = chan->rd.req;
		if (req && dmu_is_due(req->since, stuck_ms))
			dmu_expire(ctl, req, done);
	}
}

/**
 * dmu_deadline_work() - Fail what has waited too long
 * @work: &dmu_control.deadline_work
 *
 * Context: process context; works when memory is short.
 */
void dmu_deadline_work(struct work_struct *work)
{
	struct dmu_control *ctl = container_of(to_delayed_work(work),
					       struct dmu_control, deadline_work);
	struct dmu_request *req;
	LIST_HEAD(done);

	spin_lock(&ctl->lock);
	while ((req = dmu_first(&ctl->held)) &&
	       dmu_is_due(req->since, __dmu_deadline_ms(ctl, DMU_ORPHAN)))
		dmu_expire(ctl, req, &done);
	dmu_expire_stuck(ctl, &done);
	if (ctl->state != DM_USER_STATE_LIVE) {
		if (!list_empty(&ctl->queue) &&
		    dmu_is_due(dmu_queue_from(ctl), dmu_queue_ms(ctl)))
			dmu_fail_control(ctl, &done);
	} else {
		while (!list_empty(&ctl->queue) &&
		       dmu_is_due(dmu_queue_from(ctl), dmu_queue_ms(ctl)))
			dmu_expire(ctl, dmu_first(&ctl->queue), &done);
	}
	__dmu_deadline_arm(ctl, false);
	spin_unlock(&ctl->lock);

	dmu_complete_all(&done);
}

/**
 * __dmu_server_gone() - The last serving channel has closed
 * @ctl: control; its queue already has what the channel gave back
 * @done: what failed is added here, for dmu_complete_all()
 *
 * With a deadline of zero there is no waiting, so the control fails at once.
 *
 * Context: &dmu_control.lock held.
 */
void __dmu_server_gone(struct dmu_control *ctl, struct list_head *done)
{
	lockdep_assert_held(&ctl->lock);

	if (ctl->state != DM_USER_STATE_LIVE)
		return;
	__dmu_state_set(ctl, DM_USER_STATE_ORPHANED);
	if (!__dmu_deadline_ms(ctl, DMU_ORPHAN))
		dmu_fail_control(ctl, done);
	else
		__dmu_deadline_arm(ctl, true);
}

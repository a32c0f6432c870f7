// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module's frame: load and unload, the registry of control names, and the
 * events about servers.
 *
 * A control node belongs to a name, not to a table, so that a table can be
 * reloaded with requests waiting and daemons attached: the new table's target
 * joins the control of the old one. All tables of one name must be of one
 * mapped device, and one table may use a name once; since the device-mapper
 * core never lets two tables of a device have bios at the same time, all
 * requests of a control are of its active target.
 */
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "dm-user.h"

/*
 * Up to 6.1 there are 128 dynamic minors, taken from 127 downwards. The last of
 * them are those that mice have had since ever: the misc core gives them away
 * without a look whether they are in use, and then the driver core prints a
 * stack trace about a second device of that number. So none of them is taken.
 */
#define DMU_LAST_MOUSE_MINOR	10

/* Protects the list, &dmu_control.targets and &dmu_control.active. */
static DEFINE_MUTEX(dmu_registry_mutex);
static LIST_HEAD(dmu_registry);

/* Deadlines, and bios on their way, must run when memory is short: hence rescuers. */
struct workqueue_struct *dmu_wq;
struct workqueue_struct *dmu_io_wq;

static unsigned int daemon_timeout_msec = 4000;
module_param_named(dm_user_daemon_timeout_msec, daemon_timeout_msec, uint, 0644);
MODULE_PARM_DESC(dm_user_daemon_timeout_msec,
		 "How long I/O waits for a daemon, in milliseconds, unless the table says so");

/**
 * dmu_default_ms() - Deadline of tables that name none
 *
 * Return: milliseconds, or DMU_FOREVER when the module parameter is out of
 * range.
 */
u32 dmu_default_ms(void)
{
	unsigned int ms = READ_ONCE(daemon_timeout_msec);

	return ms > DMU_MS_MAX ? DMU_FOREVER : ms;
}

/**
 * dmu_state_name() - Name of a state for status lines and events
 * @state: DM_USER_STATE_*
 *
 * Return: one lower-case word.
 */
const char *dmu_state_name(u32 state)
{
	static const char *const names[] = {
		[DM_USER_STATE_NEW] = "new",
		[DM_USER_STATE_LIVE] = "live",
		[DM_USER_STATE_ORPHANED] = "orphaned",
		[DM_USER_STATE_FAILED] = "failed",
		[DM_USER_STATE_REMOVED] = "removed",
	};

	return names[state];
}

/*
 * Tells user space about a change of state: "dmsetup wait" returns, and a
 * uevent of the mapped device carries the state. In a worker because both may
 * sleep, and with GFP_NOIO because the rescuer may be the one who runs it.
 */
static void dmu_event_work(struct work_struct *work)
{
	struct dmu_control *ctl = container_of(work, struct dmu_control, event_work);
	char state_var[32], name_var[160];
	char *env[3] = { state_var, name_var, NULL };
	unsigned int noio = memalloc_noio_save();
	u32 state;

	spin_lock(&ctl->lock);
	state = ctl->state;
	spin_unlock(&ctl->lock);
	scnprintf(state_var, sizeof(state_var), "DM_USER_STATE=%s", dmu_state_name(state));
	scnprintf(name_var, sizeof(name_var), "DM_USER_NAME=%s", ctl->name);

	mutex_lock(&dmu_registry_mutex);
	if (ctl->active) {
		kobject_uevent_env(&disk_to_dev(dm_disk(ctl->md))->kobj, KOBJ_CHANGE, env);
		dm_table_event(ctl->active->ti->table);
	}
	mutex_unlock(&dmu_registry_mutex);
	memalloc_noio_restore(noio);
}

static struct dmu_control *dmu_control_create(const char *name)
{
	struct dmu_control *ctl = kzalloc(sizeof(*ctl), GFP_KERNEL);
	unsigned int i;

	if (!ctl)
		return NULL;

	ctl->misc.name = kasprintf(GFP_KERNEL, "dm-user/%s", name);
	if (!ctl->misc.name) {
		kfree(ctl);
		return NULL;
	}
	ctl->name = ctl->misc.name + strlen("dm-user/");
	ctl->misc.minor = MISC_DYNAMIC_MINOR;
	ctl->misc.fops = &dmu_fops;
	ctl->misc.mode = 0600;

	kref_init(&ctl->ref);
	INIT_LIST_HEAD(&ctl->node);
	INIT_LIST_HEAD(&ctl->targets);
	spin_lock_init(&ctl->lock);
	ctl->state = DM_USER_STATE_NEW;
	ctl->state_since = jiffies;
	INIT_LIST_HEAD(&ctl->queue);
	INIT_LIST_HEAD(&ctl->held);
	INIT_LIST_HEAD(&ctl->channels);
	for (i = 0; i < DMU_HASH_SIZE; i++)
		INIT_HLIST_HEAD(&ctl->delivered[i]);
	init_waitqueue_head(&ctl->wait);
	INIT_DELAYED_WORK(&ctl->deadline_work, dmu_deadline_work);
	INIT_WORK(&ctl->event_work, dmu_event_work);
	return ctl;
}

static void dmu_control_release(struct kref *ref)
{
	struct dmu_control *ctl = container_of(ref, struct dmu_control, ref);

	kfree(ctl->misc.name);
	kfree(ctl);
}

/**
 * dmu_control_put() - Drop a reference
 * @ctl: control of a channel or a target; not to be touched afterwards
 */
void dmu_control_put(struct dmu_control *ctl)
{
	kref_put(&ctl->ref, dmu_control_release);
}

/*
 * True if both cannot have a node below /dev/dm-user: equal, or one would be
 * the directory of the other.
 */
static bool dmu_names_clash(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	return (!*a && !*b) || (!*a && *b == '/') || (!*b && *a == '/');
}

/* Decides whether @t may use the name of an existing control. */
static int dmu_control_join(struct dmu_control *ctl, struct dmu_target *t,
			    const char *name)
{
	struct dmu_target *other;

	if (strcmp(ctl->name, name)) {
		t->ti->error = "Control name is a directory of one in use, or the reverse";
		return -EEXIST;
	}
	if (ctl->md != dm_table_get_md(t->ti->table)) {
		t->ti->error = "Control name is in use by another device";
		return -EBUSY;
	}
	list_for_each_entry(other, &ctl->targets, node) {
		if (other->ti->table == t->ti->table) {
			t->ti->error = "Control name is used twice in this table";
			return -EEXIST;
		}
	}
	return 0;
}

/**
 * dmu_control_attach() - Give a target its control node
 * @t: target under construction, with ti set
 * @name: checked name
 *
 * Makes the node, or joins the one another table of the same mapped device
 * has. On success @t->ctl is set and referenced.
 *
 * Context: process context, may sleep.
 * Return: 0 or a negative errno with ti->error set.
 */
int dmu_control_attach(struct dmu_target *t, const char *name)
{
	struct dmu_control *ctl;
	int r;

	mutex_lock(&dmu_registry_mutex);
	list_for_each_entry(ctl, &dmu_registry, node) {
		if (!dmu_names_clash(ctl->name, name))
			continue;
		r = dmu_control_join(ctl, t, name);
		if (!r) {
			kref_get(&ctl->ref);
			list_add_tail(&t->node, &ctl->targets);
			t->ctl = ctl;
		}
		goto out;
	}

	ctl = dmu_control_create(name);
	if (!ctl) {
		t->ti->error = "Cannot allocate control node";
		r = -ENOMEM;
		goto out;
	}
	/*
	 * The node can be opened before misc_register() returns, so the
	 * control must be complete here.
	 */
	ctl->md = dm_table_get_md(t->ti->table);
	ctl->active = t;
	t->ctl = ctl;
	list_add_tail(&t->node, &ctl->targets);
	r = misc_register(&ctl->misc);
	if (r) {
		t->ti->error = "Cannot register control node, no free minor perhaps";
		t->ctl = NULL;
		list_del(&t->node);
		dmu_control_put(ctl);
		goto out;
	}
	list_add_tail(&ctl->node, &dmu_registry);
	if (ctl->misc.minor <= DMU_LAST_MOUSE_MINOR)
		r = -EBUSY;
out:
	mutex_unlock(&dmu_registry_mutex);
	if (r && t->ctl) {
		t->ti->error = "Cannot register control node, no free minor";
		/* It is complete, and somebody may have opened it already. */
		dmu_control_detach(t);
		t->ctl = NULL;
	}
	return r;
}

/**
 * dmu_control_activate() - Make a target the one whose options hold
 * @t: target whose table becomes the live one
 *
 * Context: process context, may sleep.
 */
void dmu_control_activate(struct dmu_target *t)
{
	struct dmu_control *ctl = t->ctl;

	mutex_lock(&dmu_registry_mutex);
	spin_lock(&ctl->lock);
	WRITE_ONCE(t->push_back, false);
	if (ctl->active && ctl->active != t)
		dmu_redirect_fold(ctl->active);
	ctl->active = t;
	__dmu_deadline_arm(ctl, true);
	spin_unlock(&ctl->lock);
	mutex_unlock(&dmu_registry_mutex);
}

/**
 * dmu_control_detach() - Take a target from its control node
 * @t: target being destroyed; its reference is dropped
 *
 * With the last target the node goes: the name is free, no open succeeds any
 * more, and readers and pollers of channels still open learn of it.
 *
 * Context: process context, may sleep.
 */
void dmu_control_detach(struct dmu_target *t)
{
	struct dmu_control *ctl = t->ctl;
	LIST_HEAD(done);
	bool last;

	mutex_lock(&dmu_registry_mutex);
	list_del(&t->node);
	last = list_empty(&ctl->targets);
	if (last) {
		list_del(&ctl->node);
		misc_deregister(&ctl->misc);
	}
	spin_lock(&ctl->lock);
	dmu_redirect_fold(t);
	if (ctl->active == t)
		ctl->active = list_first_entry_or_null(&ctl->targets,
						       struct dmu_target, node);
	if (last) {
		/* The core has drained the device; this is for safety alone. */
		__dmu_finish_all(ctl, BLK_STS_IOERR, &done);
		__dmu_state_set(ctl, DM_USER_STATE_REMOVED);
	}
	spin_unlock(&ctl->lock);
	mutex_unlock(&dmu_registry_mutex);

	dmu_complete_all(&done);
	if (last) {
		wake_up_all(&ctl->wait);
		cancel_delayed_work_sync(&ctl->deadline_work);
		cancel_work_sync(&ctl->event_work);
	}
	dmu_control_put(ctl);
}

static int __init dmu_init(void)
{
	int r;

	dmu_wq = alloc_workqueue("dm-user", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!dmu_wq)
		return -ENOMEM;

	/* What it does may sleep for a device; deadlines must not wait for that. */
	dmu_io_wq = alloc_workqueue("dm-user-io", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!dmu_io_wq) {
		r = -ENOMEM;
		goto bad_wq;
	}
	r = dm_register_target(&dmu_target_type);
	if (r)
		goto bad_io_wq;
	return 0;

bad_io_wq:
	destroy_workqueue(dmu_io_wq);
bad_wq:
	destroy_workqueue(dmu_wq);
	return r;
}

static void __exit dmu_exit(void)
{
	dm_unregister_target(&dmu_target_type);
	destroy_workqueue(dmu_io_wq);
	destroy_workqueue(dmu_wq);
}

module_init(dmu_init);
module_exit(dmu_exit);

MODULE_DESCRIPTION(DM_NAME " target served by a process in user space");
MODULE_AUTHOR("the dm-user authors");
MODULE_ALIAS("dm-user");
MODULE_LICENSE("GPL");

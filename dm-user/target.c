// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the device-mapper core calls: constructor, destructor, map, suspend
 * hooks, status, messages, limits.
 */
#include <linux/bits.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "dm-user.h"

/*
 * Longest discard, secure erase and write zeroes. Their length in bytes must
 * fit 32 bits; a power of two keeps the pieces of a large one aligned.
 */
#define DMU_MAX_NODATA_SECTORS	BIT(22)

static bool dmu_has(const struct dmu_target *t, enum dmu_feature which)
{
	return test_bit(which, &t->opts.given);
}

static u32 dmu_max_nodata_sectors(const struct dmu_target *t)
{
	return t->opts.max_discard_sectors ?: DMU_MAX_NODATA_SECTORS;
}

static int dmu_check_geometry(struct dmu_target *t)
{
	u32 block_sectors = t->opts.logical_block_bytes >> SECTOR_SHIFT;
	struct dm_target *ti = t->ti;

	if ((ti->begin | ti->len) & (block_sectors - 1)) {
		ti->error = "Start and length must be multiples of logical_block";
		return -EINVAL;
	}
	if ((t->opts.max_io_sectors | t->opts.max_discard_sectors) &
	    (block_sectors - 1)) {
		ti->error = "max_io and max_discard must be multiples of logical_block";
		return -EINVAL;
	}
	if (dmu_has(t, DMU_OPT_PHYSICAL_BLOCK) &&
	    t->opts.physical_block_bytes < t->opts.logical_block_bytes) {
		ti->error = "physical_block must not be less than logical_block";
		return -EINVAL;
	}
	if (dmu_has(t, DMU_OPT_DISCARD_GRANULARITY) &&
	    (t->opts.discard_granularity_bytes < t->opts.logical_block_bytes ||
	     dmu_max_nodata_sectors(t) &
	     ((t->opts.discard_granularity_bytes >> SECTOR_SHIFT) - 1))) {
		ti->error = "discard_granularity must divide max_discard and hold a logical_block";
		return -EINVAL;
	}
	if (t->opts.max_io_sectors)
		return dm_set_target_max_io_len(ti, t->opts.max_io_sectors);
	return 0;
}

static void dmu_set_capabilities(struct dmu_target *t)
{
	bool writable = !dmu_has(t, DMU_OPT_READ_ONLY);
	struct dm_target *ti = t->ti;

	ti->per_io_data_size = sizeof(struct dmu_request);
	ti->limit_swap_bios = true;
	if (writable && !dmu_has(t, DMU_OPT_NO_FLUSH)) {
		ti->num_flush_bios = 1;
		ti->flush_supported = true;
	}
	/* One more for each device that may have been written to. */
	if (writable)
		ti->num_flush_bios += t->opts.nr_devices;
	if (writable && dmu_has(t, DMU_OPT_DISCARD)) {
		ti->num_discard_bios = 1;
		ti->discards_supported = true;
	}
	if (writable && dmu_has(t, DMU_OPT_SECURE_ERASE))
		ti->num_secure_erase_bios = 1;
	if (writable && dmu_has(t, DMU_OPT_WRITE_ZEROES))
		ti->num_write_zeroes_bios = 1;
}

/*
 * Constructor: <start> <len> <name> [<#features> <feature>...]
 *
 * The two numbers are part of Android's table line and are not used.
 */
static int dmu_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct dm_arg_set as = { .argc = argc, .argv = argv };
	const char *name, *wrong;
	struct dmu_target *t;
	int r = -EINVAL;

	if (argc < 3) {
		ti->error = "Need a start, a length and a control name";
		return -EINVAL;
	}
	t = kzalloc(sizeof(*t), GFP_KERNEL);
	if (!t) {
		ti->error = "Cannot allocate target";
		return -ENOMEM;
	}
	t->ti = ti;
	INIT_LIST_HEAD(&t->node);
	if (kstrtou64(dm_shift_arg(&as), 10, &t->arg_start) ||
	    kstrtou64(dm_shift_arg(&as), 10, &t->arg_len)) {
		ti->error = "Start and length must be numbers";
		goto bad;
	}
	name = dm_shift_arg(&as);
	wrong = dmu_name_check(name);
	if (wrong) {
		ti->error = (char *)wrong;
		goto bad;
	}
	r = dmu_options_parse(&t->opts, &as, &ti->error);
	if (r)
		goto bad;
	r = dmu_redirect_open(t);
	if (r)
		goto bad;
	r = dmu_check_geometry(t);
	if (r)
		goto bad_geometry;
	dmu_set_capabilities(t);
	ti->private = t;
	/* Last, because from here on the node can be opened. */
	r = dmu_control_attach(t, name);
	if (r)
		goto bad_geometry;
	return 0;

bad_geometry:
	dmu_redirect_close(t);
bad:
	kfree(t);
	return r;
}

static void dmu_dtr(struct dm_target *ti)
{
	struct dmu_target *t = ti->private;

	dmu_control_detach(t);
	dmu_redirect_close(t);
	kfree(t);
}

static int dmu_map(struct dm_target *ti, struct bio *bio)
{
	struct dmu_target *t = ti->private;
	int r = DMU_MAPIO_DAEMON;

	if (t->redirect) {
		/*
		 * What presuspend hands back comes here again at once. None of
		 * it may end before the core has stopped coming: the core still
		 * looks at a bio it has queued for later (__dm_io_complete()
		 * accounts it), which must not have been freed meanwhile.
		 */
		if (unlikely(READ_ONCE(t->push_back) && dm_noflush_suspending(ti)))
			return DM_MAPIO_REQUEUE;
		r = dmu_redirect_map(t, bio);
	}
	return r == DMU_MAPIO_DAEMON ? dmu_request_map(t, bio) : r;
}

/*
 * A flush suspend waits for the requests, under their deadlines. A noflush
 * suspend must not depend on a daemon that may be gone or hung, so everything
 * is handed back to the core, which runs it against the table it finds when it
 * resumes. A request in the daemon's hands is among them: its late reply is
 * refused.
 */
static void dmu_presuspend(struct dm_target *ti)
{
	struct dmu_target *t = ti->private;
	struct dmu_control *ctl = t->ctl;
	LIST_HEAD(done);

	if (!dm_noflush_suspending(ti))
		return;
	spin_lock(&ctl->lock);
	WRITE_ONCE(t->push_back, true);
	__dmu_finish_all(ctl, BLK_STS_DM_REQUEUE, &done);
	spin_unlock(&ctl->lock);
	dmu_complete_all(&done);
}

static void dmu_presuspend_undo(struct dm_target *ti)
{
	struct dmu_target *t = ti->private;

	spin_lock(&t->ctl->lock);
	WRITE_ONCE(t->push_back, false);
	spin_unlock(&t->ctl->lock);
}

static void dmu_resume(struct dm_target *ti)
{
	dmu_control_activate(ti->private);
}

static unsigned long dmu_oldest(struct dmu_control *ctl)
{
	unsigned long oldest = jiffies;
	struct dmu_channel *chan;
	struct dmu_request *req;

	req = list_first_entry_or_null(&ctl->queue, struct dmu_request, list);
	if (req && time_before(req->arrived, oldest))
		oldest = req->arrived;
	list_for_each_entry(req, &ctl->held, list)
		if (time_before(req->arrived, oldest))
			oldest = req->arrived;
	list_for_each_entry(chan, &ctl->channels, node) {
		list_for_each_entry(req, &chan->delivered, list)
			if (time_before(req->arrived, oldest))
				oldest = req->arrived;
		if (chan->rd.req && time_before(chan->rd.req->arrived, oldest))
			oldest = chan->rd.req->arrived;
	}
	return oldest;
}

/*
 * Status line; new fields are only ever appended:
 *
 * <name> <state> <channels> <servers> <queued> <delivered> <held> <oldest_ms>
 * <served> <errors> <given_back> <expired> <pushed_back> <coalesced>
 * <redirected> <extents> <remapped>
 *
 * name: control name
 * state: new, live, orphaned or failed
 * channels: open files of the control node
 * servers: those among them that serve
 * queued: requests no server has
 * delivered: requests a server has, not answered yet
 * held: writes of a dead, unfenced server, waiting for a decision
 * oldest_ms: age of the oldest of all these, 0 if there is none
 * served: requests answered
 * errors: requests that ended with an error
 * given_back: requests that closing channels returned to the queue
 * expired: requests failed by a deadline
 * pushed_back: requests handed back by noflush suspends
 * coalesced: requests delivered in the message of another
 * redirected: bios sent straight to a backing device
 * extents: how many the table has at this time
 * remapped: requests among those served whose answer was a place on one
 *
 * The counters belong to the name and live across table reloads.
 */
static unsigned int dmu_status_info(struct dmu_target *t, char *result,
				    unsigned int maxlen)
{
	struct dmu_control *ctl = t->ctl;
	unsigned int sz = 0, extents;
	u64 redirected;

	spin_lock(&ctl->lock);
	dmu_redirect_status(t, &redirected, &extents);
	DMEMIT("%s %s %u %u %u %u %u %u %llu %llu %llu %llu %llu %llu %llu %u %llu",
	       ctl->name, dmu_state_name(ctl->state), ctl->nr_channels,
	       ctl->nr_servers, ctl->nr_queued, ctl->nr_delivered, ctl->nr_held,
	       jiffies_to_msecs(jiffies - dmu_oldest(ctl)), ctl->stats.served,
	       ctl->stats.errors, ctl->stats.given_back, ctl->stats.expired,
	       ctl->stats.pushed_back, ctl->stats.coalesced, redirected,
	       extents, ctl->stats.remapped);
	spin_unlock(&ctl->lock);
	return sz;
}

static void dmu_status(struct dm_target *ti, status_type_t type,
		       unsigned int status_flags, char *result, unsigned int maxlen)
{
	struct dmu_target *t = ti->private;
	struct dmu_options opts;
	unsigned int sz = 0;

	spin_lock(&t->ctl->lock);
	opts = t->opts;
	spin_unlock(&t->ctl->lock);

	switch (type) {
	case STATUSTYPE_INFO:
		sz += dmu_status_info(t, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		DMEMIT("%llu %llu %s", t->arg_start, t->arg_len, t->ctl->name);
		sz += dmu_options_show(&opts, result + sz, maxlen - sz);
		break;
	case STATUSTYPE_IMA:
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",control_name=%s,read_only=%c", t->ctl->name,
		       dmu_has(t, DMU_OPT_READ_ONLY) ? 'y' : 'n');
		DMEMIT(";");
		break;
	}
}

/* Options that need no new table; the others shape the queue's limits. */
static bool dmu_may_change(const char *name)
{
	return !strcmp(name, "new_ms") || !strcmp(name, "orphan_ms") ||
	       !strcmp(name, "stuck_ms") || !strcmp(name, "unfenced");
}

static int dmu_message_option(struct dmu_target *t, char **argv)
{
	char *error = "";
	int r;

	spin_lock(&t->ctl->lock);
	r = dmu_options_set(&t->opts, argv[0], argv[1], &error);
	if (r > 0)
		__dmu_deadline_arm(t->ctl, true);
	spin_unlock(&t->ctl->lock);
	if (r < 0) {
		DMWARN_LIMIT("%s: message %s %s: %s", t->ctl->name, argv[0], argv[1], error);
		return r;
	}
	return 0;
}

/*
 * Messages:
 *
 * new_ms|orphan_ms|stuck_ms <milliseconds>|forever
 * unfenced fail|hold|requeue
 *	change the option of the table
 * fail_queued
 *	fail all requests that no server has, held writes among them
 * requeue
 *	put held writes back into the queue: the dead server's can no longer land
 */
static int dmu_message(struct dm_target *ti, unsigned int argc, char **argv,
		       char *result, unsigned int maxlen)
{
	struct dmu_target *t = ti->private;
	struct dmu_control *ctl = t->ctl;
	unsigned int requeued;
	LIST_HEAD(done);

	if (argc == 2 && dmu_may_change(argv[0]))
		return dmu_message_option(t, argv);

	if (argc == 1 && !strcmp(argv[0], "fail_queued")) {
		spin_lock(&ctl->lock);
		__dmu_finish_waiting(ctl, BLK_STS_IOERR, &done);
		spin_unlock(&ctl->lock);
		dmu_complete_all(&done);
		return 0;
	}
	if (argc == 1 && !strcmp(argv[0], "requeue")) {
		spin_lock(&ctl->lock);
		requeued = __dmu_requeue_held(ctl);
		__dmu_deadline_arm(ctl, true);
		spin_unlock(&ctl->lock);
		if (requeued)
			wake_up_interruptible_nr(&ctl->wait, requeued);
		return 0;
	}
	DMWARN_LIMIT("%s: unknown message %s with %u arguments", ctl->name,
		     argv[0], argc - 1);
	return -EINVAL;
}

/*
 * There may be no device below. The hook must exist all the same: without it
 * the core of older kernels (6.1) asks for no limits and grants neither write
 * zeroes nor REQ_NOWAIT.
 */
static int dmu_iterate_devices(struct dm_target *ti,
			       iterate_devices_callout_fn fn, void *data)
{
	return dmu_redirect_iterate(ti->private, fn, data);
}

static void dmu_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	const struct dmu_target *t = ti->private;
	const struct dmu_options *opts = &t->opts;
	u32 physical = opts->physical_block_bytes ?: opts->logical_block_bytes;
	u32 nodata = dmu_max_nodata_sectors(t);

	limits->logical_block_size = opts->logical_block_bytes;
	limits->physical_block_size = max(limits->physical_block_size, physical);
	limits->io_min = max(limits->io_min, physical);
	/*
	 * The core splits by what dmu_check_geometry() has set; this is for
	 * those who look. The block layer wants no less than a page here.
	 */
	if (opts->max_io_sectors >= PAGE_SIZE >> SECTOR_SHIFT) {
		limits->max_sectors = opts->max_io_sectors;
		limits->max_hw_sectors = opts->max_io_sectors;
	}
	dmu_limits_set_discard(limits, ti->num_discard_bios ? nodata : 0,
			       opts->discard_granularity_bytes ?: physical);
	dmu_limits_set_write_zeroes(limits,
				    ti->num_write_zeroes_bios ? nodata : 0);
	limits->max_secure_erase_sectors =
		ti->num_secure_erase_bios ? nodata : 0;
}

/* The target "user". */
struct target_type dmu_target_type = {
	.name = "user",
	.version = { 1, 5, 0 },
	.features = DM_TARGET_NOWAIT,
	.module = THIS_MODULE,
	.ctr = dmu_ctr,
	.dtr = dmu_dtr,
	.map = dmu_map,
	.end_io = dmu_redirect_end_io,
	.presuspend = dmu_presuspend,
	.presuspend_undo = dmu_presuspend_undo,
	.resume = dmu_resume,
	.status = dmu_status,
	.message = dmu_message,
	.iterate_devices = dmu_iterate_devices,
	.io_hints = dmu_io_hints,
};

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of dm-user share: the structures, the states of a request,
 * the lock order, and who offers which function.
 */
#ifndef DM_USER_H
#define DM_USER_H

#include <linux/bio.h>
#include <linux/device-mapper.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/spinlock.h>
#include <linux/uio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "redirect.h"
#include "uapi/dm-user.h"

#define DM_MSG_PREFIX "user"

/**
 * DOC: Life of a request
 *
 * A request is a bio that the target owes an answer. It lives in the bio's
 * per-I/O data, so taking one costs no allocation. It is completed exactly
 * once, by dmu_complete() or by __dmu_finish() and the list it fills.
 *
 * ::
 *
 *              map                read() starts        last byte read
 *    (bio) ----------> QUEUED ----------> READING ----------> DELIVERED
 *                        ^  ^                |                 |    ^ |
 *                        |  +-- close -------+         header  |    | |
 *                        |  +-- close, may be repeated --------+    | |
 *            "requeue"   |                             of reply|    | |
 *    HELD ---------------+                                     v    | |
 *      ^                                                    WRITING-+ |
 *      +-- close, unfenced and policy "hold" -----------------+       |
 *                                                             |       |
 *                              last byte of the reply         v       v
 *    any state -- deadline, push-back, message, dtr ------> DONE (bio_endio, or
 *                                          on to a device: DOC: Remap)
 *
 * QUEUED: on &dmu_control.queue, which is in order of sequence numbers.
 * READING: @xfer.req of the reading side of one channel; the header, or part of
 * the payload, may have been copied out.
 * DELIVERED, WRITING: on &dmu_channel.delivered and in &dmu_control.delivered;
 * WRITING has an answer half transferred, in the writing side of that channel.
 * HELD: on &dmu_control.held; a write that may still land from a dead server.
 * DONE: on no list but perhaps that of its completer.
 *
 * Nothing of a transfer is kept in the bio: bi_iter is never advanced, each
 * side of a channel has an iterator of its own. A request can therefore go
 * back to QUEUED from anywhere without a trace, and the next channel gets all
 * of it again, with the same sequence number.
 *
 * A channel that asked for it gets adjacent reads, or writes, that stand one
 * behind the other in the queue as one message. The first of them, the leader,
 * then goes through the states for all; the others are its riders and on no
 * list but @riders, from the moment the message is begun to their end. A group
 * never comes apart, and one that has been delivered does not grow: what a
 * sequence number means does not change.
 *
 * A copy between the bio's pages and the daemon's memory runs without any
 * spinlock, and with page faults disabled, so that it ends in bounded time
 * whatever the daemon's memory is made of; pages are faulted in between two
 * copies. While one runs, @copies is not zero: whoever wants the request DONE
 * takes it off all lists and writes down the status, and the last copier
 * completes it (dmu_copy_end()). So a request is never freed under a copy, and
 * no deadline, push-back or removal ever waits for a page of the daemon.
 */

/**
 * DOC: Locks
 *
 * In the order in which they nest:
 *
 * 1. the registry mutex (main.c): names, the list of targets of a control,
 *    which target is active; misc_register() runs under it. The misc core
 *    calls dmu_open() with its own mutex held, which nests inside this one, so
 *    nothing reached from the channel's file operations takes the registry.
 * 2. &dmu_channel.read_mutex, &dmu_channel.write_mutex: one direction of a
 *    stream each; never both; never held while waiting for a request. Only
 *    threads that share one open file meet here.
 * 3. &dmu_control.lock, a spinlock: everything else. Taken in process context
 *    only (map, file operations, workqueue). Nothing sleeps and no bio
 *    completes under it: bios to be ended are collected in a list and ended
 *    after it is dropped (dmu_complete_all()).
 * 4. the lock of &dmu_control.wait, with interrupts off: who waits, and the
 *    fetches that do. Taken with at most a direction's mutex held; under it are
 *    only what io_uring and the scheduler take to wake a task.
 *
 * The lock of an io_uring nests outside all of these: ->uring_cmd() and what it
 * has called in the submitter's context run with it. So nothing that may take
 * it, as ending a command does, is called with a lock of ours held.
 *
 * &dmu_redirect.late_lock, with interrupts off, is a leaf: a list of bios, taken
 * where a bio ends and by the worker, with nothing else held or taken.
 *
 * &dmu_redirect.mutex stands apart: it is taken by the ioctls about extents
 * alone, with none of these held, and none of these is taken under it; and
 * nobody but these ioctls waits for it, so the pages of a daemon may be waited
 * for, and redirected bios. What map() and ->end_io do about extents needs RCU
 * alone.
 */

/* Deadlines, in the order of dmu_options.ms. */
enum dmu_deadline {
	DMU_NEW,		/* nobody has served yet */
	DMU_ORPHAN,		/* the server is gone */
	DMU_STUCK,		/* a server is there and does not answer */
	DMU_NR_DEADLINES,
};

#define DMU_MS_MAX	INT_MAX
#define DMU_FOREVER	UINT_MAX

/* Words of the feature list, in the order in which the table line has them. */
enum dmu_feature {
	DMU_OPT_NEW_MS,		/* the first three as in enum dmu_deadline */
	DMU_OPT_ORPHAN_MS,
	DMU_OPT_STUCK_MS,
	DMU_OPT_UNFENCED,
	DMU_OPT_READ_ONLY,
	DMU_OPT_NO_FLUSH,
	DMU_OPT_DISCARD,
	DMU_OPT_WRITE_ZEROES,
	DMU_OPT_SECURE_ERASE,
	DMU_OPT_MAX_IO,
	DMU_OPT_LOGICAL_BLOCK,
	DMU_OPT_PHYSICAL_BLOCK,
	DMU_OPT_DISCARD_GRANULARITY,
	DMU_OPT_MAX_DISCARD,
	DMU_OPT_REDIRECT,
	DMU_NR_OPTS,
};

/* What becomes of a delivered write of a channel that closed unfenced. */
enum dmu_unfenced {
	DMU_UNFENCED_FAIL,
	DMU_UNFENCED_HOLD,
	DMU_UNFENCED_REQUEUE,
	DMU_NR_UNFENCED,
};

/**
 * struct dmu_options - the feature arguments of one table line
 * @given: bit per enum dmu_feature that was named; the rest have defaults
 * @ms: deadlines in milliseconds, DMU_FOREVER for none; see dmu_deadline_ms()
 * @unfenced: policy for delivered writes of unfenced channels
 * @max_io_sectors: bound of a request that carries data, 0 for none
 * @logical_block_bytes: logical block size, 512 if not given
 * @physical_block_bytes: physical block size, 0 if not given
 * @discard_granularity_bytes: smallest discard worth sending, 0 if not given
 * @max_discard_sectors: bound of a request that carries none, 0 if not given
 * @max_extents: bound of redirect, 0 without
 * @nr_devices: backing devices of redirect
 * @device_names: what the table line calls them; in the constructor only
 * @devices: the devices, once they are open
 */
struct dmu_options {
	unsigned long given;
	u32 ms[DMU_NR_DEADLINES];
	enum dmu_unfenced unfenced;
	u32 max_io_sectors;
	u32 logical_block_bytes;
	u32 physical_block_bytes;
	u32 discard_granularity_bytes;
	u32 max_discard_sectors;
	u32 max_extents;
	u32 nr_devices;
	char **device_names;
	struct dm_dev *devices[DMU_DEVICES_MAX];
};

/**
 * struct dmu_stats - counters since the control node was created, of bios
 * @served: requests a server has answered, with whatever result
 * @errors: requests that ended with an error, whoever decided it
 * @given_back: requests returned to the queue by a closing channel
 * @expired: requests failed by a deadline
 * @pushed_back: requests taken back from queue or server by a noflush suspend
 * @coalesced: requests that were delivered in the message of another
 * @redirected: bios redirected by targets that are no longer active
 * @remapped: requests among @served that were answered with a place
 */
struct dmu_stats {
	u64 served;
	u64 errors;
	u64 given_back;
	u64 expired;
	u64 pushed_back;
	u64 coalesced;
	u64 redirected;
	u64 remapped;
};

/*
 * Buckets for delivered requests. Sequence numbers are consecutive, so the
 * chains are level and longer than one entry only when one server holds more
 * than this many requests.
 */
#define DMU_HASH_BITS	8
#define DMU_HASH_SIZE	BIT(DMU_HASH_BITS)

/**
 * struct dmu_control - one name: the queue behind /dev/dm-user/NAME
 * @ref: held by each target and each open channel
 * @node: entry in the registry; registry mutex
 * @misc: the character device; @misc.name is allocated
 * @name: points into @misc.name
 * @md: the mapped device all tables of this name belong to
 * @targets: the targets (tables) that use this name; registry mutex
 * @active: the target whose options hold: the one resumed last. Written with
 *	the registry mutex and @lock held, so either is enough to read it
 * @lock: protects all that follows
 * @state: DM_USER_STATE_*
 * @state_since: jiffies of the last change of @state
 * @progress: jiffies of the last time a server took or answered a request
 * @next_seq: number of the next request
 * @queue: QUEUED requests, in order of sequence numbers
 * @held: HELD requests, longest first
 * @delivered: DELIVERED and WRITING requests by sequence number
 * @nr_queued: bios in @queue
 * @nr_held: bios in @held
 * @nr_delivered: bios in READING, DELIVERED and WRITING
 * @channels: open files, struct dmu_channel
 * @nr_channels: length of @channels
 * @nr_servers: channels among them that serve, see dmu_channel_serve()
 * @stats: counters
 * @wait: readers (exclusive) and pollers waiting for a request
 * @deadline_work: ends what has waited too long
 * @event_work: tells user space that the server came or went
 */
struct dmu_control {
	struct kref ref;
	struct list_head node;
	struct miscdevice misc;
	const char *name;
	struct mapped_device *md;
	struct list_head targets;
	struct dmu_target *active;

	/* Protects everything below; see DOC: Locks. */
	spinlock_t lock;
	u32 state;
	unsigned long state_since;
	unsigned long progress;
	u64 next_seq;
	struct list_head queue;
	struct list_head held;
	struct hlist_head delivered[DMU_HASH_SIZE];
	unsigned int nr_queued;
	unsigned int nr_held;
	unsigned int nr_delivered;
	struct list_head channels;
	unsigned int nr_channels;
	unsigned int nr_servers;
	struct dmu_stats stats;

	wait_queue_head_t wait;
	struct delayed_work deadline_work;
	struct work_struct event_work;
};

/**
 * struct dmu_target - one line of one table
 * @ti: the device-mapper's side
 * @ctl: the control node, referenced
 * @node: entry in &dmu_control.targets
 * @opts: feature arguments; messages change them under &dmu_control.lock
 * @arg_start: first table argument, given back as it came
 * @arg_len: second table argument, the same
 * @redirect: backing devices and extents, NULL without the feature
 * @push_back: a noflush suspend runs: map hands bios back; written under
 *	&dmu_control.lock
 */
struct dmu_target {
	struct dm_target *ti;
	struct dmu_control *ctl;
	struct list_head node;
	struct dmu_options opts;
	u64 arg_start;
	u64 arg_len;
	struct dmu_redirect *redirect;
	bool push_back;
};

enum dmu_state {
	DMU_QUEUED,
	DMU_READING,
	DMU_DELIVERED,
	DMU_WRITING,
	DMU_HELD,
	DMU_DONE,
};

/**
 * struct dmu_request - a bio that is owed an answer; per-I/O data of the bio
 * @list: queue, held or delivered list, or that of the completer
 * @hash: entry in &dmu_control.delivered
 * @chan: the channel it is with; NULL in QUEUED, HELD and DONE
 * @seq: sequence number; the same each time the request is delivered
 * @since: jiffies when it came into its present state
 * @arrived: jiffies when the bio came
 * @copies: user copies running on the bio's pages
 * @state: where it is; see DOC: Life of a request
 * @status: result, once DONE
 * @touched: the server knows enough to have changed its storage
 * @sealed: has been delivered; no riders are added
 * @riders: requests that are answered with this one, in order of sectors
 * @nr: bios, this one and its riders
 * @bytes: length of all of them
 * @epoch: of a bio that went to a backing device, and is no request, or none any
 *	more: see DMU_NOT_REDIRECTED. Set before it is sent, read by ->end_io
 * @device: DONE and remapped: which backing device
 * @remap: DONE: the bio goes to a backing device
 * @bio: the bio
 * @target: whose bio it is
 * @at: DONE and remapped: first sector on the device
 * @sent: iterator of the bio when it was sent there
 *
 * But for @epoch, @bio and @sent all fields are protected by &dmu_control.lock, until
 * the request is DONE.
 */
struct dmu_request {
	struct list_head list;
	struct hlist_node hash;
	struct dmu_channel *chan;
	u64 seq;
	unsigned long since;
	unsigned long arrived;
	unsigned int copies;
	enum dmu_state state;
	blk_status_t status;
	bool touched;
	bool sealed;
	struct list_head riders;
	unsigned int nr;
	u32 bytes;
	u8 epoch;
	u8 device;
	bool remap;
	struct bio *bio;
	struct dmu_target *target;
	u64 at;
	struct bvec_iter sent;
};

/**
 * struct dmu_transfer - the message in transfer, one direction of one channel
 * @req: the request; NULL when there is none, or when it was taken away in the
 *	middle of the transfer; written under &dmu_control.lock
 * @active: reading: a message has been begun; writing: a payload is due;
 *	written under &dmu_control.lock
 * @header_done: bytes of @header that have passed
 * @left: bytes of the payload that have not
 * @skip: writing, in batch mode: bytes of a refused reply still to come
 * @part: the leader or rider whose bio @iter is in; valid while @req is kept
 * @iter: where in the bio they go or come from
 * @header: a struct dm_user_message
 *
 * What has no other lock named is protected by the direction's mutex.
 */
struct dmu_transfer {
	struct dmu_request *req;
	bool active;
	unsigned int header_done;
	unsigned int left;
	unsigned int skip;
	struct dmu_request *part;
	struct bvec_iter iter;
	u8 header[sizeof(struct dm_user_message)] __aligned(8);
};

/* Fetches at a time on one channel: one with the server, one waiting. */
#define DMU_FETCH_MAX	2

/*
 * enum dmu_fetch_state - whose a fetch is
 * @DMU_FETCH_FREE: nobody's, and there is no command
 * @DMU_FETCH_RUNNING: of the task that serves the command, or waits in it
 * @DMU_FETCH_PARKED: of whoever takes it from here, under the wait queue's lock
 * @DMU_FETCH_WOKEN: of the work that was put in for it
 * @DMU_FETCH_CANCELED: as RUNNING or WOKEN, and the command is to end
 */
enum dmu_fetch_state {
	DMU_FETCH_FREE,
	DMU_FETCH_RUNNING,
	DMU_FETCH_PARKED,
	DMU_FETCH_WOKEN,
	DMU_FETCH_CANCELED,
};

/**
 * struct dmu_fetch - an io_uring command that wants messages
 * @cmd: the command; NULL if it is free
 * @state: whose it is
 * @owner: table of open files of the process that submitted it
 * @requests: address of the buffer for messages
 * @requests_bytes: size of the buffer
 *
 * Protected by the lock of &dmu_control.wait; @requests and @requests_bytes by
 * whoever the fetch belongs to.
 */
struct dmu_fetch {
	struct io_uring_cmd *cmd;
	enum dmu_fetch_state state;
	const void *owner;
	u64 requests;
	u32 requests_bytes;
};

/**
 * struct dmu_channel - one open file of the control node
 * @ctl: the control, referenced
 * @node: entry in &dmu_control.channels
 * @delivered: DELIVERED and WRITING requests, longest with the server first
 * @serving: counts as a server; &dmu_control.lock
 * @fenced: has promised DM_USER_CHANNEL_FENCED; &dmu_control.lock
 * @used: something was read or written; the modes below stay as they are
 * @batch: DM_USER_CHANNEL_BATCH
 * @user_copy: DM_USER_CHANNEL_USER_COPY
 * @remap: DM_USER_CHANNEL_REMAP
 * @coalesce_bytes: longest message made of several requests; 0: none is.
 *	&dmu_control.lock
 * @rd_canceled: the batch given last ended in a message that was taken away;
 *	@read_mutex
 * @stopped: DM_USER_CHANNEL_STOPPED; written under &dmu_control.lock
 * @nr_waiting: readers asleep in this channel, or about to be
 * @read_mutex: protects @rd
 * @write_mutex: protects @wr
 * @rd: the request on its way to the server
 * @wr: the reply on its way from the server
 * @fetches: io_uring commands; lock of &dmu_control.wait
 * @nr_parked: how many of them are parked; the same
 * @fetch_wait: in &dmu_control.wait while one is parked
 */
struct dmu_channel {
	struct dmu_control *ctl;
	struct list_head node;
	struct list_head delivered;
	bool serving;
	bool fenced;
	bool used;
	bool batch;
	bool user_copy;
	bool remap;
	u32 coalesce_bytes;
	bool rd_canceled;
	bool stopped;
	atomic_t nr_waiting;
	/* One reader of the stream at a time. */
	struct mutex read_mutex;
	/* One writer of the stream at a time. */
	struct mutex write_mutex;
	struct dmu_transfer rd;
	struct dmu_transfer wr;
	struct dmu_fetch fetches[DMU_FETCH_MAX];
	unsigned int nr_parked;
	struct wait_queue_entry fetch_wait;
};

/* main.c: module, registry of names, events */

extern struct workqueue_struct *dmu_wq;
extern struct workqueue_struct *dmu_io_wq;
int dmu_control_attach(struct dmu_target *t, const char *name);
void dmu_control_detach(struct dmu_target *t);
void dmu_control_activate(struct dmu_target *t);
void dmu_control_put(struct dmu_control *ctl);
const char *dmu_state_name(u32 state);
u32 dmu_default_ms(void);

/* target.c: what the device-mapper calls */

extern struct target_type dmu_target_type;

/* options.c: words of the table line */

const char *dmu_name_check(const char *name);
int dmu_options_set(struct dmu_options *opts, const char *name,
		    const char *value, char **error);
int dmu_options_parse(struct dmu_options *opts, struct dm_arg_set *as,
		      char **error);
unsigned int dmu_options_show(const struct dmu_options *opts, char *result,
			      unsigned int maxlen);

/* wire.c: headers of requests */

#define DMU_WIRE_NONE	U64_MAX

u64 dmu_wire_type(struct bio *bio);
void dmu_message_fill(struct dm_user_message *msg, struct dmu_request *req);

/* request.c: from bio to completion */

int dmu_request_map(struct dmu_target *t, struct bio *bio);
struct dmu_request *__dmu_request_take(struct dmu_channel *chan);
struct dmu_request *__dmu_request_pick(struct dmu_channel *chan);
void __dmu_request_unpick(struct dmu_channel *chan);
void __dmu_request_delivered(struct dmu_request *req);
struct dmu_request *__dmu_request_find(struct dmu_channel *chan, u64 seq);
void __dmu_finish(struct dmu_control *ctl, struct dmu_request *req,
		  blk_status_t status, struct list_head *done);
void __dmu_finish_waiting(struct dmu_control *ctl, blk_status_t status,
			  struct list_head *done);
void __dmu_finish_all(struct dmu_control *ctl, blk_status_t status,
		      struct list_head *done);
void dmu_complete_all(struct list_head *done);
struct dmu_request *dmu_copy_begin(struct dmu_control *ctl,
				   struct dmu_transfer *xfer);
void dmu_copy_end(struct dmu_control *ctl, struct dmu_request *req);
void dmu_transfer_at(struct dmu_transfer *xfer, struct dmu_request *req,
		     u32 offset_bytes);
struct bio *dmu_transfer_advance(struct dmu_transfer *xfer,
				 struct dmu_request *req, struct bio *bio,
				 u32 bytes);
void __dmu_take_back(struct dmu_channel *chan, struct dmu_request *req);
unsigned int __dmu_give_back(struct dmu_channel *chan, struct list_head *done);
unsigned int __dmu_requeue_held(struct dmu_control *ctl);
bool dmu_request_modifies(struct dmu_request *req);

/* deadline.c: states of the server and what waits too long */

void __dmu_state_set(struct dmu_control *ctl, u32 state);
u32 __dmu_deadline_ms(struct dmu_control *ctl, enum dmu_deadline which);
void __dmu_deadline_set(struct dmu_control *ctl);
void __dmu_server_gone(struct dmu_control *ctl, struct list_head *done);
void dmu_deadline_work(struct work_struct *work);

/* channel.c: the open file */

extern const struct file_operations dmu_fops;
void dmu_channel_serve(struct dmu_channel *chan);
bool dmu_channel_readable(struct dmu_channel *chan);

/* stream.c: read and write of messages */

/* A request is kept from being completed for no longer than this takes. */
#define DMU_COPY_BYTES_MAX	(64U << 10)

/*
 * Attempts to copy after the pages were faulted in but found gone again. Only
 * a process whose pages cannot be kept gets this far.
 */
#define DMU_COPY_TRIES_MAX	64

#define DMU_HEADER_BYTES	((unsigned int)sizeof(struct dm_user_message))

size_t dmu_copy_some(struct dmu_request *req, struct dmu_transfer *xfer,
		     struct iov_iter *iter, bool out);
bool dmu_read_begin(struct dmu_channel *chan);
ssize_t dmu_read_once(struct dmu_channel *chan, struct iov_iter *to);
ssize_t dmu_write_once(struct dmu_channel *chan, struct iov_iter *from);
int dmu_wait(struct dmu_channel *chan, long *timeout, struct dmu_fetch *fetch,
	     int *wake_fd);
void dmu_wake_next(struct dmu_channel *chan);
ssize_t dmu_read_iter(struct kiocb *iocb, struct iov_iter *to);
ssize_t dmu_write_iter(struct kiocb *iocb, struct iov_iter *from);

/* headers.c: many messages without data at a time */

ssize_t dmu_headers_give(struct dmu_channel *chan, struct iov_iter *to);
ssize_t dmu_headers_take(struct dmu_channel *chan, struct iov_iter *from,
			 u32 *stale);

/* waker.c: another file that ends a wait */

/**
 * struct dmu_waker - a file that somebody who waits for requests waits for too
 * @pt: for the file's poll
 * @wait: in the queue that it waits in
 * @head: that queue; NULL: none, or it has gone
 * @file: kept open
 * @task: who waits
 * @ready: it can be read, or is not to be waited for
 */
struct dmu_waker {
	poll_table pt;
	wait_queue_entry_t wait;
	wait_queue_head_t *head;
	struct fd file;
	struct task_struct *task;
	bool ready;
};

int dmu_waker_begin(struct dmu_waker *waker, int fd);
void dmu_waker_end(struct dmu_waker *waker);

/* batch.c: many messages in one call */

ssize_t dmu_batch_read(struct dmu_channel *chan, struct iov_iter *to);
ssize_t dmu_batch_write(struct dmu_channel *chan, struct iov_iter *from,
			u32 *stale);
int dmu_batch_load(struct dmu_channel *chan, struct dm_user_batch *batch,
		   void __user *arg);
int dmu_batch_store(const struct dm_user_batch *batch, void __user *arg);
int dmu_batch_take(struct dmu_channel *chan, struct dm_user_batch *batch);
ssize_t dmu_batch_give_now(struct dmu_channel *chan, struct dm_user_batch *batch);
ssize_t dmu_batch_give(struct dmu_channel *chan, struct dm_user_batch *batch,
		       struct dmu_fetch *fetch);
long dmu_ioctl_batch(struct dmu_channel *chan, void __user *arg);
long dmu_ioctl_copy(struct dmu_channel *chan, void __user *arg);

/* uring.c: batches as commands of an io_uring */

void dmu_fetch_init(struct dmu_channel *chan);
int dmu_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags);
int dmu_flush(struct file *file, fl_owner_t id);

/**
 * dmu_request_bio() - The bio of a request
 * @req: a request that is not completed
 *
 * Return: the bio, whose iterator is as it came.
 */
static inline struct bio *dmu_request_bio(struct dmu_request *req)
{
	return req->bio;
}

/**
 * dmu_request_bytes() - Length of what a request is about, riders included
 * @req: a request that is not completed
 *
 * Return: bytes; not all operations carry them as payload.
 */
static inline u32 dmu_request_bytes(struct dmu_request *req)
{
	return req->bytes;
}

/**
 * dmu_request_payload_out() - Bytes that follow the header to the server
 * @req: a request that is not completed
 *
 * Return: bytes, 0 for all but a WRITE with data.
 */
static inline u32 dmu_request_payload_out(struct dmu_request *req)
{
	return bio_op(dmu_request_bio(req)) == REQ_OP_WRITE ?
		dmu_request_bytes(req) : 0;
}

/**
 * dmu_request_payload_in() - Bytes that follow the header of a good reply
 * @req: a request that is not completed
 *
 * Return: bytes, 0 for all but a READ.
 */
static inline u32 dmu_request_payload_in(struct dmu_request *req)
{
	return bio_op(dmu_request_bio(req)) == REQ_OP_READ ?
		dmu_request_bytes(req) : 0;
}

/**
 * __dmu_deadline_arm() - See to it that the work runs when something is due
 * @ctl: control
 * @sooner: something may be due before the moment the work is armed for; else
 *	a work already armed is left alone, which costs nothing
 *
 * Context: &dmu_control.lock held.
 */
static inline void __dmu_deadline_arm(struct dmu_control *ctl, bool sooner)
{
	const struct dmu_target *t = ctl->active;

	/* By far the most frequent: a server is there, and may take its time. */
	if (ctl->state == DM_USER_STATE_LIVE && list_empty(&ctl->held) &&
	    (!t || !test_bit(DMU_OPT_STUCK_MS, &t->opts.given)))
		return;
	if (sooner || !delayed_work_pending(&ctl->deadline_work))
		__dmu_deadline_set(ctl);
}

#endif /* DM_USER_H */

/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * dm-user: what the device-mapper target "user" and its daemon say to each
 * other over /dev/dm-user/<name>.
 *
 * Stream ABI, version 1, is the one of Android's dm-user: byte for byte the
 * same, so either side may be Android's. Everything else here is asked for by
 * ioctl, so that a version 1 daemon notices nothing.
 *
 * All integers are in host order (every supported host is little-endian).
 * Sectors are 512 bytes.
 */
#ifndef _UAPI_LINUX_DM_USER_H
#define _UAPI_LINUX_DM_USER_H

#include <linux/const.h>
#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct dm_user_message - header of every request and every reply; a payload,
 *	of a WRITE in the request or a READ in the reply, follows it
 * @seq: names the request; counts up from 0 per target. A request that is
 *	given again after its channel closed keeps its number.
 * @type: request: DM_USER_REQ_MAP_*; reply: DM_USER_RESP_*
 * @flags: request: DM_USER_REQ_MAP_FLAG_*; reply: 0, or see
 *	DM_USER_CHANNEL_REMAP
 * @sector: first sector, counted from the start of the dm device; ignored in
 *	a reply, or see there
 * @len: bytes; ignored in a reply, whose length is that of its request
 *
 * A read() returns header bytes or payload bytes, never both. Any split into
 * shorter reads and writes is legal. Replies may come in any order, on the
 * channel (open file) that read the request. An error reply is the header
 * alone. A write() takes one reply at most. An fsync arrives as a WRITE of
 * length 0 with FLAG_PREFLUSH.
 *
 * EINVAL from write(): the reply names no request of this channel, or that
 * request was taken away (a deadline, a suspend); the next write() begins a new
 * reply. ECANCELED from read(): the request was taken away in the middle of its
 * payload; the next read() begins a new request. ENOTBLK: the target is gone.
 */
struct dm_user_message {
	__u64 seq;
	__u64 type;
	__u64 flags;
	__u64 sector;
	__u64 len;
};

#define DM_USER_REQ_MAP_READ		0
#define DM_USER_REQ_MAP_WRITE		1
#define DM_USER_REQ_MAP_FLUSH		2
#define DM_USER_REQ_MAP_DISCARD		3
#define DM_USER_REQ_MAP_SECURE_ERASE	4
#define DM_USER_REQ_MAP_WRITE_SAME	5
#define DM_USER_REQ_MAP_WRITE_ZEROES	6

#define DM_USER_REQ_MAP_FLAG_FAILFAST_DEV	0x00001
#define DM_USER_REQ_MAP_FLAG_FAILFAST_TRANSPORT	0x00002
#define DM_USER_REQ_MAP_FLAG_FAILFAST_DRIVER	0x00004
#define DM_USER_REQ_MAP_FLAG_SYNC		0x00008
#define DM_USER_REQ_MAP_FLAG_META		0x00010
#define DM_USER_REQ_MAP_FLAG_PRIO		0x00020
#define DM_USER_REQ_MAP_FLAG_NOMERGE		0x00040
#define DM_USER_REQ_MAP_FLAG_IDLE		0x00080
#define DM_USER_REQ_MAP_FLAG_INTEGRITY		0x00100
#define DM_USER_REQ_MAP_FLAG_FUA		0x00200
#define DM_USER_REQ_MAP_FLAG_PREFLUSH		0x00400
#define DM_USER_REQ_MAP_FLAG_RAHEAD		0x00800
#define DM_USER_REQ_MAP_FLAG_BACKGROUND		0x01000
#define DM_USER_REQ_MAP_FLAG_NOWAIT		0x02000
#define DM_USER_REQ_MAP_FLAG_CGROUP_PUNT	0x04000
#define DM_USER_REQ_MAP_FLAG_NOUNMAP		0x08000
#define DM_USER_REQ_MAP_FLAG_HIPRI		0x10000
#define DM_USER_REQ_MAP_FLAG_DRV		0x20000
#define DM_USER_REQ_MAP_FLAG_SWAP		0x40000

#define DM_USER_RESP_SUCCESS		0
#define DM_USER_RESP_ERROR		1
#define DM_USER_RESP_UNSUPPORTED	2
#define DM_USER_RESP_REMAP		3	/* with DM_USER_CHANNEL_REMAP alone */

/* What a target can do; struct dm_user_info.features. */
#define DM_USER_FEATURE_FENCED	_BITULL(0)	/* DM_USER_CHANNEL_FENCED is known */
#define DM_USER_FEATURE_POLL	_BITULL(1)	/* poll() and O_NONBLOCK work */
#define DM_USER_FEATURE_BATCH	_BITULL(2)	/* DM_USER_CHANNEL_BATCH is known */
#define DM_USER_FEATURE_USER_COPY _BITULL(3)	/* DM_USER_CHANNEL_USER_COPY is known */
#define DM_USER_FEATURE_COALESCE _BITULL(4)	/* DM_USER_CHANNEL_COALESCE is known */
#define DM_USER_FEATURE_REDIRECT _BITULL(5)	/* DM_USER_IOC_EXTENTS_ADD and so on are known */

#define DM_USER_FEATURE_URING	_BITULL(6)	/* DM_USER_IOC_BATCH as an io_uring command */
/* Such a command that waits holds no thread; without it, one of io_uring's. */
#define DM_USER_FEATURE_URING_PARKS _BITULL(7)
#define DM_USER_FEATURE_STOPPED	_BITULL(8)	/* DM_USER_CHANNEL_STOPPED is known */
#define DM_USER_FEATURE_SEGMENTS _BITULL(9)	/* dm_user_batch.segments is known */
#define DM_USER_FEATURE_REMAP	_BITULL(10)	/* DM_USER_CHANNEL_REMAP is known */
#define DM_USER_FEATURE_WAKE	_BITULL(11)	/* DM_USER_BATCH_WAKE is known */

/*
 * States of a target; struct dm_user_info.state. A channel serves from its
 * first read(), its first poll() for input, or DM_USER_IOC_SET_CHANNEL; an open
 * file alone does not count.
 */
#define DM_USER_STATE_NEW	0	/* no channel has served yet */
#define DM_USER_STATE_LIVE	1	/* at least one channel serves */
#define DM_USER_STATE_ORPHANED	2	/* the last one closed; requests are kept */
#define DM_USER_STATE_FAILED	3	/* a deadline passed; requests fail until one serves */
#define DM_USER_STATE_REMOVED	4	/* the table is gone; only close() is left */

/**
 * struct dm_user_info - answer of DM_USER_IOC_INFO
 * @abi_version: version of the stream ABI, 1
 * @state: DM_USER_STATE_*
 * @features: DM_USER_FEATURE_*
 * @sectors: length of the target in sectors
 * @start_sector: where the target starts in its dm device, in sectors
 * @max_io_bytes: largest payload of one message, 0 if there is no bound
 * @redirect_devices: backing devices the table names for redirect
 * @max_extents: how many extents the table allows, 0 without redirect
 * @block_bytes: logical block; extents are multiples of it
 * @reserved: zero
 */
struct dm_user_info {
	__u32 abi_version;
	__u32 state;
	__u64 features;
	__u64 sectors;
	__u64 start_sector;
	__u64 max_io_bytes;
	__u32 redirect_devices;
	__u32 max_extents;
	__u32 block_bytes;
	__u32 reserved[3];
};

/*
 * The daemon promises that when this channel closes, for whatever reason, no
 * write it had begun for a request of this channel can still reach its
 * storage. Synchronous pwrite() and libaio keep that promise (the kernel ends
 * them before it closes the file); io_uring alone does not. The target gives
 * a delivered WRITE of a fenced channel to the next channel again; without the
 * promise it follows the table's policy for such writes. The same holds for
 * DISCARD, SECURE_ERASE and WRITE_ZEROES.
 */
#define DM_USER_CHANNEL_FENCED	_BITULL(0)

/*
 * One read() returns as many messages as are there and fit whole, one write()
 * takes as many replies as are offered, and DM_USER_IOC_BATCH does both. Only
 * the first message of a read() may be cut, when the buffer is smaller than it
 * is. A reply's @len says how many bytes of data follow it: those of a READ
 * that succeeded, else 0. A reply that names no request of this channel is
 * passed over with its data; one to a READ with another length than the
 * request's ends it with an error. Before the first read() or write(), else
 * EBUSY.
 */
#define DM_USER_CHANNEL_BATCH _BITULL(1)

/*
 * Messages and replies are headers alone; DM_USER_IOC_COPY moves the data of a
 * delivered request, in any pieces, before it is answered. A reply's @len is 0
 * in batch mode. Before the first read() or write(), else EBUSY.
 */
#define DM_USER_CHANNEL_USER_COPY _BITULL(2)

/*
 * Reads, or writes, of adjacent sectors that wait one behind the other come as
 * one message, and one reply answers all of them. Never a FUA or PREFLUSH
 * write. The message keeps its length when it is given again. May be asked for,
 * or no more, at any time.
 */
#define DM_USER_CHANNEL_COALESCE _BITULL(3)

/*
 * The channel gets no more requests: who waits for one, and who asks later, gets
 * ESHUTDOWN, after the rest of a message that was begun. Replies are taken, and
 * what is delivered stays. For a planned hand-over, and before the file is closed
 * while commands of an io_uring may be on their way. May be asked for, or no
 * more, at any time.
 */
#define DM_USER_CHANNEL_STOPPED _BITULL(4)

/*
 * A request may be answered by a place: DM_USER_RESP_REMAP, whose @flags say
 * which device of the table's "redirect" it is, counted from 0, and whose @sector
 * where the request's first byte is on it; no data follows. The kernel sends the
 * bios there, whatever they are: a read, a write with its FUA, a discard. The
 * request is over for the daemon, and for its deadlines; what becomes of the bios
 * is between the device and who sent them. DM_USER_IOC_EXTENTS_REVOKE waits for
 * them as for those that were redirected, and flushes go where data went, as
 * they do with DM_USER_EXTENT_WRITABLE.
 *
 * Only with BATCH and USER_COPY, else EINVAL: the data goes past the daemon, and
 * what has to pass through it is moved by DM_USER_IOC_COPY. EOPNOTSUPP: the table
 * names no devices. As BATCH, before the first read() or write().
 *
 * A place that cannot be (no such device, beyond its end, not whole logical
 * blocks, a write to what is open for reading, a request without a length) ends
 * the request with an error and counts as stale. What the device does not know is
 * unsupported.
 */
#define DM_USER_CHANNEL_REMAP	_BITULL(5)

/**
 * struct dm_user_channel - argument of DM_USER_IOC_SET_CHANNEL
 * @flags: DM_USER_CHANNEL_*; an unknown bit is refused with EINVAL
 * @coalesce_bytes: with DM_USER_CHANNEL_COALESCE, the longest message made of
 *	several requests, 1 to 4194304; max_io of the table bounds it too. Else 0
 * @reserved: must be zero
 */
struct dm_user_channel {
	__u64 flags;
	__u64 coalesce_bytes;
	__u64 reserved[2];
};

/* Most pieces that the replies of a batch may be in. */
#define DM_USER_BATCH_SEGMENTS_MAX	32

/*
 * Another file may end the wait for the first message: @wake_fd, as soon as it can
 * be read, or has an error or end. So a server that has more to look after than
 * this channel sleeps here, and needs one call for each batch. A file with several
 * wait queues (a terminal) ends the wait at once. Not as an io_uring command, which
 * gets EINVAL.
 */
#define DM_USER_BATCH_WAKE	_BITUL(0)

/**
 * struct dm_user_batch - argument of DM_USER_IOC_BATCH
 * @replies: address of replies, each with its data behind it
 * @requests: address of a buffer for messages
 * @replies_bytes: how many bytes of replies there are
 * @requests_bytes: size of the buffer; 0: take replies only
 * @timeout_ms: how long to wait for the first message; 0xffffffff: for ever
 * @flags: DM_USER_BATCH_*
 * @taken_bytes: out: bytes of @replies that were taken; if fewer, the rest is to
 *	be offered again, and nothing was given
 * @given_bytes: out: bytes in @requests; 0 when the time is over
 * @stale: out: replies among those taken that were passed over
 * @segments: 0, or: @replies is the address of so many struct iovec, as for
 *	writev(), whose lengths add up to @replies_bytes
 * @wake_fd: with DM_USER_BATCH_WAKE; else 0. EBADF, EPERM (cannot be polled) come
 *	only when there is nothing to give
 * @reserved: 0
 *
 * EINVAL: the channel is not in batch mode, or a field is wrong. Other errors
 * are those of read() and write(), and returned only if no reply was taken.
 */
struct dm_user_batch {
	__u64 replies;
	__u64 requests;
	__u32 replies_bytes;
	__u32 requests_bytes;
	__u32 timeout_ms;
	__u32 flags;
	__u32 taken_bytes;
	__u32 given_bytes;
	__u32 stale;
	__u32 segments;
	__s32 wake_fd;
	__u32 reserved[3];
};

/* Commands on one channel at a time that may wait for requests. */
#define DM_USER_URING_FETCH_MAX	2

/**
 * struct dm_user_uring - payload of an IORING_OP_URING_CMD (io_uring_sqe.cmd)
 *	whose cmd_op is DM_USER_IOC_BATCH
 * @batch: address of a struct dm_user_batch
 * @reserved: 0
 *
 * A batch: takes @replies, then gives requests, and waits for the first if there
 * is none. The result of the completion is the number of bytes given, or a
 * negative errno. @taken_bytes and @stale are written before it waits, and
 * @given_bytes is 0; the struct, and the replies, may go as soon as the entry has
 * been submitted by a kernel with DM_USER_FEATURE_URING_PARKS, else with the
 * completion. The buffer for requests must stay until the completion.
 *
 * @timeout_ms is 0 or 0xffffffff. @requests_bytes is 2147483647 at most; 0: take
 * replies only.
 *
 * A command that waits has the file open: the channel ends with the last of
 * them. They end when the ring is closed or its process ends; with
 * DM_USER_CHANNEL_STOPPED; and when the process that submitted them closes the
 * file, any descriptor of it. (One that another thread is about to run, because of
 * SQPOLL, IOSQE_ASYNC or a kernel without PARKS, may come too late for the close.)
 *
 * Results as of the ioctl, but they hide no taken replies; and: EBUSY: so many
 * wait already (what was to be taken was). ECANCELED: also when the file was
 * closed. EINTR: ask again. EOPNOTSUPP: unknown cmd_op. EFAULT may come after
 * replies were taken, when the struct cannot be written.
 */
struct dm_user_uring {
	__u64 batch;
	__u64 reserved;
};

/**
 * struct dm_user_copy - argument of DM_USER_IOC_COPY
 * @seq: a request delivered by this channel and not answered
 * @buffer: address; filled with what a WRITE carries, or read for a READ
 * @offset: first byte, in the request
 * @bytes: how many
 * @flags: 0
 * @reserved: 0
 *
 * Returns the bytes copied; fewer only after a fault. ENOENT: there is no such
 * request, any more. EINVAL: not in the request, or the channel has not asked
 * for it. EFAULT.
 */
struct dm_user_copy {
	__u64 seq;
	__u64 buffer;
	__u32 offset;
	__u32 bytes;
	__u32 flags;
	__u32 reserved[5];
};

/*
 * Redirect: of ranges of the target the daemon says on which device of the table
 * line they are, and the kernel sends what is for them there; the daemon learns
 * nothing of it. The extents belong to the table: another table begins without
 * any, the end of a channel changes nothing. The calls below work on any
 * channel, also on one that does not serve. They wait for each other.
 *
 * A request that is queued or delivered when its extent comes stays with the
 * daemon; and what is sent to the daemon although it has added an extent must be
 * served.
 */

/*
 * Writes, and of discards, secure erases and write zeroes those the device
 * knows, go to the device too, and flushes to each device that was written to.
 * Without it all of these go to the daemon, which has to revoke the extent
 * before it answers one.
 */
#define DM_USER_EXTENT_WRITABLE	_BITUL(0)

/**
 * struct dm_user_extent - a range that is on a backing device
 * @first_sector: where it begins, counted from the start of the dm device
 * @sectors: its length
 * @device_sector: where it begins on the backing device
 * @device: which device, counted from 0 in the order of the table line
 * @flags: DM_USER_EXTENT_*
 */
struct dm_user_extent {
	__u64 first_sector;
	__u64 sectors;
	__u64 device_sector;
	__u32 device;
	__u32 flags;
};

/* What is wrong with an extent; struct dm_user_extents.reason. */
#define DM_USER_EXTENT_GOOD		0
#define DM_USER_EXTENT_FLAGS		1	/* EINVAL: unknown flags */
#define DM_USER_EXTENT_READ_ONLY	2	/* EROFS: WRITABLE, but the table is not */
#define DM_USER_EXTENT_RANGE		3	/* EINVAL: empty, or not in the target */
#define DM_USER_EXTENT_DEVICE		4	/* EINVAL: no such device */
#define DM_USER_EXTENT_DEVICE_RANGE	5	/* EINVAL: not on the device */
#define DM_USER_EXTENT_ALIGNMENT	6	/* EINVAL: not whole logical blocks */
#define DM_USER_EXTENT_ORDER		7	/* EINVAL: not behind the one before it */
#define DM_USER_EXTENT_OVERLAP		8	/* EEXIST: overlaps one that is there */
#define DM_USER_EXTENT_BOUND		9	/* ENOSPC: more than the table allows */

/**
 * struct dm_user_extents - argument of DM_USER_IOC_EXTENTS_ADD and _GET
 * @extents: address of an array of struct dm_user_extent, in ascending order
 * @first_sector: GET: from the first one that ends behind it
 * @count: length of the array; GET: out: how many were given
 * @flags: 0
 * @wrong: ADD: out: index of what was refused
 * @reason: ADD: out: DM_USER_EXTENT_*, why; 0 if it was nothing in the array
 * @reserved: 0
 *
 * ADD adds all or none. Neighbours that are neighbours on the device too become
 * one, and count as one. EFAULT, ENOMEM, ENOTBLK; EOPNOTSUPP: the table names no
 * devices.
 */
struct dm_user_extents {
	__u64 extents;
	__u64 first_sector;
	__u32 count;
	__u32 flags;
	__u32 wrong;
	__u32 reason;
	__u32 reserved[4];
};

/* All extents, whatever @first_sector and @sectors are. Needs no memory. */
#define DM_USER_REVOKE_ALL	_BITUL(0)

/**
 * struct dm_user_revoke - argument of DM_USER_IOC_EXTENTS_REVOKE
 * @first_sector: where the range begins; whole logical blocks
 * @sectors: its length; there may be several extents in it, parts, or none
 * @timeout_ms: how long to wait; 0xffffffff: for ever
 * @flags: DM_USER_REVOKE_*
 * @reserved: 0
 *
 * What comes from then on goes to the daemon. Returns when all bios that were
 * redirected before have ended: then the daemon may write to where they were.
 * An extent that would become two, with no room for one more, loses its end too.
 *
 * ETIMEDOUT, EINTR: the range is revoked, but bios may be in flight; the next
 * call, for any range, waits for them too. ENOMEM: nothing was done. EINVAL.
 */
struct dm_user_revoke {
	__u64 first_sector;
	__u64 sectors;
	__u32 timeout_ms;
	__u32 flags;
	__u32 reserved[2];
};

#define DM_USER_DEVICE_WRITABLE	_BITUL(0)

/**
 * struct dm_user_device - argument of DM_USER_IOC_DEVICE
 * @device: which device, counted from 0 in the order of the table line
 * @flags: out: DM_USER_DEVICE_*
 * @major: out: its number
 * @minor: out: its number
 * @sectors: out: its size
 * @reserved: 0
 *
 * For a daemon to see that it is the device it means. ENOENT: there is none.
 */
struct dm_user_device {
	__u32 device;
	__u32 flags;
	__u32 major;
	__u32 minor;
	__u64 sectors;
	__u64 reserved[2];
};

#define DM_USER_IOC_TYPE	'u'
#define DM_USER_IOC_INFO	_IOR(DM_USER_IOC_TYPE, 0x60, struct dm_user_info)
#define DM_USER_IOC_SET_CHANNEL	_IOW(DM_USER_IOC_TYPE, 0x61, struct dm_user_channel)
#define DM_USER_IOC_BATCH	_IOWR(DM_USER_IOC_TYPE, 0x62, struct dm_user_batch)
#define DM_USER_IOC_COPY	_IOW(DM_USER_IOC_TYPE, 0x63, struct dm_user_copy)
#define DM_USER_IOC_EXTENTS_ADD	_IOWR(DM_USER_IOC_TYPE, 0x64, struct dm_user_extents)
#define DM_USER_IOC_EXTENTS_GET	_IOWR(DM_USER_IOC_TYPE, 0x65, struct dm_user_extents)
#define DM_USER_IOC_EXTENTS_REVOKE _IOW(DM_USER_IOC_TYPE, 0x66, struct dm_user_revoke)
#define DM_USER_IOC_DEVICE	_IOWR(DM_USER_IOC_TYPE, 0x67, struct dm_user_device)

#endif /* _UAPI_LINUX_DM_USER_H */

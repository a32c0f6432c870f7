/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The only file that knows kernel versions.
 *
 * The sources are written for the newest kernel; this header gives older ones
 * what they lack. A test for the thing itself is preferred to one for the
 * version, because the stable series backport. Each block says since when, and
 * who uses it. Tried on 6.1, 6.12 and 7.2.
 */
#ifndef DM_USER_COMPAT_H
#define DM_USER_COMPAT_H

#include <linux/blkdev.h>
#include <linux/file.h>
#include <linux/version.h>

#include "uapi/dm-user.h"

/*
 * io_uring commands. Up to 6.6 io_uring has no way to ask a driver for a command
 * back; 6.7 brought one, 6.8 this header. Used by: uring.c.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
#include <linux/io_uring/cmd.h>
#define DMU_URING_PARKS 1
#else
#include <linux/io_uring.h>
#define DMU_URING_PARKS 0
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "dm-user needs Linux 6.1 or newer"
#endif

/* The file of a struct fd was a field up to 6.10. Used by: waker.c. */
#ifndef fd_file
#define fd_file(f) ((f).file)
#endif

/* Gone since 6.5, when the flag moved to the bio. Used by: request.c. */
#ifndef REQ_CGROUP_PUNT
#define REQ_CGROUP_PUNT ((__force blk_opf_t)0)
#endif

/* Modes of block devices have a type of their own since 6.5. Used by: redirect.c. */
#ifndef BLK_OPEN_WRITE
#define blk_mode_t fmode_t
#define BLK_OPEN_WRITE FMODE_WRITE
#endif

/*
 * For arrays of which only what was filled in is looked at: a kernel that zeroes
 * the stack would clear hundreds of bytes for each call. Used by: headers.c,
 * batch.c.
 */
#if __has_attribute(__uninitialized__)
#define DMU_UNINITIALIZED __attribute__((__uninitialized__))
#else
#define DMU_UNINITIALIZED
#endif

/**
 * dmu_limits_set_discard() - Advertise discards
 * @lim: limits being stacked
 * @sectors: longest discard, 0 for none
 * @granularity_bytes: smallest unit worth discarding
 *
 * Up to 6.8 the block layer takes max_discard_sectors as given; later kernels
 * compute it from max_hw_discard_sectors and overwrite what is set here.
 */
static inline void dmu_limits_set_discard(struct queue_limits *lim,
					  unsigned int sectors,
					  unsigned int granularity_bytes)
{
	lim->max_discard_sectors = sectors;
	lim->max_hw_discard_sectors = sectors;
	lim->discard_granularity = granularity_bytes;
	lim->discard_alignment = 0;
}

/**
 * dmu_limits_set_write_zeroes() - Advertise WRITE ZEROES
 * @lim: limits being stacked
 * @sectors: longest operation, 0 for none
 *
 * Since 6.17 there is a second limit, for zeroing that also unmaps; it must be
 * zero or equal to the first, else the table does not load.
 */
static inline void dmu_limits_set_write_zeroes(struct queue_limits *lim,
					       unsigned int sectors)
{
	lim->max_write_zeroes_sectors = sectors;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
	lim->max_hw_wzeroes_unmap_sectors = 0;
	lim->max_user_wzeroes_unmap_sectors = 0;
#endif
}

/**
 * dmu_uring_payload() - What the submitter wrote into the entry, for the driver
 * @cmd: command that is being issued; not one that is asked back
 *
 * Return: memory that user space may change at any time.
 */
static inline const struct dm_user_uring *dmu_uring_payload(const struct io_uring_cmd *cmd)
{
#if !DMU_URING_PARKS
	return cmd->cmd;
#elif defined(io_uring_sqe_cmd)
	return io_uring_sqe_cmd(cmd->sqe, struct dm_user_uring);
#else
	return io_uring_sqe_cmd(cmd->sqe);
#endif
}

/**
 * dmu_uring_is_cancel() - Is the command asked back?
 * @issue_flags: of ->uring_cmd()
 *
 * Return: true if it was parked before and is to be ended.
 */
static inline bool dmu_uring_is_cancel(unsigned int issue_flags)
{
#if DMU_URING_PARKS
	return issue_flags & IO_URING_F_CANCEL;
#else
	return false;
#endif
}

/**
 * dmu_uring_cancelable() - From now on the command may be asked back
 * @cmd: command that is being issued
 * @issue_flags: of ->uring_cmd()
 */
static inline void dmu_uring_cancelable(struct io_uring_cmd *cmd,
					unsigned int issue_flags)
{
#if DMU_URING_PARKS
	io_uring_cmd_mark_cancelable(cmd, issue_flags);
#endif
}

/**
 * dmu_uring_done() - End a command
 * @cmd: command, not to be touched afterwards
 * @result: for the submitter
 * @issue_flags: as io_uring gave them; with the ring's lock not held, it is taken
 *
 * 6.18 dropped the second result.
 */
static inline void dmu_uring_done(struct io_uring_cmd *cmd, int result,
				  unsigned int issue_flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0)
	io_uring_cmd_done(cmd, result, issue_flags);
#else
	io_uring_cmd_done(cmd, result, 0, issue_flags);
#endif
}

/*
 * The head of a function that io_uring calls in the submitter's context; up to
 * 6.18 it got the command itself. The body finds both arguments.
 */
#ifdef IO_URING_CMD_TASK_WORK_ISSUE_FLAGS
#define DMU_URING_WORK(name)						\
static void name##_body(struct io_uring_cmd *cmd, unsigned int issue_flags); \
static void name(struct io_tw_req tw_req, io_tw_token_t tw)		\
{									\
	name##_body(io_uring_cmd_from_tw(tw_req),			\
		    IO_URING_CMD_TASK_WORK_ISSUE_FLAGS);		\
}									\
static void name##_body(struct io_uring_cmd *cmd, unsigned int issue_flags)
#else
#define DMU_URING_WORK(name)						\
static void name(struct io_uring_cmd *cmd, unsigned int issue_flags)
#endif

#endif /* DM_USER_COMPAT_H */

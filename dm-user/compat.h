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
#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "dm-user needs Linux 6.1 or newer"
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

#endif /* DM_USER_COMPAT_H */

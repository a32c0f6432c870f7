// SPDX-License-Identifier: GPL-2.0-only
/*
 * From bio to header: which number on the wire stands for which operation and
 * flag of the block layer. The numbers are Android's; see uapi/dm-user.h.
 */
#include "dm-user.h"

/**
 * dmu_wire_type() - Operation of a bio on the wire
 * @bio: bio
 *
 * Return: DM_USER_REQ_MAP_*, or DMU_WIRE_NONE if the wire does not know it.
 */
u64 dmu_wire_type(struct bio *bio)
{
	switch (bio_op(bio)) {
	case REQ_OP_READ:
		return DM_USER_REQ_MAP_READ;
	case REQ_OP_WRITE:
		return DM_USER_REQ_MAP_WRITE;
	case REQ_OP_FLUSH:
		return DM_USER_REQ_MAP_FLUSH;
	case REQ_OP_DISCARD:
		return DM_USER_REQ_MAP_DISCARD;
	case REQ_OP_SECURE_ERASE:
		return DM_USER_REQ_MAP_SECURE_ERASE;
	case REQ_OP_WRITE_ZEROES:
		return DM_USER_REQ_MAP_WRITE_ZEROES;
	default:
		return DMU_WIRE_NONE;
	}
}

/* Flags the wire does not know are hints, and dropped. */
static u64 dmu_wire_flags(blk_opf_t opf)
{
	static const struct {
		blk_opf_t opf;
		u32 wire;
	} map[] = {
		{ REQ_FAILFAST_DEV, DM_USER_REQ_MAP_FLAG_FAILFAST_DEV },
		{ REQ_FAILFAST_TRANSPORT, DM_USER_REQ_MAP_FLAG_FAILFAST_TRANSPORT },
		{ REQ_FAILFAST_DRIVER, DM_USER_REQ_MAP_FLAG_FAILFAST_DRIVER },
		{ REQ_SYNC, DM_USER_REQ_MAP_FLAG_SYNC },
		{ REQ_META, DM_USER_REQ_MAP_FLAG_META },
		{ REQ_PRIO, DM_USER_REQ_MAP_FLAG_PRIO },
		{ REQ_NOMERGE, DM_USER_REQ_MAP_FLAG_NOMERGE },
		{ REQ_IDLE, DM_USER_REQ_MAP_FLAG_IDLE },
		{ REQ_INTEGRITY, DM_USER_REQ_MAP_FLAG_INTEGRITY },
		{ REQ_FUA, DM_USER_REQ_MAP_FLAG_FUA },
		{ REQ_PREFLUSH, DM_USER_REQ_MAP_FLAG_PREFLUSH },
		{ REQ_RAHEAD, DM_USER_REQ_MAP_FLAG_RAHEAD },
		{ REQ_BACKGROUND, DM_USER_REQ_MAP_FLAG_BACKGROUND },
		{ REQ_NOWAIT, DM_USER_REQ_MAP_FLAG_NOWAIT },
		{ REQ_CGROUP_PUNT, DM_USER_REQ_MAP_FLAG_CGROUP_PUNT },
		{ REQ_NOUNMAP, DM_USER_REQ_MAP_FLAG_NOUNMAP },
		{ REQ_POLLED, DM_USER_REQ_MAP_FLAG_HIPRI },
		{ REQ_DRV, DM_USER_REQ_MAP_FLAG_DRV },
		{ REQ_SWAP, DM_USER_REQ_MAP_FLAG_SWAP },
	};
	u64 wire = 0;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(map); i++)
		if (opf & map[i].opf)
			wire |= map[i].wire;
	return wire;
}

/**
 * dmu_message_fill() - Header of a request
 * @msg: filled in
 * @req: request, whose bios are still as they came
 */
void dmu_message_fill(struct dm_user_message *msg, struct dmu_request *req)
{
	struct bio *bio = dmu_request_bio(req);

	msg->seq = req->seq;
	msg->type = dmu_wire_type(bio);
	msg->flags = dmu_wire_flags(bio->bi_opf);
	msg->sector = bio->bi_iter.bi_sector;
	msg->len = dmu_request_bytes(req);
}

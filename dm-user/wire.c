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

#define DMU_WIRE_FLAG(opf, name)	((opf) & REQ_##name ? DM_USER_REQ_MAP_FLAG_##name : 0)

/* Of requests of people who wait, which most are. */
static u64 dmu_wire_common(blk_opf_t opf)
{
	return DMU_WIRE_FLAG(opf, SYNC) | DMU_WIRE_FLAG(opf, META) |
	       DMU_WIRE_FLAG(opf, IDLE) | DMU_WIRE_FLAG(opf, FUA) |
	       DMU_WIRE_FLAG(opf, PREFLUSH) | DMU_WIRE_FLAG(opf, RAHEAD);
}

static u64 dmu_wire_rare(blk_opf_t opf)
{
	return DMU_WIRE_FLAG(opf, FAILFAST_DEV) |
	       DMU_WIRE_FLAG(opf, FAILFAST_TRANSPORT) |
	       DMU_WIRE_FLAG(opf, FAILFAST_DRIVER) |
	       DMU_WIRE_FLAG(opf, PRIO) | DMU_WIRE_FLAG(opf, NOMERGE) |
	       DMU_WIRE_FLAG(opf, INTEGRITY) | DMU_WIRE_FLAG(opf, BACKGROUND) |
	       DMU_WIRE_FLAG(opf, NOWAIT) | DMU_WIRE_FLAG(opf, CGROUP_PUNT) |
	       DMU_WIRE_FLAG(opf, NOUNMAP) | DMU_WIRE_FLAG(opf, DRV) |
	       DMU_WIRE_FLAG(opf, SWAP) |
	       (opf & REQ_POLLED ? DM_USER_REQ_MAP_FLAG_HIPRI : 0);
}

/* Flags the wire does not know are hints, and dropped. */
static u64 dmu_wire_flags(blk_opf_t opf)
{
	const blk_opf_t common = REQ_SYNC | REQ_META | REQ_IDLE | REQ_FUA |
				 REQ_PREFLUSH | REQ_RAHEAD;
	u64 wire = 0;

	opf &= ~(blk_opf_t)REQ_OP_MASK;
	if (opf & common)
		wire = dmu_wire_common(opf);
	if (unlikely(opf & ~common))
		wire |= dmu_wire_rare(opf);
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

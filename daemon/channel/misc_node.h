// SPDX-License-Identifier: Apache-2.0
//
// misc_node.h - opens the stream channel of a target: /dev/dm-user/NAME.
#ifndef DAEMON_CHANNEL_MISC_NODE_H_
#define DAEMON_CHANNEL_MISC_NODE_H_

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/base/buffer_pool.h"
#include "daemon/block/backend.h"
#include "daemon/block/channel.h"
#include "daemon/io/loop.h"

namespace dmu {

// Opens the node, checks that the target is as large as `geometry` says, and
// declares the channel fenced: no disk of this daemon has a write under way
// when its files are closed, or else nobody gets the disk before that has ended
// (daemon/io/disk_uring.h). Holds geometry.depth requests at a time. Where the
// table names geometry.base_device for redirect, the channel has redirect(),
// empty.
// kUnavailable: no node, or a dm-user that cannot be polled.
// kFailedPrecondition: the sizes differ. kPermissionDenied, kInternal as they
// come.
absl::StatusOr<std::unique_ptr<Channel>> OpenMiscNode(const std::string& name,
                                                      const Geometry& geometry,
                                                      Loop* loop,
                                                      BufferPool* pool);

// The logical block of the target's table, in bytes: requests are multiples of
// it. 512 where the node is not there or does not tell.
uint32_t MiscNodeBlockBytes(const std::string& name);

// Whether the table of the target names this block device for redirect: then
// the device-mapper holds it, and nobody else can open it exclusively.
bool MiscNodeHolds(const std::string& name, dev_t device);

}  // namespace dmu

#endif  // DAEMON_CHANNEL_MISC_NODE_H_

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
// declares the channel fenced: every disk of this daemon writes synchronously,
// so none of its writes outlives the open file. Where the table names
// geometry.base_device for redirect, the channel has redirect(), empty.
// kUnavailable: no node, or a dm-user that cannot be polled.
// kFailedPrecondition: the sizes differ. kPermissionDenied, kInternal as they
// come.
absl::StatusOr<std::unique_ptr<Channel>> OpenMiscNode(const std::string& name,
                                                      const Geometry& geometry,
                                                      Loop* loop,
                                                      BufferPool* pool);

// Whether the table of the target names this block device for redirect: then
// the device-mapper holds it, and nobody else can open it exclusively.
bool MiscNodeHolds(const std::string& name, dev_t device);

}  // namespace dmu

#endif  // DAEMON_CHANNEL_MISC_NODE_H_

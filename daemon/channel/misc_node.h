// SPDX-License-Identifier: Apache-2.0
//
// misc_node.h - opens the stream channel of a target, /dev/dm-user/NAME, in the
// best way there is.
#ifndef DAEMON_CHANNEL_MISC_NODE_H_
#define DAEMON_CHANNEL_MISC_NODE_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "daemon/base/buffer_pool.h"
#include "daemon/block/backend.h"
#include "daemon/block/channel.h"
#include "daemon/io/loop.h"
#include "daemon/io/ring.h"

namespace dmu {

// How messages move. Each but the last needs a dm-user that knows it.
enum class ChannelWay : uint8_t {
  kAuto,    // the first of the others that there is; past the page cache not
            // kUring, which costs more where answers come late
  kUring,   // batches by commands of the ring, one of which waits in the kernel
  kBatch,   // poll, and many messages in a call
  kStream,  // poll, and one part of a message in a call: Android's way
};

// "auto", "uring", "batch", "stream".
const char* ChannelWayName(ChannelWay way);
std::optional<ChannelWay> ParseChannelWay(std::string_view name);

struct MiscNodeOptions {
  ChannelWay way = ChannelWay::kAuto;
  Ring* ring = nullptr;  // for kUring; outlives the channel
};

// Opens the node, checks that the target is as large as `geometry` says, and
// declares the channel fenced: no disk of this daemon has a write under way
// when its files are closed, or else nobody gets the disk before that has ended
// (daemon/io/disk_uring.h). Holds geometry.depth requests at a time. Where the
// table names geometry.base_device for redirect, the channel has redirect(),
// empty. Where geometry.remap is, requests come without data, and the table has
// to name base_device. Logs which way it took, and why not a better one.
// kUnavailable: no node, or a dm-user that cannot be polled.
// kFailedPrecondition: the sizes differ, or the way that was asked for is not
// there. kPermissionDenied, kInternal as they come.
absl::StatusOr<std::unique_ptr<Channel>> OpenMiscNode(
    const std::string& name, const Geometry& geometry,
    const MiscNodeOptions& options, Loop* loop, BufferPool* pool);

// False: there is no target of that name any more.
bool MiscNodeExists(const std::string& name);

// The logical block of the target's table, in bytes: requests are multiples of
// it. 512 where the node is not there or does not tell.
uint32_t MiscNodeBlockBytes(const std::string& name);

// Whether the table of the target names this block device for redirect: then
// the device-mapper holds it, and nobody else can open it exclusively.
bool MiscNodeHolds(const std::string& name, dev_t device);

}  // namespace dmu

#endif  // DAEMON_CHANNEL_MISC_NODE_H_

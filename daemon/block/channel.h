// SPDX-License-Identifier: Apache-2.0
//
// channel.h - what carries requests from the kernel to a back end and back.
//
// A channel owns its Requests and their buffers. It knows the wire and nothing
// of what the requests mean; the sink is the device.
#ifndef DAEMON_BLOCK_CHANNEL_H_
#define DAEMON_BLOCK_CHANNEL_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "daemon/base/task.h"
#include "daemon/block/request.h"

namespace dmu {

class RequestSink {
 public:
  virtual ~RequestSink() = default;

  // The kernel side is up: called once, from inside Start or later, unless Stop
  // or OnClosed comes first. With an error the channel serves nothing; the sink
  // still calls Stop or Remove before it deletes it. A channel that is brought
  // up by the kernel's own reads calls OnRequest before.
  virtual void OnStarted(const absl::Status& status) = 0;

  // A request, its payload attached. The sink sees to it that
  // request->Complete is called exactly once, now or later.
  virtual void OnRequest(Request* request) = 0;

  // The kernel side is gone (the dm device was removed) or cannot be understood
  // any more. Called at most once; no OnRequest follows. The sink still calls
  // Stop before it deletes the channel.
  enum class CloseReason { kRemoved, kProtocolError };
  virtual void OnClosed(CloseReason reason) = 0;
};

// Where the kernel can read a part of the device by itself, without asking the
// channel for it. The back end must be able to serve that part all the same.
class Redirect {
 public:
  // [first_sector, first_sector + sectors) is on the back end's base
  // (Geometry::base_device) from base_sector on, and stays as it is there for
  // as long as the device is served.
  struct Extent {
    uint64_t first_sector = 0;
    uint64_t sectors = 0;
    uint64_t base_sector = 0;
  };

  virtual ~Redirect() = default;

  // Ascending, and none of it added before. False when there are more than the
  // device takes; then only some of the first are added, and none later on.
  virtual bool Add(const Extent* extents, size_t count) = 0;

  // Takes back all of them. Does not wait for reads that are under way.
  virtual void Clear() = 0;
};

class Channel {
 public:
  virtual ~Channel() = default;

  // nullptr when the device has none. Lives as long as the channel.
  virtual Redirect* redirect() { return nullptr; }

  // Begins to read requests; calls OnRequest and OnClosed from turns of the
  // loop only.
  virtual void Start(RequestSink* sink) = 0;

  // No OnStarted and no OnClosed after this returns, and no OnRequest but for
  // what was taken already from a kernel that takes nothing back. What the back
  // end still works on is waited for and answered, then the file is closed -
  // what was never answered goes back to the kernel - and `done` runs. Only
  // then may the channel be deleted. Waiting matters: once the file is closed
  // the kernel may give a write again to the next daemon, so none of ours may
  // be in flight.
  virtual void Stop(Task* done) = 0;

  // As Stop, and for good: what the channel itself has made in the kernel goes
  // away. Also without Start.
  virtual void Remove(Task* done) { Stop(done); }

  // How its messages move, in a word for people; empty where there is one way.
  virtual const char* way() const { return ""; }

  // The block device that the channel made; empty when the device mapper's is
  // it, or before OnStarted.
  virtual std::string device_path() const { return ""; }
};

}  // namespace dmu

#endif  // DAEMON_BLOCK_CHANNEL_H_

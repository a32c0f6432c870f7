// SPDX-License-Identifier: Apache-2.0
//
// control_client.h - a program's side of dmuserd's control socket.
//
// Two ways to use a client; both may be mixed on one connection:
//
//   Blocking calls, one function per verb. Each takes at most the timeout the
//   client was made with, and returns what the daemon says.
//
//     auto client = dmu::ControlClient::Connect();
//     if (!client.ok()) return client.status();
//     absl::Status started = client->StartMerge("root");
//
//   Send() and Receive() with fd() in a poll loop of the caller's; neither
//   waits for the daemon.
//
// The messages are those of proto/control.proto, which says what every field
// means; the daemon's own errors come back as the status it answers with:
//   kInvalidArgument     the request makes no sense
//   kNotFound            no such device, or no such file
//   kAlreadyExists       the device is served already
//   kAborted             a file or device is in use by somebody else
//   kFailedPrecondition  the base does not fit the COW file, a size differs
//   kDataLoss            the COW file is damaged
//   kPermissionDenied    this user may not do that (dmuserd --serve-group...)
//   kUnavailable         the kernel's side of the device is not there
//   kUnimplemented       the daemon is older than the verb
//   kInternal            an I/O error; or the other end is no dmuserd
// and one that is the client's:
//   kDeadlineExceeded    no daemon answers: nobody listens, it ended, or it
//                        took longer than the timeout
// Every message is a sentence for people. After kDeadlineExceeded or kInternal
// of a call the connection may be of no use any more: make another client. What
// the daemon was asked to do it may have done all the same.
//
// A client belongs to one thread at a time. It takes no signals and starts no
// threads; a daemon that ends gives an error, never SIGPIPE.
#ifndef TOOLS_CLIENT_CONTROL_CLIENT_H_
#define TOOLS_CLIENT_CONTROL_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/control/frame.h"
#include "daemon/io/unique_fd.h"
#include "proto/control.pb.h"

namespace dmu {

class ControlClient {
 public:
  // For a call that may take as long as it takes.
  static constexpr int kForever = -1;

  struct Options {
    std::string path = kDefaultControlPath;
    // For Connect and for each call as a whole. To attach a large COW file
    // takes as long as reading its table of ops does.
    int timeout_ms = kForever;
  };

  // Connects; asks nothing yet. A client the daemon turns away, having no role
  // or being one too many, sees that as the end of its first call.
  static absl::StatusOr<ControlClient> Connect(const Options& options);
  static absl::StatusOr<ControlClient> Connect() { return Connect(Options()); }

  ControlClient(ControlClient&&) = default;
  ControlClient& operator=(ControlClient&&) = default;

  void set_timeout_ms(int timeout_ms) { options_.timeout_ms = timeout_ms; }

  // ---- Blocking calls.

  struct StatusResult {
    proto::DaemonStatus daemon;
    std::vector<proto::DeviceStatus> devices;
  };
  // Of all devices, or of the one named: then kNotFound when it is not served.
  absl::StatusOr<StatusResult> Status(const std::string& name = "");
  // With latencies: asks for one device after the other, as all of them need
  // not fit into one answer. A device that goes meanwhile is left out.
  absl::StatusOr<StatusResult> StatusWithLatency(const std::string& name = "");

  // Has a device served; /dev/dm-user/NAME must be there, as large as what it
  // is to show. Returns when the first request can be served. Paths are
  // absolute: they are the daemon's to open.
  absl::Status Attach(const proto::Attach& attach);
  absl::Status AttachSnapshot(const std::string& name,
                              const std::string& cow_path,
                              const std::string& base_path);

  // Has a device no longer served. Its unanswered requests wait in the kernel
  // for who attaches it next.
  absl::Status Detach(const std::string& name);

  struct MergeOptions {
    // Keep what the merge overwrites in this log (absolute path), which was
    // made for this merge; "": in the one it has, or nowhere.
    std::string undo_log_path = {};
    // Bytes of the base per second; 0: no limit. Unset: what it had.
    std::optional<uint64_t> rate_bytes_per_s = {};
  };
  // Begins a merge or goes on with it; returns when it is certain to go on,
  // through restarts of the daemon too. Watch follows it.
  absl::Status StartMerge(const std::string& name, const MergeOptions& options);
  absl::Status StartMerge(const std::string& name) {
    return StartMerge(name, MergeOptions());
  }
  // Stops it after the part at hand; StartMerge goes on.
  absl::Status PauseMerge(const std::string& name);

  // Sets the limits of all merges that are set in `limits`, and returns those
  // in force: Throttle({}) only asks.
  absl::StatusOr<proto::Throttle> Throttle(const proto::Throttle& limits);

  // Calls `changed` with the device's status, now and at every change, until it
  // returns false or the merge ends (done, failed), and returns the last one
  // seen. kNotFound when the device goes away. The timeout is for the first
  // status; the next ones may come at any time. After `changed` has returned
  // false the daemon goes on to tell this connection, which throws it away.
  // With `past_merge` the end of the merge is no end.
  absl::StatusOr<proto::DeviceStatus> Watch(
      const std::string& name,
      const std::function<bool(const proto::DeviceStatus&)>& changed,
      bool past_merge = false);

  // Has the daemon let go of all devices, for the next one, and end.
  absl::Status HandOver();

  // Any verb, answered by one response. Version and id are filled in.
  absl::StatusOr<proto::Response> Call(proto::Request request);

  // ---- For a poll loop.

  // Readable when Receive may have something; POLLHUP when the daemon is gone.
  // The client's own: not to be closed, read or written.
  int fd() const { return fd_.get(); }

  // Sends a request and returns the id its responses will have. The socket has
  // room for hundreds of requests; when the daemon does not take them, waits
  // for it up to the timeout.
  absl::StatusOr<uint64_t> Send(proto::Request request);

  // The next response to what was sent, in the order they came, if one is there
  // whole; nothing else. Call it until it gives nothing before each poll, after
  // a blocking call too, which may have read ahead. A response
  // with an error is a response like any other: see code() and message().
  // `more` tells whether others follow with this id. A watch may lose events to
  // a blocking call, never its newest.
  absl::StatusOr<std::optional<proto::Response>> Receive();

 private:
  ControlClient(Options options, UniqueFd fd)
      : options_(std::move(options)), fd_(std::move(fd)) {}

  // When a call that begins now must end, in ms of the monotonic clock.
  int64_t Deadline() const;
  absl::Status WaitFor(short events, int64_t deadline_ms);
  absl::Status SendUntil(proto::Request request, int64_t deadline_ms);
  // Reads what is there, without waiting.
  absl::Status Fill();
  absl::StatusOr<std::optional<proto::Response>> TakeFrame();
  // The next response with this id; those of other requests are kept.
  absl::StatusOr<proto::Response> NextFor(uint64_t id, int64_t deadline_ms);
  absl::Status Ended(const std::string& why) const;

  Options options_;
  UniqueFd fd_;
  uint64_t last_id_ = 0;
  std::string input_;  // bytes of responses, from input_done_ on
  size_t input_done_ = 0;
  // Sent by Send, with more responses to come.
  std::vector<uint64_t> open_;
  // Of those, what came during a blocking call: the newest of each, by id.
  std::map<uint64_t, proto::Response> kept_;
};

}  // namespace dmu

#endif  // TOOLS_CLIENT_CONTROL_CLIENT_H_

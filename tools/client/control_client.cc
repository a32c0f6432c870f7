// SPDX-License-Identifier: Apache-2.0
#include "tools/client/control_client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dmu {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

int64_t NowMs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

absl::Status NoDaemon(const std::string& path, const std::string& why) {
  return absl::DeadlineExceededError(
      absl::StrCat("no daemon answers at ", path, " (", why,
                   "); start dmuserd, or give the path of its control socket"));
}

absl::Status StatusOf(const proto::Response& response) {
  return absl::Status(static_cast<absl::StatusCode>(response.code()),
                      response.message());
}

proto::Request MergeRequest(const std::string& name,
                            proto::Merge::Action action) {
  proto::Request request;
  request.mutable_merge()->set_name(name);
  request.mutable_merge()->set_action(action);
  return request;
}

}  // namespace

absl::StatusOr<ControlClient> ControlClient::Connect(const Options& options) {
  const std::string& path = options.path;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": a socket path has at most ",
                     sizeof(address.sun_path) - 1, " bytes"));
  }
  memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) {
    return absl::InternalError(
        absl::StrCat("cannot make a socket: ", strerror(errno)));
  }
  if (options.timeout_ms > 0) {
    // It waits while more clients than the kernel queues have not been seen.
    const timeval limit = {.tv_sec = options.timeout_ms / 1000,
                           .tv_usec = options.timeout_ms % 1000 * 1000};
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  }
  int result = 0;
  do {
    result = connect(fd.get(), reinterpret_cast<sockaddr*>(&address),
                     sizeof(address));
  } while (result != 0 && errno == EINTR);
  if (result != 0 && (errno == EACCES || errno == EPERM)) {
    return absl::PermissionDeniedError(absl::StrCat(
        path,
        ": the control socket is for root, or for groups that dmuserd was "
        "given; run the command with sudo"));
  }
  if (result != 0) return NoDaemon(path, strerror(errno));
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0 || fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return absl::InternalError(
        absl::StrCat(path, ": cannot prepare the socket: ", strerror(errno)));
  }
  return ControlClient(options, std::move(fd));
}

int64_t ControlClient::Deadline() const {
  return options_.timeout_ms < 0 ? kNever : NowMs() + options_.timeout_ms;
}

absl::Status ControlClient::Ended(const std::string& why) const {
  return NoDaemon(options_.path, why);
}

absl::Status ControlClient::WaitFor(short events, int64_t deadline_ms) {
  for (;;) {
    int wait_ms = -1;
    if (deadline_ms != kNever) {
      const int64_t left_ms = deadline_ms - NowMs();
      wait_ms = static_cast<int>(std::clamp<int64_t>(left_ms, 0, 1 << 30));
    }
    pollfd ready = {.fd = fd_.get(), .events = events, .revents = 0};
    const int count = poll(&ready, 1, wait_ms);
    if (count > 0) return absl::OkStatus();
    if (count < 0 && errno != EINTR) return Ended(strerror(errno));
    if (count == 0 && NowMs() >= deadline_ms) {
      return Ended(absl::StrCat("not within ", options_.timeout_ms, " ms"));
    }
  }
}

absl::Status ControlClient::SendUntil(proto::Request request,
                                      int64_t deadline_ms) {
  request.set_version(kControlVersion);
  request.set_id(++last_id_);
  const std::string message = request.SerializeAsString();
  if (message.size() > kRequestFrameBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a request of ", message.size(), " bytes; the daemon takes ",
        kRequestFrameBytesMax, " at most"));
  }
  std::string out;
  AppendFrame(message, &out);
  for (size_t done = 0; done < out.size();) {
    const ssize_t put =
        send(fd_.get(), out.data() + done, out.size() - done, MSG_NOSIGNAL);
    if (put > 0) {
      done += static_cast<size_t>(put);
    } else if (errno == EAGAIN) {
      absl::Status room = WaitFor(POLLOUT, deadline_ms);
      if (!room.ok()) return room;
    } else if (errno != EINTR) {
      return Ended(errno == EPIPE || errno == ECONNRESET
                       ? "it closed the connection"
                       : strerror(errno));
    }
  }
  return absl::OkStatus();
}

absl::Status ControlClient::Fill() {
  input_.erase(0, std::exchange(input_done_, 0));
  char piece[16 * 1024];
  for (;;) {
    const ssize_t got = read(fd_.get(), piece, sizeof(piece));
    if (got > 0) {
      input_.append(piece, static_cast<size_t>(got));
      return absl::OkStatus();
    }
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return absl::OkStatus();
    return Ended(got == 0 || errno == ECONNRESET ? "it closed the connection"
                                                 : strerror(errno));
  }
}

absl::StatusOr<std::optional<proto::Response>> ControlClient::TakeFrame() {
  const size_t have = input_.size() - input_done_;
  if (have < kFrameHeaderBytes) return std::optional<proto::Response>();
  const char* at = input_.data() + input_done_;
  const uint32_t length =
      LoadLe<uint32_t>(reinterpret_cast<const uint8_t*>(at));
  if (length > kResponseFrameBytesMax) {
    return absl::InternalError(absl::StrCat(
        options_.path, ": an answer of ", length, " bytes; at most ",
        kResponseFrameBytesMax, " make sense. Is that a dmuserd?"));
  }
  if (have - kFrameHeaderBytes < length) {
    return std::optional<proto::Response>();
  }
  proto::Response response;
  if (!response.ParseFromArray(at + kFrameHeaderBytes,
                               static_cast<int>(length))) {
    return absl::InternalError(
        absl::StrCat(options_.path, ": the answer cannot be understood"));
  }
  input_done_ += kFrameHeaderBytes + length;
  return std::optional<proto::Response>(std::move(response));
}

absl::StatusOr<proto::Response> ControlClient::NextFor(uint64_t id,
                                                       int64_t deadline_ms) {
  for (;;) {
    auto frame = TakeFrame();
    if (!frame.ok()) return frame.status();
    if (!frame->has_value()) {
      absl::Status ready = WaitFor(POLLIN, deadline_ms);
      if (ready.ok()) ready = Fill();
      if (!ready.ok()) return ready;
      continue;
    }
    proto::Response& response = **frame;
    if (response.id() == id) {
      if (response.code() != 0) return StatusOf(response);
      return std::move(response);
    }
    // A late event of a watch that is over is nobody's.
    if (std::count(open_.begin(), open_.end(), response.id()) > 0) {
      kept_[response.id()] = std::move(response);
    }
  }
}

absl::StatusOr<proto::Response> ControlClient::Call(proto::Request request) {
  const int64_t deadline_ms = Deadline();
  absl::Status sent = SendUntil(std::move(request), deadline_ms);
  if (!sent.ok()) return sent;
  return NextFor(last_id_, deadline_ms);
}

absl::StatusOr<uint64_t> ControlClient::Send(proto::Request request) {
  absl::Status sent = SendUntil(std::move(request), Deadline());
  if (!sent.ok()) return sent;
  open_.push_back(last_id_);
  return last_id_;
}

absl::StatusOr<std::optional<proto::Response>> ControlClient::Receive() {
  std::optional<proto::Response> found;
  if (!kept_.empty()) {
    found = std::move(kept_.extract(kept_.begin()).mapped());
  }
  for (bool filled = false; !found.has_value();) {
    auto frame = TakeFrame();
    if (!frame.ok()) return frame.status();
    if (frame->has_value()) {
      if (std::count(open_.begin(), open_.end(), (*frame)->id()) > 0) {
        found = std::move(**frame);
      }
      continue;
    }
    if (filled) return found;
    absl::Status read = Fill();
    if (!read.ok()) return read;
    // Of what was there at the most one read more is taken: the caller polls.
    filled = true;
  }
  if (!found->more()) std::erase(open_, found->id());
  return found;
}

absl::StatusOr<ControlClient::StatusResult> ControlClient::Status(
    const std::string& name) {
  proto::Request request;
  request.mutable_status()->set_name(name);
  auto response = Call(std::move(request));
  if (!response.ok()) return response.status();
  StatusResult result;
  result.daemon = std::move(*response->mutable_daemon());
  for (proto::DeviceStatus& device : *response->mutable_devices()) {
    result.devices.push_back(std::move(device));
  }
  return result;
}

absl::StatusOr<ControlClient::StatusResult> ControlClient::StatusWithLatency(
    const std::string& name) {
  absl::StatusOr<StatusResult> all = Status(name);
  if (!all.ok()) return all;
  const std::vector<proto::DeviceStatus> devices =
      std::exchange(all->devices, {});
  for (const proto::DeviceStatus& device : devices) {
    proto::Request request;
    request.mutable_status()->set_name(device.name());
    request.mutable_status()->set_latency(true);
    absl::StatusOr<proto::Response> one = Call(std::move(request));
    if (absl::IsNotFound(one.status()) && name.empty()) continue;
    if (!one.ok()) return one.status();
    for (proto::DeviceStatus& found : *one->mutable_devices()) {
      all->devices.push_back(std::move(found));
    }
  }
  return all;
}

absl::Status ControlClient::Attach(const proto::Attach& attach) {
  proto::Request request;
  *request.mutable_attach() = attach;
  return Call(std::move(request)).status();
}

absl::Status ControlClient::AttachSnapshot(const std::string& name,
                                           const std::string& cow_path,
                                           const std::string& base_path) {
  proto::Attach attach;
  attach.set_name(name);
  attach.mutable_snapshot()->set_cow_path(cow_path);
  attach.mutable_snapshot()->set_base_path(base_path);
  return Attach(attach);
}

absl::Status ControlClient::Detach(const std::string& name) {
  proto::Request request;
  request.mutable_detach()->set_name(name);
  return Call(std::move(request)).status();
}

absl::Status ControlClient::StartMerge(const std::string& name,
                                       const MergeOptions& options) {
  proto::Request request = MergeRequest(name, proto::Merge::START);
  request.mutable_merge()->set_undo_log_path(options.undo_log_path);
  if (options.rate_bytes_per_s.has_value()) {
    request.mutable_merge()->set_rate_bytes_per_s(*options.rate_bytes_per_s);
  }
  return Call(std::move(request)).status();
}

absl::Status ControlClient::PauseMerge(const std::string& name) {
  return Call(MergeRequest(name, proto::Merge::PAUSE)).status();
}

absl::StatusOr<proto::Throttle> ControlClient::Throttle(
    const proto::Throttle& limits) {
  proto::Request request;
  *request.mutable_throttle() = limits;
  auto response = Call(std::move(request));
  if (!response.ok()) return response.status();
  return response->daemon().throttle();
}

absl::StatusOr<proto::DeviceStatus> ControlClient::Watch(
    const std::string& name,
    const std::function<bool(const proto::DeviceStatus&)>& changed,
    bool past_merge) {
  proto::Request request;
  request.mutable_watch()->set_name(name);
  request.mutable_watch()->set_past_merge(past_merge);
  auto response = Call(std::move(request));
  const uint64_t id = last_id_;
  for (;; response = NextFor(id, kNever)) {
    if (!response.ok()) return response.status();
    if (response->devices_size() == 0) {
      return absl::InternalError(
          absl::StrCat(options_.path, ": an event without a device"));
    }
    const proto::DeviceStatus& device = response->devices(0);
    if (!changed(device) || !response->more()) return device;
  }
}

absl::Status ControlClient::HandOver() {
  proto::Request request;
  request.mutable_hand_over();
  return Call(std::move(request)).status();
}

}  // namespace dmu

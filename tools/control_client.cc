// SPDX-License-Identifier: Apache-2.0
#include "tools/control_client.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "absl/strings/str_cat.h"
#include "daemon/control/frame.h"

namespace dmu::tools {

namespace {

absl::Status NoDaemon(const std::string& path, const std::string& why) {
  return absl::DeadlineExceededError(
      absl::StrCat("no daemon answers at ", path, " (", why,
                   "); start dmuserd, or name its "
                   "socket with --control"));
}

}  // namespace

absl::StatusOr<ControlClient> ControlClient::Connect(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": a socket path has at most ",
                     sizeof(address.sun_path) - 1, " bytes"));
  }
  memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() || connect(fd.get(), reinterpret_cast<sockaddr*>(&address),
                             sizeof(address)) != 0) {
    if (errno == EACCES || errno == EPERM) {
      return absl::PermissionDeniedError(absl::StrCat(
          path, ": the control socket is for root; run the command with sudo"));
    }
    return NoDaemon(path, strerror(errno));
  }
  return ControlClient(path, std::move(fd));
}

absl::Status ControlClient::ReadAll(void* to, size_t bytes) {
  auto* at = static_cast<uint8_t*>(to);
  while (bytes > 0) {
    const ssize_t got = read(fd_.get(), at, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return NoDaemon(path_,
                      got == 0 ? "it closed the connection" : strerror(errno));
    }
    at += got;
    bytes -= static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::StatusOr<proto::Response> ControlClient::Call(proto::Request request) {
  request.set_version(kControlVersion);
  request.set_id(++last_id_);
  std::string out;
  AppendFrame(request.SerializeAsString(), &out);
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t put =
        send(fd_.get(), out.data() + done, out.size() - done, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return NoDaemon(path_, strerror(errno));
    done += static_cast<size_t>(put);
  }
  return Next();
}

absl::StatusOr<proto::Response> ControlClient::Next() {
  for (;;) {
    uint8_t header[kFrameHeaderBytes];
    absl::Status read = ReadAll(header, sizeof(header));
    if (!read.ok()) return read;
    const uint32_t length = LoadLe<uint32_t>(header);
    if (length > kResponseFrameBytesMax) {
      return absl::InternalError(absl::StrCat(
          path_, ": an answer of ", length, " bytes; at most ",
          kResponseFrameBytesMax, " make sense. Is that a dmuserd?"));
    }
    std::string bytes(length, '\0');
    read = ReadAll(bytes.data(), length);
    if (!read.ok()) return read;
    proto::Response response;
    if (!response.ParseFromString(bytes)) {
      return absl::InternalError(
          absl::StrCat(path_, ": the answer cannot be understood"));
    }
    // A late event of an earlier watch.
    if (response.id() != last_id_) continue;
    if (response.code() != 0) {
      return absl::Status(static_cast<absl::StatusCode>(response.code()),
                          response.message());
    }
    return response;
  }
}

absl::StatusOr<proto::Response> ControlClient::Status(const std::string& name) {
  proto::Request request;
  request.mutable_status()->set_name(name);
  return Call(std::move(request));
}

absl::StatusOr<proto::Response> ControlClient::StatusWithLatency(
    const std::string& name) {
  absl::StatusOr<proto::Response> all = Status(name);
  if (!all.ok()) return all;
  google::protobuf::RepeatedPtrField<proto::DeviceStatus> devices;
  devices.Swap(all->mutable_devices());
  for (const proto::DeviceStatus& device : devices) {
    proto::Request request;
    request.mutable_status()->set_name(device.name());
    request.mutable_status()->set_latency(true);
    absl::StatusOr<proto::Response> one = Call(std::move(request));
    if (absl::IsNotFound(one.status()) && name.empty()) continue;
    if (!one.ok()) return one;
    for (proto::DeviceStatus& found : *one->mutable_devices()) {
      *all->add_devices() = std::move(found);
    }
  }
  return all;
}

}  // namespace dmu::tools

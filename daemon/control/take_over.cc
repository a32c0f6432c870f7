// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/take_over.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "daemon/control/frame.h"
#include "daemon/io/unique_fd.h"
#include "proto/control.pb.h"

namespace dmu {
namespace {

// One frame; false at the end of the session. *text: why it was refused.
bool ReadAnswer(int fd, absl::Status* refused) {
  std::string in;
  char piece[512];
  for (;;) {
    const ssize_t got = read(fd, piece, sizeof(piece));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    in.append(piece, static_cast<size_t>(got));
    if (in.size() < kFrameHeaderBytes) continue;
    const uint32_t length =
        LoadLe<uint32_t>(reinterpret_cast<const uint8_t*>(in.data()));
    if (in.size() - kFrameHeaderBytes < length) continue;
    proto::Response response;
    response.ParseFromArray(in.data() + kFrameHeaderBytes,
                            static_cast<int>(length));
    *refused = absl::Status(static_cast<absl::StatusCode>(response.code()),
                            response.message());
    return true;
  }
}

}  // namespace

absl::Status TakeOver(const std::string& control_path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (control_path.size() >= sizeof(address.sun_path)) return absl::OkStatus();
  memcpy(address.sun_path, control_path.data(), control_path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() || connect(fd.get(), reinterpret_cast<sockaddr*>(&address),
                             sizeof(address)) != 0) {
    if (errno == EACCES || errno == EPERM) {
      return absl::PermissionDeniedError(
          absl::StrCat(control_path, ": ", strerror(errno)));
    }
    return absl::OkStatus();  // nobody is there
  }
  const timeval limit = {.tv_sec = kTakeOverSeconds, .tv_usec = 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  proto::Request request;
  request.set_version(kControlVersion);
  request.set_id(1);
  request.mutable_hand_over();
  std::string frame;
  AppendFrame(request.SerializeAsString(), &frame);
  if (send(fd.get(), frame.data(), frame.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(frame.size())) {
    return absl::OkStatus();  // it is ending already
  }
  absl::Status refused;
  if (ReadAnswer(fd.get(), &refused) && !refused.ok()) return refused;
  // The session ends when the other lets go of its socket, last of all.
  char byte;
  ssize_t got = 0;
  while ((got = read(fd.get(), &byte, 1)) > 0 || (got < 0 && errno == EINTR)) {
  }
  if (got == 0 || errno == ECONNRESET) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat(control_path, ": the daemon there did not end within ",
                   kTakeOverSeconds, " s; it keeps its devices"));
}

}  // namespace dmu

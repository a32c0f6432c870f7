// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/server.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/control/frame.h"

namespace dmu {

struct Server::Session {
  Server* server = nullptr;
  uint64_t id = 0;
  UniqueFd fd;
  Watch watch;
  uint8_t input[kFrameHeaderBytes + kRequestFrameBytesMax];
  uint32_t input_bytes = 0;
  std::string output;
  size_t output_done = 0;
};

namespace {

// More than every device's status, twice: who does not read that is gone.
constexpr size_t kOutputBytesMax = 2 * kResponseFrameBytesMax;

absl::Status Failed(const char* what, const std::string& path) {
  return absl::InternalError(
      absl::StrCat(path, ": cannot ", what, ": ", strerror(errno)));
}

absl::Status MakeDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos || slash == 0) return absl::OkStatus();
  const std::string directory = path.substr(0, slash);
  if (mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) {
    return Failed("make the directory", directory);
  }
  return absl::OkStatus();
}

bool SomebodyListens(const sockaddr_un& address) {
  UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return probe.valid() &&
         connect(probe.get(), reinterpret_cast<const sockaddr*>(&address),
                 sizeof(address)) == 0;
}

// The socket's mode already keeps others out; this holds for one that was
// passed on or made with another mode.
bool MayControl(int fd) {
  ucred peer = {};
  socklen_t length = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
    return false;
  return peer.uid == 0 || peer.uid == geteuid();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Listen(const std::string& path,
                                                       SessionHandler* handler,
                                                       Loop* loop) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": a socket path has at most ",
                     sizeof(address.sun_path) - 1, " bytes"));
  }
  memcpy(address.sun_path, path.data(), path.size());
  absl::Status made = MakeDirectoryOf(path);
  if (!made.ok()) return made;

  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Failed("make a socket", path);
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  const mode_t old_mask = umask(0177);
  int result = bind(fd.get(), name, sizeof(address));
  if (result != 0 && errno == EADDRINUSE) {
    if (SomebodyListens(address)) {
      umask(old_mask);
      return absl::AbortedError(absl::StrCat(
          path,
          ": another dmuserd listens there; stop it, or give this one "
          "--control with another path"));
    }
    unlink(path.c_str());
    result = bind(fd.get(), name, sizeof(address));
  }
  umask(old_mask);
  if (result != 0) return Failed("bind", path);
  if (listen(fd.get(), static_cast<int>(kSessionsMax)) != 0) {
    return Failed("listen on", path);
  }
  std::unique_ptr<Server> server(
      new Server(std::move(fd), path, handler, loop));
  if (int error = loop->AddWatch(&server->watch_)) {
    errno = error;
    return Failed("watch", path);
  }
  return server;
}

Server::Server(UniqueFd fd, std::string path, SessionHandler* handler,
               Loop* loop)
    : fd_(std::move(fd)),
      path_(std::move(path)),
      handler_(handler),
      loop_(loop) {
  watch_.ready = OnAccept;
  watch_.context = this;
  watch_.fd = fd_.get();
  watch_.events = EPOLLIN;
}

Server::~Server() {
  while (!sessions_.empty()) End(sessions_.back().get());
  loop_->Unwatch(&watch_);
  unlink(path_.c_str());
}

void Server::OnAccept(void* context, uint32_t) {
  static_cast<Server*>(context)->Accept();
}

void Server::Accept() {
  UniqueFd fd(
      accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  if (sessions_.size() >= kSessionsMax) {
    Log(LogLevel::kWarning, "control: more than %zu clients; one refused",
        kSessionsMax);
    return;
  }
  if (!MayControl(fd.get())) {
    Log(LogLevel::kWarning, "control: a client that is not root refused");
    return;
  }
  auto session = std::make_unique<Session>();
  session->server = this;
  session->id = next_id_++;
  session->fd = std::move(fd);
  session->watch.ready = OnSession;
  session->watch.context = session.get();
  session->watch.fd = session->fd.get();
  session->watch.events = EPOLLIN;
  if (loop_->AddWatch(&session->watch) != 0) return;
  sessions_.push_back(std::move(session));
}

void Server::OnSession(void* context, uint32_t events) {
  auto* session = static_cast<Session*>(context);
  Server* self = session->server;
  if ((events & EPOLLOUT) != 0) {
    if (!self->WriteOut(session)) return;
    if (session->output.empty()) {
      const uint64_t id = session->id;
      self->handler_->OnDrained(id);
      if (self->Find(id) == nullptr) return;
    }
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    self->ReadFrames(session);
  }
}

bool Server::ReadFrames(Session* session) {
  const ssize_t got =
      read(session->fd.get(), session->input + session->input_bytes,
           sizeof(session->input) - session->input_bytes);
  if (got < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (got <= 0) {
    End(session);
    return false;
  }
  session->input_bytes += static_cast<uint32_t>(got);
  const uint64_t id = session->id;
  while (session->input_bytes >= kFrameHeaderBytes) {
    const uint32_t length = LoadLe<uint32_t>(session->input);
    if (length > kRequestFrameBytesMax) {
      Log(LogLevel::kWarning,
          "control: a message of %u bytes, at most %u are taken; the client's "
          "session ends",
          length, kRequestFrameBytesMax);
      End(session);
      return false;
    }
    const uint32_t frame_bytes = kFrameHeaderBytes + length;
    if (session->input_bytes < frame_bytes) break;
    handler_->OnFrame(id, session->input + kFrameHeaderBytes, length);
    // The answer may have ended the session: a client that does not read.
    if (Find(id) == nullptr) return false;
    session->input_bytes -= frame_bytes;
    memmove(session->input, session->input + frame_bytes, session->input_bytes);
  }
  return true;
}

Server::Session* Server::Find(uint64_t id) const {
  for (const auto& session : sessions_) {
    if (session->id == id) return session.get();
  }
  return nullptr;
}

void Server::Send(uint64_t id, const std::string& message) {
  Session* session = Find(id);
  if (session == nullptr) return;
  if (session->output.size() - session->output_done + message.size() >
      kOutputBytesMax) {
    Log(LogLevel::kWarning,
        "control: a client does not read its answers; its session ends");
    End(session);
    return;
  }
  AppendFrame(message, &session->output);
  WriteOut(session);
}

bool Server::Backlogged(uint64_t id) const {
  const Session* session = Find(id);
  return session != nullptr && !session->output.empty();
}

bool Server::WriteOut(Session* session) {
  while (session->output_done < session->output.size()) {
    const ssize_t put =
        send(session->fd.get(), session->output.data() + session->output_done,
             session->output.size() - session->output_done, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EAGAIN) {
      loop_->ChangeWatch(&session->watch, EPOLLIN | EPOLLOUT);
      return true;
    }
    if (put <= 0) {
      End(session);
      return false;
    }
    session->output_done += static_cast<size_t>(put);
  }
  // An idle session holds no buffer.
  std::string().swap(session->output);
  session->output_done = 0;
  loop_->ChangeWatch(&session->watch, EPOLLIN);
  return true;
}

void Server::End(Session* session) {
  const uint64_t id = session->id;
  loop_->Unwatch(&session->watch);
  std::erase_if(sessions_,
                [session](const auto& at) { return at.get() == session; });
  handler_->OnEnd(id);
}

}  // namespace dmu

// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/server.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/control/frame.h"

namespace dmu {

struct Server::Session {
  Server* server = nullptr;
  uint64_t id = 0;
  Role role = Role::kNone;
  UniqueFd fd;
  Watch watch;
  uint8_t input[kFrameHeaderBytes + kRequestFrameBytesMax];
  uint32_t input_bytes = 0;
  std::string output;
  size_t output_done = 0;
  // Messages it may still send now, in 1 / kFramesPerSecond parts of a second;
  // without any it rests, unread, until `resume`.
  uint64_t allowed_us = kAllowedMaxUs;
  uint64_t allowed_at_us = 0;
  bool rests = false;
  bool queued = false;  // a message is there, and not read on until it is taken
  bool held = false;
  Timer resume;

  static constexpr uint64_t kFrameUs = 1'000'000 / kFramesPerSecond;
  static constexpr uint64_t kAllowedMaxUs = 1'000'000;
  static constexpr uint64_t kRestUs = 4 * kFrameUs;
};

namespace {

// More than every device's status, twice: who does not read that is gone.
constexpr size_t kOutputBytesMax = 2 * kResponseFrameBytesMax;

// When the kernel has no file to give for a client.
constexpr uint64_t kAcceptAgainUs = 100'000;

// Writes a warning, with how many were left out before it.
void Warn(LogLimiter* limiter, const char* what) {
  uint64_t dropped = 0;
  if (!limiter->Allow(&dropped)) return;
  Log(LogLevel::kWarning, "control: %s (%llu such lines left out)", what,
      static_cast<unsigned long long>(dropped));
}

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

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Listen(const std::string& path,
                                                       const RoleGroups& groups,
                                                       SessionHandler* handler,
                                                       Loop* loop,
                                                       Framing framing) {
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
  const mode_t old_mask = umask(groups.any() ? 0111 : 0177);
  int result = bind(fd.get(), name, sizeof(address));
  if (result != 0 && errno == EADDRINUSE) {
    if (SomebodyListens(address)) {
      umask(old_mask);
      return absl::AbortedError(absl::StrCat(
          path,
          ": another dmuserd listens there; stop it, or give this one "
          "another path"));
    }
    unlink(path.c_str());
    result = bind(fd.get(), name, sizeof(address));
  }
  umask(old_mask);
  if (result != 0) return Failed("bind", path);
  return Start(std::move(fd), path, /*owns_name=*/true, groups, handler, loop,
               framing);
}

absl::StatusOr<std::unique_ptr<Server>> Server::Adopt(
    UniqueFd fd, const std::string& path, const RoleGroups& groups,
    SessionHandler* handler, Loop* loop, Framing framing) {
  int type = 0;
  socklen_t length = sizeof(type);
  sockaddr_un address = {};
  socklen_t address_length = sizeof(address);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &length) != 0 ||
      type != SOCK_STREAM ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address),
                  &address_length) != 0 ||
      address.sun_family != AF_UNIX ||
      path.compare(0, std::string::npos, address.sun_path,
                   strnlen(address.sun_path, sizeof(address.sun_path))) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the open file ", fd.get(),
                     " is no Unix stream socket that is bound to ", path));
  }
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0 || fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0 ||
      fcntl(fd.get(), F_SETFD, FD_CLOEXEC) != 0) {
    return Failed("prepare the socket", path);
  }
  return Start(std::move(fd), path, /*owns_name=*/false, groups, handler, loop,
               framing);
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    UniqueFd fd, const std::string& path, bool owns_name,
    const RoleGroups& groups, SessionHandler* handler, Loop* loop,
    Framing framing) {
  if (listen(fd.get(), static_cast<int>(kSessionsMax)) != 0) {
    return Failed("listen on", path);
  }
  std::unique_ptr<Server> server(new Server(std::move(fd), path, owns_name,
                                            groups, handler, loop, framing));
  if (int error = loop->AddWatch(&server->watch_)) {
    errno = error;
    return Failed("watch", path);
  }
  return server;
}

Server::Server(UniqueFd fd, std::string path, bool owns_name,
               const RoleGroups& groups, SessionHandler* handler, Loop* loop,
               Framing framing)
    : fd_(std::move(fd)),
      path_(std::move(path)),
      owns_name_(owns_name),
      groups_(groups),
      handler_(handler),
      loop_(loop),
      framing_(framing) {
  watch_.ready = OnAccept;
  watch_.context = this;
  watch_.fd = fd_.get();
  watch_.events = EPOLLIN;
}

Server::~Server() {
  // The name first: who waits for the end of a session may take it then.
  loop_->Unwatch(&watch_);
  loop_->Disarm(&accept_again_);
  if (owns_name_) unlink(path_.c_str());
  fd_.reset();
  while (!sessions_.empty()) End(sessions_.back().get());
}

void Server::OnAccept(void* context, uint32_t) {
  static_cast<Server*>(context)->Accept();
}

void Server::Accept() {
  UniqueFd fd(
      accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) {
    if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS &&
        errno != ENOMEM) {
      return;
    }
    // It waits in the kernel, which would tell so in every turn.
    Warn(&too_many_, "no room for one more open file: a client waits");
    loop_->ChangeWatch(&watch_, 0);
    loop_->Arm(&accept_again_, kAcceptAgainUs);
    return;
  }
  const Role role = PeerRole(fd.get(), groups_);
  if (role == Role::kNone) {
    Warn(&refusals_,
         "a client that is neither root nor in one of the groups refused");
    return;
  }
  if (!HasRoomFor(role)) {
    Warn(&too_many_, "too many clients; one refused");
    return;
  }
  auto session = std::make_unique<Session>();
  session->server = this;
  session->id = next_id_++;
  session->role = role;
  session->fd = std::move(fd);
  session->allowed_at_us = loop_->NowUs();
  session->resume.task.run = OnResume;
  session->resume.task.context = session.get();
  session->watch.ready = OnSession;
  session->watch.context = session.get();
  session->watch.fd = session->fd.get();
  session->watch.events = EPOLLIN;
  if (loop_->AddWatch(&session->watch) != 0) return;
  sessions_.push_back(std::move(session));
}

void Server::OnAcceptAgain(void* context) {
  auto* self = static_cast<Server*>(context);
  self->loop_->ChangeWatch(&self->watch_, EPOLLIN);
}

bool Server::HasRoomFor(Role role) const {
  if (role == Role::kServe) return sessions_.size() < kSessionsMax;
  const auto lesser = static_cast<size_t>(
      std::count_if(sessions_.begin(), sessions_.end(),
                    [](const auto& at) { return at->role != Role::kServe; }));
  return sessions_.size() < kSessionsMax &&
         lesser < kSessionsMax - kSessionsReserved;
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
  if (session->queued) return;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0 &&
      (session->held ||
       (self->framing_ == Framing::kPacket && session->input_bytes > 0))) {
    // Nobody is there for the answer that is awaited.
    self->End(session);
    return;
  }
  if ((events & (EPOLLHUP | EPOLLERR)) != 0 ||
      ((events & EPOLLIN) != 0 && !session->rests && !session->held)) {
    self->ReadFrames(session);
  }
}

bool Server::ReadFrames(Session* session) {
  // A packet with one byte more than a packet may have is too long.
  const size_t room = framing_ == Framing::kPacket
                          ? kPacketBytesMax + 1
                          : sizeof(session->input) - session->input_bytes;
  const ssize_t got =
      read(session->fd.get(), session->input + session->input_bytes, room);
  if (got < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (got <= 0) {
    End(session);
    return false;
  }
  session->input_bytes += static_cast<uint32_t>(got);
  return Look(session);
}

bool Server::Look(Session* session) {
  if (session->held || session->rests || session->queued) return true;
  const uint8_t* bytes = nullptr;
  uint32_t length = 0;
  uint32_t frame_bytes = 0;
  if (!NextFrame(session, &bytes, &length, &frame_bytes)) return false;
  if (frame_bytes != 0) {
    const uint64_t now_us = loop_->NowUs();
    session->allowed_us =
        std::min(session->allowed_us + (now_us - session->allowed_at_us),
                 Session::kAllowedMaxUs);
    session->allowed_at_us = now_us;
    if (session->allowed_us < Session::kFrameUs) {
      session->rests = true;
      loop_->Arm(&session->resume, Session::kRestUs);
    } else {
      session->queued = true;
      queue_.push_back(session);
      loop_->Post(&serve_);
    }
  }
  UpdateWatch(session);
  return true;
}

void Server::OnServe(void* context) {
  auto* self = static_cast<Server*>(context);
  const uint64_t begin_us = self->loop_->NowUs();
  while (!self->queue_.empty()) {
    Session* session = self->queue_.front();
    self->queue_.erase(self->queue_.begin());
    self->TakeFrame(session);
    if (self->loop_->NowUs() - begin_us >= kTurnUs) break;
  }
  if (!self->queue_.empty()) self->loop_->Post(&self->serve_);
}

void Server::TakeFrame(Session* session) {
  session->queued = false;
  const uint8_t* bytes = nullptr;
  uint32_t length = 0;
  uint32_t frame_bytes = 0;
  if (session->held || !NextFrame(session, &bytes, &length, &frame_bytes) ||
      frame_bytes == 0) {
    return;
  }
  const uint64_t id = session->id;
  session->allowed_us -= Session::kFrameUs;
  handler_->OnFrame(id, session->role, bytes, length);
  // The answer may have ended the session: a client that does not read.
  if (Find(id) == nullptr) return;
  session->input_bytes -= frame_bytes;
  memmove(session->input, session->input + frame_bytes, session->input_bytes);
  Look(session);
}

bool Server::NextFrame(Session* session, const uint8_t** bytes, uint32_t* count,
                       uint32_t* input_bytes) {
  *input_bytes = 0;
  const bool packet = framing_ == Framing::kPacket;
  const uint32_t header_bytes = packet ? 0 : kFrameHeaderBytes;
  const uint32_t most = packet ? kPacketBytesMax : kRequestFrameBytesMax;
  if (session->input_bytes <= (packet ? 0 : kFrameHeaderBytes - 1)) return true;
  const uint32_t length =
      packet ? session->input_bytes : LoadLe<uint32_t>(session->input);
  if (length > most) {
    uint64_t dropped = 0;
    if (oversized_.Allow(&dropped)) {
      Log(LogLevel::kWarning,
          "control: a message of %s%u bytes, at most %u are taken; the "
          "client's session ends (%llu such lines left out)",
          packet ? "at least " : "", length, most,
          static_cast<unsigned long long>(dropped));
    }
    End(session);
    return false;
  }
  if (session->input_bytes < header_bytes + length) return true;
  *bytes = session->input + header_bytes;
  *count = length;
  *input_bytes = header_bytes + length;
  return true;
}

void Server::OnResume(void* context) {
  auto* session = static_cast<Session*>(context);
  session->rests = false;
  session->server->Look(session);
}

void Server::UpdateWatch(Session* session) {
  const uint32_t events =
      (session->rests || session->held ? 0u : uint32_t{EPOLLIN}) |
      (session->output.empty() ? 0u : uint32_t{EPOLLOUT});
  if (events != session->watch.events) {
    loop_->ChangeWatch(&session->watch, events);
  }
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
    Warn(&deaf_, "a client does not read its answers; its session ends");
    End(session);
    return;
  }
  if (framing_ == Framing::kPacket) {
    session->output.append(message);
  } else {
    AppendFrame(message, &session->output);
  }
  WriteOut(session);
}

void Server::Hold(uint64_t id) {
  Session* session = Find(id);
  if (session == nullptr) return;
  session->held = true;
  UpdateWatch(session);
}

void Server::Release(uint64_t id) {
  Session* session = Find(id);
  if (session == nullptr || !session->held) return;
  session->held = false;
  // What is in the input already is taken in a turn of its own.
  Look(session);
}

void Server::Close(uint64_t id) {
  if (Session* session = Find(id)) End(session);
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
      UpdateWatch(session);
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
  UpdateWatch(session);
  return true;
}

void Server::End(Session* session) {
  const uint64_t id = session->id;
  loop_->Disarm(&session->resume);
  loop_->Unwatch(&session->watch);
  std::erase(queue_, session);
  if (queue_.empty()) loop_->Cancel(&serve_);
  std::erase_if(sessions_,
                [session](const auto& at) { return at.get() == session; });
  handler_->OnEnd(id);
}

}  // namespace dmu

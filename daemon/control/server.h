// SPDX-License-Identifier: Apache-2.0
//
// server.h - a control socket: sessions, frames, credentials.
//
// Owns: the listening socket and the sessions. Knows frames, not verbs: there
// is one for the protobuf protocol and one for Android's commands. A
// client that breaks the framing or does not read what it asked for loses its
// session; one that asks too often is read more slowly. Neither costs anybody
// else anything.
#ifndef DAEMON_CONTROL_SERVER_H_
#define DAEMON_CONTROL_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/base/log.h"
#include "daemon/control/role.h"
#include "daemon/io/loop.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

// How messages stand on the socket.
enum class Framing {
  kLength,  // u32 length, then the message (frame.h)
  // Nothing tells where a message ends: it is what one read() gives, 512 bytes
  // at most, as Android's daemon takes them.
  kPacket,
};
inline constexpr uint32_t kPacketBytesMax = 512;

// What the server tells about its sessions. An id is never used twice.
class SessionHandler {
 public:
  virtual ~SessionHandler() = default;
  virtual void OnFrame(uint64_t session, Role role, const uint8_t* bytes,
                       uint32_t count) = 0;
  // Everything sent so far has left; see Server::Backlogged.
  virtual void OnDrained(uint64_t session) = 0;
  virtual void OnEnd(uint64_t session) = 0;
};

class Server {
 public:
  static constexpr size_t kSessionsMax = 64;
  // Of these, for who may do everything: the others cannot shut them out.
  static constexpr size_t kSessionsReserved = 16;
  // Messages of a session in a second, on the average.
  static constexpr uint64_t kFramesPerSecond = 400;
  // What all sessions together may take of a turn of the loop, or one message,
  // so that requests of devices come in between.
  static constexpr uint64_t kTurnUs = 300;

  // Binds `path`, taking the place of a socket nobody listens on; its directory
  // is made, 0755. The socket has mode 0600, with groups 0666: then the kernel
  // lets everybody connect, and whoever has no role is turned away at once.
  // kAborted when another daemon listens there.
  static absl::StatusOr<std::unique_ptr<Server>> Listen(
      const std::string& path, const RoleGroups& groups,
      SessionHandler* handler, Loop* loop, Framing framing = Framing::kLength);
  // Takes over a socket that was bound to `path`, with whatever mode, by who
  // started the daemon and goes on to own the name. kInvalidArgument when `fd`
  // is no such socket.
  static absl::StatusOr<std::unique_ptr<Server>> Adopt(
      UniqueFd fd, const std::string& path, const RoleGroups& groups,
      SessionHandler* handler, Loop* loop, Framing framing);
  ~Server();

  // Queues one message; nothing when the session has ended.
  void Send(uint64_t session, const std::string& message);
  // Whether bytes still wait for this client: who sends events sends only the
  // newest then, from OnDrained.
  bool Backlogged(uint64_t session) const;

  // Between the two no message of the session is read: who answers later than
  // from OnFrame keeps the answers in order so. One that ends meanwhile ends.
  void Hold(uint64_t session);
  void Release(uint64_t session);
  // Ends the session; OnEnd runs from inside.
  void Close(uint64_t session);

 private:
  struct Session;

  Server(UniqueFd fd, std::string path, bool owns_name,
         const RoleGroups& groups, SessionHandler* handler, Loop* loop,
         Framing framing);

  // Makes a bound socket the server's.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      UniqueFd fd, const std::string& path, bool owns_name,
      const RoleGroups& groups, SessionHandler* handler, Loop* loop,
      Framing framing);

  static void OnAccept(void* context, uint32_t events);
  static void OnAcceptAgain(void* context);
  static void OnSession(void* context, uint32_t events);
  static void OnResume(void* context);
  static void OnServe(void* context);

  void Accept();
  bool HasRoomFor(Role role) const;
  Session* Find(uint64_t id) const;
  // False when the session has ended.
  bool ReadFrames(Session* session);
  // Has the session wait for its turn when a message is there that may be
  // taken.
  bool Look(Session* session);
  void TakeFrame(Session* session);
  // The next message in the session's input, if all of it is there, and how
  // many bytes of the input it takes. False when the session has ended.
  bool NextFrame(Session* session, const uint8_t** bytes, uint32_t* count,
                 uint32_t* input_bytes);
  // Reads on, or not, as its allowance and its unread answers say.
  void UpdateWatch(Session* session);
  bool WriteOut(Session* session);
  void End(Session* session);

  UniqueFd fd_;
  const std::string path_;
  const bool owns_name_;
  const RoleGroups groups_;
  SessionHandler* const handler_;
  Loop* const loop_;
  const Framing framing_;
  Watch watch_;
  Timer accept_again_{OnAcceptAgain, this};
  LogLimiter refusals_{10};
  LogLimiter too_many_{10};
  LogLimiter deaf_{10};
  LogLimiter oversized_{10};
  std::vector<std::unique_ptr<Session>> sessions_;
  // One message of each, in turn.
  std::vector<Session*> queue_;
  Task serve_{OnServe, this};
  uint64_t next_id_ = 1;
};

}  // namespace dmu

#endif  // DAEMON_CONTROL_SERVER_H_

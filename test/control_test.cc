// SPDX-License-Identifier: Apache-2.0
//
// Goal: the control socket answers every verb, tells a device's life truly,
// outlives bad clients; and a daemon that was killed leaves what the next one
// needs.
// Method: the real server, service, registry and state store on the real loop,
// with null devices over the fake kernel; a client that shares the thread.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "daemon/base/buffer_pool.h"
#include "daemon/control/frame.h"
#include "daemon/control/server.h"
#include "daemon/io/loop_epoll.h"
#include "gtest/gtest.h"
#include "proto/control.pb.h"
#include "test/control_host.h"
#include "test/fake_kernel.h"

namespace dmu {
namespace {

constexpr uint64_t kSizeBytes = kHostSizeBytes;

class Client {
 public:
  Client(const std::string& path, EpollLoop* loop) : loop_(loop) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path.data(), path.size());
    fd_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    connected_ = connect(fd_.get(), reinterpret_cast<sockaddr*>(&address),
                         sizeof(address)) == 0;
    fcntl(fd_.get(), F_SETFL, O_NONBLOCK);
  }

  bool connected() const { return connected_; }

  // False when the session has ended.
  bool TrySendBytes(const std::string& bytes) {
    return send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  void SendBytes(const std::string& bytes) { ASSERT_TRUE(TrySendBytes(bytes)); }

  void Send(proto::Request request) {
    if (request.version() == 0) request.set_version(kControlVersion);
    request.set_id(++id_);
    std::string frame;
    AppendFrame(request.SerializeAsString(), &frame);
    SendBytes(frame);
  }

  // Whether a response was there; it is thrown away.
  bool TryReceive() {
    char piece[4096];
    const ssize_t got = read(fd_.get(), piece, sizeof(piece));
    if (got > 0) in_.append(piece, static_cast<size_t>(got));
    if (in_.size() < kFrameHeaderBytes) return false;
    const uint32_t length =
        LoadLe<uint32_t>(reinterpret_cast<const uint8_t*>(in_.data()));
    if (in_.size() < kFrameHeaderBytes + length) return false;
    in_.erase(0, kFrameHeaderBytes + length);
    return true;
  }

  // The next response; nothing when the session ended or none came.
  std::optional<proto::Response> Receive() {
    for (int turn = 0; turn < 200; ++turn) {
      if (in_.size() >= kFrameHeaderBytes) {
        const uint32_t length =
            LoadLe<uint32_t>(reinterpret_cast<const uint8_t*>(in_.data()));
        if (in_.size() >= kFrameHeaderBytes + length) {
          proto::Response response;
          EXPECT_TRUE(response.ParseFromArray(in_.data() + kFrameHeaderBytes,
                                              static_cast<int>(length)));
          in_.erase(0, kFrameHeaderBytes + length);
          return response;
        }
      }
      loop_->Turn(/*wait=*/false);
      char piece[4096];
      const ssize_t got = read(fd_.get(), piece, sizeof(piece));
      if (got == 0) {
        ended_ = true;
        return std::nullopt;
      }
      if (got > 0) in_.append(piece, static_cast<size_t>(got));
    }
    return std::nullopt;
  }

  int CodeOf(const proto::Request& request) {
    Send(request);
    const auto response = Receive();
    return response.has_value() ? response->code() : -1;
  }

  bool ended() const { return ended_; }

 private:
  EpollLoop* const loop_;
  UniqueFd fd_;
  bool connected_ = false;
  bool ended_ = false;
  uint64_t id_ = 0;
  std::string in_;
};

class ControlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/dmu-control-test-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    pool_ = BufferPool::Create(4);
    Restart();
  }
  void TearDown() override {
    daemon_.reset();
    EXPECT_EQ(system(absl::StrCat("rm -r ", directory_).c_str()), 0);
  }

  void Restart() {
    daemon_.reset();
    daemon_ = std::make_unique<ControlHost>(directory_, pool_.get());
  }

  Client Connect() {
    return Client(directory_ + "/control", daemon_->loop.get());
  }

  static proto::Request Attach(const std::string& name,
                               uint64_t size_bytes = kSizeBytes) {
    proto::Request request;
    request.mutable_attach()->set_name(name);
    request.mutable_attach()->mutable_null()->set_size_bytes(size_bytes);
    return request;
  }
  static proto::Request ShareBase(const std::string& name) {
    proto::Request request;
    request.mutable_share_base()->set_name(name);
    return request;
  }

  static proto::Request Detach(const std::string& name) {
    proto::Request request;
    request.mutable_detach()->set_name(name);
    return request;
  }
  static proto::Request Status(const std::string& name) {
    proto::Request request;
    request.mutable_status()->set_name(name);
    return request;
  }
  static proto::Request Watch(const std::string& name) {
    proto::Request request;
    request.mutable_watch()->set_name(name);
    return request;
  }
  static proto::Request Merge(const std::string& name,
                              proto::Merge::Action action) {
    proto::Request request;
    request.mutable_merge()->set_name(name);
    request.mutable_merge()->set_action(action);
    return request;
  }

  // Sends a read to the device and sees its answer through.
  uint64_t Read(const std::string& name) {
    FakeKernel& kernel = daemon_->kernels[name];
    const uint64_t seq = kernel.Send(DM_USER_REQ_MAP_READ, 8, 4096);
    std::optional<FakeKernel::Reply> reply;
    for (int i = 0; i < 100 && !reply.has_value(); ++i) {
      kernel.Pump();
      daemon_->loop->Turn(/*wait=*/false);
      reply = kernel.TakeReply(seq);
    }
    return reply.has_value() ? reply->type : UINT64_MAX;
  }

  static constexpr int Code(absl::StatusCode code) {
    return static_cast<int>(code);
  }

  std::string directory_;
  std::unique_ptr<BufferPool> pool_;
  std::unique_ptr<ControlHost> daemon_;
};

TEST_F(ControlTest, AttachServeStatusDetach) {
  Client client = Connect();
  ASSERT_EQ(client.CodeOf(Attach("a")), 0);
  FakeKernel& kernel = daemon_->kernels["a"];
  const uint64_t seq = kernel.Send(DM_USER_REQ_MAP_READ, 0, 4096);
  std::optional<FakeKernel::Reply> reply;
  for (int i = 0; i < 100 && !reply.has_value(); ++i) {
    kernel.Pump();
    daemon_->loop->Turn(/*wait=*/false);
    reply = kernel.TakeReply(seq);
  }
  ASSERT_TRUE(reply.has_value());
  client.Send(Status(""));
  const auto status = client.Receive();
  ASSERT_TRUE(status.has_value());
  ASSERT_EQ(status->devices_size(), 1);
  EXPECT_EQ(status->devices(0).name(), "a");
  EXPECT_EQ(status->devices(0).state(), proto::DeviceStatus::SERVING);
  EXPECT_EQ(status->devices(0).reads(), 1u);
  EXPECT_EQ(status->devices(0).size_bytes(), kSizeBytes);
  EXPECT_EQ(status->daemon().version(), "test");
  EXPECT_EQ(client.CodeOf(Detach("a")), 0);
  EXPECT_EQ(client.CodeOf(Status("a")), Code(absl::StatusCode::kNotFound));
  EXPECT_NE(access((directory_ + "/state/a").c_str(), F_OK), 0);
}

TEST_F(ControlTest, LatenciesAreToldWhenAskedFor) {
  Client client = Connect();
  ASSERT_EQ(client.CodeOf(Attach("a")), 0);
  ASSERT_EQ(Read("a"), DM_USER_RESP_SUCCESS);
  ASSERT_EQ(Read("a"), DM_USER_RESP_SUCCESS);
  client.Send(Status("a"));
  auto status = client.Receive();
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(status->devices(0).latency_size(), 0);
  proto::Request request = Status("a");
  request.mutable_status()->set_latency(true);
  client.Send(request);
  status = client.Receive();
  ASSERT_TRUE(status.has_value());
  ASSERT_EQ(status->devices(0).latency_size(), 1) << "reads are all there were";
  const proto::Latency& latency = status->devices(0).latency(0);
  EXPECT_EQ(latency.op(), proto::Latency::READ);
  EXPECT_EQ(latency.count(), 2u);
  EXPECT_LE(latency.max_us(), latency.sum_us());
  uint64_t counted = 0;
  uint64_t below_us = 0;
  for (const proto::Latency::Bucket& bucket : latency.buckets()) {
    EXPECT_TRUE(bucket.below_us() == 0 || bucket.below_us() > below_us);
    below_us = bucket.below_us();
    counted += bucket.count();
  }
  EXPECT_EQ(counted, 2u);
}

// A failed request is in the status, and an event.
TEST_F(ControlTest, FailedRequestsAreToldAndShown) {
  Client client = Connect();
  Client watcher = Connect();
  ASSERT_EQ(client.CodeOf(Attach("a")), 0);
  watcher.Send(Watch("a"));
  auto event = watcher.Receive();
  ASSERT_TRUE(event.has_value());
  EXPECT_FALSE(event->devices(0).has_last_error());
  daemon_->backends["a"]->fail_status = IoStatus::kGone;
  EXPECT_EQ(Read("a"), DM_USER_RESP_ERROR);
  event = watcher.Receive();
  ASSERT_TRUE(event.has_value());
  EXPECT_TRUE(event->more());
  ASSERT_TRUE(event->devices(0).has_last_error());
  const proto::LastError last = event->devices(0).last_error();
  EXPECT_EQ(last.text(),
            "read of 4096 bytes at sector 8: device gone: /some/disk at offset "
            "4096: Input/output error");
  EXPECT_EQ(last.error_class(), "gone");
  EXPECT_EQ(last.op(), "read");
  EXPECT_EQ(last.sector(), 8u);
  EXPECT_EQ(last.error_number(), EIO);
  daemon_->backends["a"]->fail_status = IoStatus::kNoSpace;
  EXPECT_EQ(Read("a"), DM_USER_RESP_ERROR);
  daemon_->backends["a"]->fail_status = IoStatus::kOk;
  EXPECT_EQ(Read("a"), DM_USER_RESP_SUCCESS);
  client.Send(Status("a"));
  const auto status = client.Receive();
  ASSERT_TRUE(status.has_value());
  const proto::DeviceStatus& device = status->devices(0);
  EXPECT_EQ(device.errors(), 2u);
  ASSERT_EQ(device.errors_by_class_size(), 2);
  EXPECT_EQ(device.errors_by_class(0).error_class(), "no_space");
  EXPECT_EQ(device.errors_by_class(1).error_class(), "gone");
  EXPECT_EQ(device.last_error().error_class(), "no_space");
  EXPECT_EQ(device.in_flight(), 0u);
}

// The merge is over, and who wants to go on hearing does.
TEST_F(ControlTest, AWatchMayGoOnPastTheMerge) {
  Client client = Connect();
  ASSERT_EQ(client.CodeOf(Attach("a")), 0);
  daemon_->backends["a"]->Set(MergeStatus::State::kDone, 10);
  client.Send(Watch("a"));
  auto event = client.Receive();
  ASSERT_TRUE(event.has_value());
  EXPECT_FALSE(event->more());
  proto::Request request = Watch("a");
  request.mutable_watch()->set_past_merge(true);
  client.Send(request);
  event = client.Receive();
  ASSERT_TRUE(event.has_value());
  EXPECT_TRUE(event->more());
  EXPECT_EQ(event->devices(0).merge().state(), proto::MergeStatus::DONE);
  daemon_->backends["a"]->fail_status = IoStatus::kIoError;
  EXPECT_EQ(Read("a"), DM_USER_RESP_ERROR);
  event = client.Receive();
  ASSERT_TRUE(event.has_value());
  EXPECT_TRUE(event->more());
  EXPECT_EQ(event->devices(0).last_error().error_class(), "io");
}

// Killed at every byte of what they say: nobody else notices.
TEST_F(ControlTest, ClientsThatAreKilledMidMessage) {
  Client good = Connect();
  ASSERT_EQ(good.CodeOf(Attach("a")), 0);
  proto::Request request = Watch("a");
  request.set_version(kControlVersion);
  std::string frame;
  AppendFrame(request.SerializeAsString(), &frame);
  for (size_t bytes = 0; bytes <= frame.size(); ++bytes) {
    {
      Client killed = Connect();
      killed.SendBytes(frame.substr(0, bytes));
      daemon_->loop->Turn(/*wait=*/false);
      daemon_->loop->Turn(/*wait=*/false);
    }
    // Its answers, and events, have nobody to go to.
    daemon_->backends["a"]->Set(MergeStatus::State::kRunning, bytes);
    ASSERT_EQ(good.CodeOf(Status("a")), 0) << bytes;
  }
}

TEST_F(ControlTest, ErrorsHaveTheirCodes) {
  Client client = Connect();
  EXPECT_EQ(client.CodeOf(Attach("")),
            Code(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(client.CodeOf(Attach("../x")),
            Code(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(client.CodeOf(Attach(".hidden")),
            Code(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(client.CodeOf(Attach("bad", 7)), Code(absl::StatusCode::kDataLoss));
  EXPECT_EQ(client.CodeOf(Attach("gone")),
            Code(absl::StatusCode::kUnavailable));
  EXPECT_EQ(client.CodeOf(Detach("none")), Code(absl::StatusCode::kNotFound));
  EXPECT_EQ(client.CodeOf(Merge("none", proto::Merge::START)),
            Code(absl::StatusCode::kNotFound));
  EXPECT_EQ(client.CodeOf(Watch("none")), Code(absl::StatusCode::kNotFound));
  EXPECT_EQ(client.CodeOf(proto::Request()),
            Code(absl::StatusCode::kUnimplemented));
  proto::Request newer = Status("");
  newer.set_version(kControlVersion + 1);
  EXPECT_EQ(client.CodeOf(newer), Code(absl::StatusCode::kUnimplemented));
  ASSERT_EQ(client.CodeOf(Attach("a")), 0);
  EXPECT_EQ(client.CodeOf(Attach("a")), Code(absl::StatusCode::kAlreadyExists));
}

// What a merge was started with is there for the next daemon.
TEST_F(ControlTest, UndoLogAndRateAreRemembered) {
  Client client = Connect();
  ASSERT_EQ(client.CodeOf(Attach("a")), 0);
  proto::Request start = Merge("a", proto::Merge::START);
  start.mutable_merge()->set_undo_log_path("/no/such/log");
  EXPECT_EQ(client.CodeOf(start), Code(absl::StatusCode::kNotFound));
  EXPECT_EQ(daemon_->backends["a"]->status().state, MergeStatus::State::kIdle);
  start.mutable_merge()->set_undo_log_path("/some/log");
  start.mutable_merge()->set_rate_bytes_per_s(1 << 20);
  ASSERT_EQ(client.CodeOf(start), 0);
  EXPECT_TRUE(daemon_->backends["a"]->keeps_undo_log());
  EXPECT_EQ(daemon_->backends["a"]->rate_bytes_per_s(), 1u << 20);
  daemon_->backends["a"]->Set(MergeStatus::State::kRunning, 3);
  start.mutable_merge()->set_undo_log_path("/another/log");
  EXPECT_EQ(client.CodeOf(start), Code(absl::StatusCode::kFailedPrecondition));
  Restart();
  daemon_->registry->Recover([] {});
  ASSERT_TRUE(daemon_->backends["a"] != nullptr);
  EXPECT_TRUE(daemon_->backends["a"]->keeps_undo_log());
  EXPECT_EQ(daemon_->backends["a"]->rate_bytes_per_s(), 1u << 20);
  EXPECT_EQ(daemon_->backends["a"]->status().state,
            MergeStatus::State::kRunning);
  Client again = Connect();
  again.Send(Status("a"));
  const auto status = again.Receive();
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(status->devices(0).merge().undo_log_path(), "/some/log");
}

TEST_F(ControlTest, ThrottleSetsWhatIsGivenAndSaysWhatHolds) {
  Client client = Connect();
  proto::Request request;
  request.mutable_throttle()->set_rate_bytes_per_s(5000);
  ASSERT_EQ(client.CodeOf(request), 0);
  request.Clear();
  request.mutable_throttle()->set_merges_max(3);
  client.Send(request);
  const auto answer = client.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->daemon().throttle().rate_bytes_per_s(), 5000u);
  EXPECT_EQ(answer->daemon().throttle().merges_max(), 3u);
  request.mutable_throttle()->set_merges_max(99);
  EXPECT_EQ(client.CodeOf(request), Code(absl::StatusCode::kInvalidArgument));
}

// What each role may ask for; the kernel's word on who asks is taken as given.
TEST_F(ControlTest, RolesLimitVerbs) {
  EXPECT_EQ(RoleOf(0, {}, 7, {}), Role::kServe);
  EXPECT_EQ(RoleOf(7, {}, 7, {}), Role::kServe);
  EXPECT_EQ(RoleOf(8, {}, 7, {}), Role::kNone);
  const gid_t groups[] = {20, 30};
  EXPECT_EQ(RoleOf(8, groups, 7, {.look = 30}), Role::kLook);
  EXPECT_EQ(RoleOf(8, groups, 7, {.look = 20, .merge = 30}), Role::kMerge);
  EXPECT_EQ(RoleOf(8, groups, 7, {.look = 20, .serve = 20}), Role::kServe);
  EXPECT_EQ(RoleOf(8, groups, 7, {.merge = 31}), Role::kNone);

  Client client = Connect();
  ASSERT_EQ(client.CodeOf(Attach("a")), 0);
  proto::Request with_log = Merge("a", proto::Merge::START);
  with_log.mutable_merge()->set_undo_log_path("/some/log");
  proto::Request throttle;
  throttle.mutable_throttle();
  proto::Request hand_over;
  hand_over.mutable_hand_over();
  const struct {
    proto::Request request;
    Role needed;
  } cases[] = {
      {Status(""), Role::kLook},
      {Merge("a", proto::Merge::PAUSE), Role::kMerge},
      {throttle, Role::kMerge},
      {with_log, Role::kServe},
      {hand_over, Role::kServe},
      {Attach("b"), Role::kServe},
      {Detach("b"), Role::kServe},
      {ShareBase("a"), Role::kServe},
  };
  // Answers go to the one session there is.
  const uint64_t session = 1;
  for (const auto& c : cases) {
    for (const Role role : {Role::kLook, Role::kMerge, Role::kServe}) {
      proto::Request request = c.request;
      request.set_version(kControlVersion);
      const std::string bytes = request.SerializeAsString();
      daemon_->service->OnFrame(session, role,
                                reinterpret_cast<const uint8_t*>(bytes.data()),
                                static_cast<uint32_t>(bytes.size()));
      const auto answer = client.Receive();
      ASSERT_TRUE(answer.has_value());
      EXPECT_EQ(answer->code() == Code(absl::StatusCode::kPermissionDenied),
                role < c.needed)
          << request.verb_case() << " as " << RoleName(role);
    }
  }
}

TEST_F(ControlTest, HandOverIsAnsweredAndThenDone) {
  Client client = Connect();
  proto::Request request;
  request.mutable_hand_over();
  EXPECT_EQ(client.CodeOf(request), 0);
  EXPECT_EQ(daemon_->stops, 1);
}

// A client that asks as fast as it can gets all its answers, and others theirs
// in between.
TEST_F(ControlTest, AGreedyClientIsReadSlowly) {
  constexpr int kMessages = 600;
  Client greedy = Connect();
  Client modest = Connect();
  proto::Request request = Status("");
  request.set_version(kControlVersion);
  std::string frame;
  AppendFrame(request.SerializeAsString(), &frame);
  int sent = 0;
  int answers = 0;
  const uint64_t begin_us = daemon_->loop->NowUs();
  while (answers < kMessages) {
    // As much as the socket takes.
    while (sent < kMessages && greedy.TrySendBytes(frame)) ++sent;
    if (answers == 0) {
      EXPECT_EQ(modest.CodeOf(Status("")), 0);
    }
    // While the socket was full the daemon may have nothing more to do.
    daemon_->loop->Turn(/*wait=*/sent == kMessages);
    while (greedy.TryReceive()) ++answers;
  }
  const uint64_t us = daemon_->loop->NowUs() - begin_us;
  EXPECT_LE(static_cast<uint64_t>(answers),
            Server::kFramesPerSecond * (1'050'000 + us) / 1'000'000 + 8);
}

TEST_F(ControlTest, WatchFollowsTheMergeToItsEnd) {
  Client client = Connect();
  Client watcher = Connect();
  ASSERT_EQ(client.CodeOf(Attach("a")), 0);
  watcher.Send(Watch("a"));
  auto event = watcher.Receive();
  ASSERT_TRUE(event.has_value());
  EXPECT_TRUE(event->more());
  ASSERT_EQ(client.CodeOf(Merge("a", proto::Merge::START)), 0);
  MergeableBackend* backend = daemon_->backends["a"];
  for (uint64_t merged = 0; merged < 10; ++merged) {
    event = watcher.Receive();
    ASSERT_TRUE(event.has_value());
    EXPECT_TRUE(event->more());
    EXPECT_EQ(event->devices(0).merge().merged_ops(), merged);
    backend->Set(
        merged == 9 ? MergeStatus::State::kDone : MergeStatus::State::kRunning,
        merged + 1);
  }
  event = watcher.Receive();
  ASSERT_TRUE(event.has_value());
  EXPECT_FALSE(event->more());
  EXPECT_EQ(event->devices(0).merge().state(), proto::MergeStatus::DONE);
}

TEST_F(ControlTest, WatchEndsWhenTheDeviceGoes) {
  Client client = Connect();
  ASSERT_EQ(client.CodeOf(Attach("a")), 0);
  client.Send(Watch("a"));
  ASSERT_TRUE(client.Receive().has_value());
  // As dmsetup remove: the kernel's end closes, nobody says detach.
  daemon_->kernels["a"].CloseKernelEnd();
  const auto event = client.Receive();
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->code(), Code(absl::StatusCode::kNotFound));
  EXPECT_NE(access((directory_ + "/state/a").c_str(), F_OK), 0);
}

// A daemon that was told to stop, or killed, leaves its devices to the next
// one, with the merge going on where it was wanted and nowhere else.
TEST_F(ControlTest, TheNextDaemonGoesOn) {
  {
    Client client = Connect();
    ASSERT_EQ(client.CodeOf(Attach("idle")), 0);
    ASSERT_EQ(client.CodeOf(Attach("merging")), 0);
    ASSERT_EQ(client.CodeOf(Attach("paused")), 0);
    ASSERT_EQ(client.CodeOf(Merge("merging", proto::Merge::START)), 0);
    ASSERT_EQ(client.CodeOf(Merge("paused", proto::Merge::START)), 0);
    ASSERT_EQ(client.CodeOf(Merge("paused", proto::Merge::PAUSE)), 0);
  }
  Restart();
  int recovered = 0;
  daemon_->registry->Recover([&recovered] { ++recovered; });
  EXPECT_EQ(recovered, 1);
  Client client = Connect();
  client.Send(Status(""));
  const auto status = client.Receive();
  ASSERT_TRUE(status.has_value());
  ASSERT_EQ(status->devices_size(), 3);
  for (const proto::DeviceStatus& device : status->devices()) {
    EXPECT_EQ(device.state(), proto::DeviceStatus::SERVING);
    EXPECT_EQ(device.merge().state() == proto::MergeStatus::RUNNING,
              device.name() == "merging");
  }
}

TEST_F(ControlTest, AttachIsAnsweredWhenTheChannelIsUp) {
  Client client = Connect();
  client.Send(Attach("late"));
  while (daemon_->late == nullptr || daemon_->late->sink() == nullptr) {
    daemon_->loop->Turn(/*wait=*/false);
  }
  Client other = Connect();
  other.Send(Status("late"));
  auto status = other.Receive();
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(status->devices(0).state(), proto::DeviceStatus::ATTACHING);
  // The next daemon knows of it before the kernel does.
  EXPECT_EQ(access((directory_ + "/state/late").c_str(), F_OK), 0);
  daemon_->late->sink()->OnStarted(absl::OkStatus());
  const auto answer = client.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->code(), 0);
  ASSERT_EQ(answer->devices_size(), 1);
  EXPECT_EQ(answer->devices(0).state(), proto::DeviceStatus::SERVING);
  EXPECT_EQ(answer->devices(0).block_path(), "/dev/late0");
  EXPECT_EQ(client.CodeOf(Detach("late")), 0);
  EXPECT_EQ(daemon_->channel_log, "remove ");
}

TEST_F(ControlTest, ChannelThatFailsToComeUpLeavesNothing) {
  Client client = Connect();
  client.Send(Attach("late"));
  while (daemon_->late == nullptr || daemon_->late->sink() == nullptr) {
    daemon_->loop->Turn(/*wait=*/false);
  }
  daemon_->late->sink()->OnStarted(absl::PermissionDeniedError("no"));
  const auto answer = client.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->code(), Code(absl::StatusCode::kPermissionDenied));
  EXPECT_EQ(daemon_->channel_log, "remove ");
  EXPECT_EQ(client.CodeOf(Status("late")), Code(absl::StatusCode::kNotFound));
  EXPECT_NE(access((directory_ + "/state/late").c_str(), F_OK), 0);
}

TEST_F(ControlTest, DetachWhileTheChannelComesUp) {
  Client client = Connect();
  client.Send(Attach("late"));
  while (daemon_->late == nullptr || daemon_->late->sink() == nullptr) {
    daemon_->loop->Turn(/*wait=*/false);
  }
  Client other = Connect();
  EXPECT_EQ(other.CodeOf(Detach("late")), 0);
  const auto answer = client.Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->code(), Code(absl::StatusCode::kCancelled));
  EXPECT_EQ(daemon_->channel_log, "remove ");
}

// What its channel left in the kernel stays for a later try, unless somebody
// says that there will be none.
TEST_F(ControlTest, WhatCannotBeRecoveredCanBeDetached) {
  {
    Client client = Connect();
    client.Send(Attach("late"));
    while (daemon_->late == nullptr || daemon_->late->sink() == nullptr) {
      daemon_->loop->Turn(/*wait=*/false);
    }
    daemon_->late->sink()->OnStarted(absl::OkStatus());
    ASSERT_EQ(client.Receive()->code(), 0);
  }
  Restart();
  daemon_->broken = "late";
  daemon_->registry->Recover([] {});
  Client client = Connect();
  EXPECT_EQ(client.CodeOf(Status("late")), Code(absl::StatusCode::kNotFound));
  EXPECT_EQ(access((directory_ + "/state/late").c_str(), F_OK), 0);
  EXPECT_EQ(daemon_->channel_log, "");
  EXPECT_EQ(client.CodeOf(Detach("late")), 0);
  EXPECT_EQ(daemon_->channel_log, "remove ");
  EXPECT_NE(access((directory_ + "/state/late").c_str(), F_OK), 0);
  EXPECT_EQ(client.CodeOf(Detach("late")), Code(absl::StatusCode::kNotFound));
}

TEST_F(ControlTest, MergedBaseIsShared) {
  Client client = Connect();
  proto::Request attach = Attach("a");
  attach.mutable_attach()->mutable_snapshot()->set_cow_path("/update.cow");
  ASSERT_EQ(client.CodeOf(Attach("null")), 0);
  EXPECT_EQ(client.CodeOf(ShareBase("null")),
            Code(absl::StatusCode::kInvalidArgument));
  daemon_->opened.clear();
  ASSERT_EQ(client.CodeOf(attach), 0);
  EXPECT_EQ(client.CodeOf(ShareBase("b")), Code(absl::StatusCode::kNotFound));
  EXPECT_EQ(client.CodeOf(ShareBase("a")), Code(absl::StatusCode::kAborted));
  EXPECT_EQ(daemon_->opened.size(), 1u);
  daemon_->backends["a"]->Set(MergeStatus::State::kDone, 10);
  const MergeableBackend* first = daemon_->backends["a"];
  EXPECT_EQ(client.CodeOf(ShareBase("a")), 0);
  ASSERT_EQ(daemon_->opened.size(), 2u);
  EXPECT_FALSE(daemon_->opened[0].snapshot().share_base());
  EXPECT_TRUE(daemon_->opened[1].snapshot().share_base());
  EXPECT_NE(daemon_->backends["a"], first);
  // Requests go on with the new one.
  FakeKernel& kernel = daemon_->kernels["a"];
  const uint64_t seq = kernel.Send(DM_USER_REQ_MAP_READ, 0, 4096);
  std::optional<FakeKernel::Reply> reply;
  for (int i = 0; i < 100 && !reply.has_value(); ++i) {
    kernel.Pump();
    daemon_->loop->Turn(/*wait=*/false);
    reply = kernel.TakeReply(seq);
  }
  EXPECT_TRUE(reply.has_value());
  EXPECT_EQ(client.CodeOf(ShareBase("a")), 0) << "again";
  EXPECT_EQ(daemon_->opened.size(), 2u);
}

TEST_F(ControlTest, BadRecordsAreLeftAlone) {
  for (const char* name : {"/state/junk", "/state/.half.new"}) {
    UniqueFd fd(open((directory_ + name).c_str(), O_CREAT | O_WRONLY, 0600));
    ASSERT_EQ(write(fd.get(), "\xff\xff\xff", 3), 3);
  }
  Restart();
  int recovered = 0;
  daemon_->registry->Recover([&recovered] { ++recovered; });
  EXPECT_EQ(recovered, 1) << "nothing to recover is an end, too";
  Client client = Connect();
  client.Send(Status(""));
  const auto status = client.Receive();
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(status->devices_size(), 0);
  EXPECT_EQ(access((directory_ + "/state/junk").c_str(), F_OK), 0);
  EXPECT_NE(access((directory_ + "/state/.half.new").c_str(), F_OK), 0);
}

TEST_F(ControlTest, HostileClientsLoseTheirSessionAndNothingElse) {
  Client good = Connect();
  ASSERT_EQ(good.CodeOf(Attach("a")), 0);
  {
    Client oversized = Connect();
    oversized.SendBytes(std::string("\xff\xff\xff\x7f", 4));
    EXPECT_FALSE(oversized.Receive().has_value());
    EXPECT_TRUE(oversized.ended());
  }
  {
    Client garbage = Connect();
    std::string frame;
    AppendFrame("\xff\xff\xff", &frame);
    garbage.SendBytes(frame);
    const auto response = garbage.Receive();
    ASSERT_TRUE(response.has_value());
    EXPECT_EQ(response->code(), Code(absl::StatusCode::kInvalidArgument));
  }
  {
    Client cut = Connect();
    cut.SendBytes(std::string("\x10\x00\x00\x00half", 8));
  }
  {
    // Asks and asks and never reads.
    Client deaf = Connect();
    proto::Request request = Status("");
    request.set_version(kControlVersion);
    std::string frame;
    AppendFrame(request.SerializeAsString(), &frame);
    int asked = 0;
    while (asked < 1'000'000 && deaf.TrySendBytes(frame)) {
      daemon_->loop->Turn(/*wait=*/false);
      if (++asked % 1000 == 0) {
        ASSERT_EQ(good.CodeOf(Status("a")), 0);
      }
    }
    EXPECT_LT(asked, 1'000'000) << "its answers pile up without a bound";
  }
  EXPECT_EQ(good.CodeOf(Status("a")), 0);
}

TEST_F(ControlTest, MoreClientsThanSessions) {
  std::vector<std::unique_ptr<Client>> clients;
  for (size_t i = 0; i < Server::kSessionsMax + 2; ++i) {
    clients.push_back(
        std::make_unique<Client>(directory_ + "/control", daemon_->loop.get()));
    daemon_->loop->Turn(/*wait=*/false);
  }
  EXPECT_EQ(clients[0]->CodeOf(Status("")), 0);
  EXPECT_FALSE(clients.back()->Receive().has_value());
  EXPECT_TRUE(clients.back()->ended());
  clients.erase(clients.begin(), clients.begin() + 4);
  for (int i = 0; i < 5; ++i) daemon_->loop->Turn(/*wait=*/false);
  Client late = Connect();
  EXPECT_EQ(late.CodeOf(Status("")), 0);
}

// Whoever watches and watches is told to stop; others are not.
TEST_F(ControlTest, WatchesAreBounded) {
  Client client = Connect();
  Client greedy = Connect();
  ASSERT_EQ(client.CodeOf(Attach("a")), 0);
  size_t watches = 0;
  int code = 0;
  const uint64_t begin_us = daemon_->loop->NowUs();
  while (watches < 2 * Service::kWatchesPerSessionMax) {
    code = greedy.CodeOf(Watch("a"));
    if (code == -1) continue;  // read slowly
    if (code != 0) break;
    ++watches;
  }
  EXPECT_EQ(code, Code(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(watches, Service::kWatchesPerSessionMax);
  EXPECT_LT(daemon_->loop->NowUs() - begin_us, 60'000'000u);
  EXPECT_EQ(client.CodeOf(Watch("a")), 0);
}

// No file is left for a client: it waits, the loop sleeps, and it is served
// when there are files again.
TEST_F(ControlTest, NoFilesLeftForAClient) {
  Client before = Connect();
  ASSERT_EQ(before.CodeOf(Status("")), 0);
  Client late = Connect();  // in the socket's queue
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none = {.rlim_cur = 3, .rlim_max = limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const uint64_t begin_us = daemon_->loop->NowUs();
  daemon_->loop->Turn(/*wait=*/false);
  EXPECT_FALSE(late.TryReceive());
  // The next turn is that of the timer.
  const uint64_t turns = daemon_->loop->turns();
  daemon_->loop->Turn(/*wait=*/true);
  EXPECT_GE(daemon_->loop->NowUs() - begin_us, 100'000u);
  EXPECT_LE(daemon_->loop->turns() - turns, 2u);
  EXPECT_EQ(before.CodeOf(Status("")), 0) << "others are answered meanwhile";
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  late.Send(Status(""));
  std::optional<proto::Response> answer;
  while (!answer.has_value() && !late.ended()) answer = late.Receive();
  EXPECT_TRUE(answer.has_value());
}

TEST_F(ControlTest, OneDaemonPerSocket) {
  auto loop = EpollLoop::Create();
  auto second = Server::Listen(directory_ + "/control", {},
                               daemon_->service.get(), loop.get());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAborted);
  struct stat info = {};
  ASSERT_EQ(stat((directory_ + "/control").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

}  // namespace
}  // namespace dmu

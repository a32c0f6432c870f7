// SPDX-License-Identifier: Apache-2.0
//
// Goal: the commands of Android's daemon have its answers, byte for byte; who
// sends garbage, too much, too fast or half of it costs nobody else anything.
// Method: the parser alone; then the real server, service and registry on the
// real loop (control_host.h), with a client that shares the thread and reads as
// Android's does: one recv() for one answer.
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "daemon/control/inherited_socket.h"
#include "test/control_host.h"

namespace dmu {
namespace {

using Verb = TextCommand::Verb;
using State = MergeStatus::State;

TEST(TextCommandsTest, FieldsStandBetweenCommas) {
  const TextCommand init = ParseTextCommand("init,a_b,/cow,/src,/base");
  EXPECT_EQ(init.verb, Verb::kInit);
  EXPECT_TRUE(init.complete);
  EXPECT_EQ(init.name, "a_b");
  EXPECT_EQ(init.cow_path, "/cow");
  EXPECT_EQ(init.source_path, "/src");
  EXPECT_EQ(init.base_path, "/base");
  EXPECT_EQ(ParseTextCommand("start,a").name, "a");
  EXPECT_EQ(ParseTextCommand("supports,x").name, "x");
}

TEST(TextCommandsTest, EveryVerbHasItsFieldsAndItsRole) {
  static constexpr struct {
    std::string_view message;
    Verb verb;
    bool complete;
    Role role;
  } kCases[] = {
      {"init,a,b,c", Verb::kInit, false, Role::kServe},
      {"init,a,b,c,d", Verb::kInit, true, Role::kServe},
      {"init,a,b,c,d,e", Verb::kInit, false, Role::kServe},
      // An empty last field is none; an empty one before it is one.
      {"init,a,b,c,", Verb::kInit, false, Role::kServe},
      {"init,a,,c,d", Verb::kInit, true, Role::kServe},
      {"start", Verb::kStart, false, Role::kServe},
      {"start,", Verb::kStart, false, Role::kServe},
      {"start,a,", Verb::kStart, true, Role::kServe},
      {"start,a,b", Verb::kStart, false, Role::kServe},
      {"delete,a", Verb::kDelete, true, Role::kServe},
      {"initiate_merge,a", Verb::kInitiateMerge, true, Role::kMerge},
      {"initiate_merge", Verb::kInitiateMerge, false, Role::kMerge},
      {"getstatus,a", Verb::kGetStatus, true, Role::kLook},
      {"getstatus", Verb::kGetStatus, false, Role::kLook},
      {"merge_percent", Verb::kMergePercent, true, Role::kLook},
      {"pause_merge", Verb::kPauseMerge, true, Role::kMerge},
      {"resume_merge", Verb::kResumeMerge, true, Role::kMerge},
      {"query", Verb::kQuery, true, Role::kLook},
      {"query,whatever,else", Verb::kQuery, true, Role::kLook},
      {"supports", Verb::kSupports, false, Role::kLook},
      {"supports,x", Verb::kSupports, true, Role::kLook},
      {"update-verify", Verb::kUpdateVerify, true, Role::kLook},
      {"detach", Verb::kDetach, true, Role::kServe},
      {"stop", Verb::kStop, true, Role::kServe},
      {"", Verb::kUnknown, false, Role::kLook},
      {",", Verb::kUnknown, false, Role::kLook},
      {"queryquery", Verb::kUnknown, false, Role::kLook},
      {"QUERY", Verb::kUnknown, false, Role::kLook},
      {"query\n", Verb::kUnknown, false, Role::kLook},
      {std::string_view("start,a\0b", 9), Verb::kUnknown, false, Role::kLook},
  };
  for (const auto& c : kCases) {
    const TextCommand command = ParseTextCommand(c.message);
    EXPECT_EQ(command.verb, c.verb) << c.message;
    EXPECT_EQ(command.complete, c.complete) << c.message;
    EXPECT_EQ(TextRole(command.verb), c.role) << c.message;
    if (!command.complete) {
      EXPECT_TRUE(command.name.empty()) << c.message;
    }
  }
}

TEST(TextCommandsTest, PercentIsTheMeanOfSnapshots) {
  std::vector<proto::DeviceStatus> devices;
  EXPECT_EQ(TextMergePercent(devices, 0), "0.000000");
  EXPECT_EQ(TextMergePercent(devices, 2), "100.000000");
  proto::DeviceStatus device;
  device.set_state(proto::DeviceStatus::SERVING);
  devices.push_back(device);  // nothing to merge: does not count
  device.mutable_merge()->set_merged_ops(1);
  device.mutable_merge()->set_total_ops(4);
  devices.push_back(device);
  EXPECT_EQ(TextMergePercent(devices, 0), "25.000000");
  device.set_state(proto::DeviceStatus::PREPARED);
  devices.push_back(device);
  EXPECT_EQ(TextMergePercent(devices, 0), "25.000000");
  EXPECT_EQ(TextMergePercent(devices, 1), "62.500000");
  device.set_state(proto::DeviceStatus::SERVING);
  device.mutable_merge()->set_merged_ops(0);
  device.mutable_merge()->set_total_ops(0);  // an empty file is merged
  devices.push_back(device);
  EXPECT_EQ(TextMergePercent(devices, 0), "62.500000");
}

TEST(InheritedSocketTest, IsNamedByTheEnvironment) {
  unsetenv("ANDROID_SOCKET_snapuserd");
  EXPECT_EQ(InheritedAndroidSocket("/dev/socket/snapuserd"), -1);
  static constexpr struct {
    const char* value;
    int fd;
  } kCases[] = {{"7", 7},   {"", -1},   {"-1", -1},
                {"7x", -1}, {" 7", -1}, {"99999999999999999999", -1}};
  for (const auto& c : kCases) {
    setenv("ANDROID_SOCKET_snapuserd", c.value, 1);
    EXPECT_EQ(InheritedAndroidSocket("/dev/socket/snapuserd"), c.fd) << c.value;
    EXPECT_EQ(InheritedAndroidSocket("snapuserd"), c.fd) << c.value;
  }
  unsetenv("ANDROID_SOCKET_snapuserd");
  setenv("ANDROID_SOCKET_a_b_c", "5", 1);
  EXPECT_EQ(InheritedAndroidSocket("/x/a-b.c"), 5);
  unsetenv("ANDROID_SOCKET_a_b_c");
}

// systemd passes the sockets of a unit in the order in which they stand there,
// and may name them; the daemon goes by where they are bound.
TEST(InheritedSocketTest, OfSystemdIsTheOneBoundToThePath) {
  char folder[] = "/tmp/dmu-inherited.XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string paths[] = {std::string(folder) + "/control",
                               std::string(folder) + "/control-text"};
  // One after the other, and nothing but these and their predecessors.
  int fds[2];
  UniqueFd owners[2];
  for (int i = 0; i < 2; ++i) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, paths[i].data(), paths[i].size());
    owners[i].reset(socket(AF_UNIX, SOCK_STREAM, 0));
    fds[i] = owners[i].get();
    ASSERT_EQ(
        bind(fds[i], reinterpret_cast<sockaddr*>(&address), sizeof(address)),
        0);
  }
  ASSERT_LT(fds[0], fds[1]);
  const auto pass = [](int count) {
    setenv("LISTEN_FDS", absl::StrCat(count).c_str(), 1);
  };
  const auto find = [&paths](int i) {
    return InheritedSystemdSocket(paths[i]);
  };
  unsetenv("LISTEN_PID");
  unsetenv("LISTEN_FDS");
  EXPECT_EQ(find(0), -1);
  pass(fds[1] - 2);
  EXPECT_EQ(find(0), -1);
  setenv("LISTEN_PID", absl::StrCat(getpid()).c_str(), 1);
  for (const char* names : {"", "a:b", "b", "control-text:control", "::::::"}) {
    setenv("LISTEN_FDNAMES", names, 1);
    EXPECT_EQ(find(0), fds[0]) << names;
    EXPECT_EQ(find(1), fds[1]) << names;
  }
  unsetenv("LISTEN_FDNAMES");
  EXPECT_EQ(find(0), fds[0]);
  EXPECT_EQ(find(1), fds[1]);
  EXPECT_EQ(InheritedSystemdSocket(paths[1] + "2"), -1);
  EXPECT_EQ(InheritedSystemdSocket(paths[1].substr(0, paths[1].size() - 1)),
            -1);
  pass(fds[1] - 3);
  EXPECT_EQ(find(0), fds[0]);
  EXPECT_EQ(find(1), -1) << "behind the last one";
  for (const char* wrong : {"", "-1", "x", "1x"}) {
    setenv("LISTEN_FDS", wrong, 1);
    EXPECT_EQ(find(0), -1) << wrong;
  }
  pass(fds[1] - 2);
  setenv("LISTEN_PID", absl::StrCat(getppid()).c_str(), 1);
  EXPECT_EQ(find(0), -1) << "of the parent";
  unsetenv("LISTEN_PID");
  unsetenv("LISTEN_FDS");
  for (const std::string& path : paths) unlink(path.c_str());
  rmdir(folder);
}

class TextClient {
 public:
  TextClient(const std::string& path, EpollLoop* loop) : loop_(loop) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path.data(), path.size());
    fd_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(fd_.get(), reinterpret_cast<sockaddr*>(&address),
                      sizeof(address)),
              0);
    fcntl(fd_.get(), F_SETFL, O_NONBLOCK);
  }

  bool TrySend(std::string_view message) {
    return send(fd_.get(), message.data(), message.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(message.size());
  }

  // What one recv() gives; nothing when the session ended or none came.
  std::optional<std::string> Receive() {
    for (int turn = 0; turn < 50; ++turn) {
      loop_->Turn(/*wait=*/false);
      char bytes[kPacketBytesMax];
      const ssize_t got = recv(fd_.get(), bytes, sizeof(bytes), 0);
      if (got == 0 || (got < 0 && errno == ECONNRESET)) ended_ = true;
      if (ended_) return std::nullopt;
      if (got > 0) return std::string(bytes, static_cast<size_t>(got));
    }
    return std::nullopt;
  }

  // Sends and returns the answer; "(none)" and "(end)" when there is none.
  std::string Ask(std::string_view message) {
    if (!TrySend(message)) return "(not sent)";
    const auto answer = Receive();
    return answer.has_value() ? *answer : ended_ ? "(end)" : "(none)";
  }

  void HangUp() { fd_.reset(); }

 private:
  EpollLoop* const loop_;
  UniqueFd fd_;
  bool ended_ = false;
};

class TextControlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/dmu-text-test-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    pool_ = BufferPool::Create(4);
    host_ = std::make_unique<ControlHost>(directory_, pool_.get());
  }
  void TearDown() override {
    host_.reset();
    EXPECT_EQ(system(absl::StrCat("rm -r ", directory_).c_str()), 0);
  }

  TextClient Connect() {
    return TextClient(directory_ + "/android", host_->loop.get());
  }

  // A served snapshot.
  void Serve(TextClient* client, const std::string& name) {
    ASSERT_EQ(client->Ask(absl::StrCat("init,", name, ",/c,/b,/b")),
              "success,2048");
    ASSERT_EQ(client->Ask("start," + name), "success");
  }

  void Turn(int turns) {
    for (int i = 0; i < turns; ++i) host_->loop->Turn(/*wait=*/false);
  }

  proto::DeviceStatus::State StateOf(const std::string& name) {
    auto status = host_->registry->Status(name);
    EXPECT_TRUE(status.ok());
    return status.ok() ? status->front().state()
                       : proto::DeviceStatus::DETACHING;
  }

  std::string directory_;
  std::unique_ptr<BufferPool> pool_;
  std::unique_ptr<ControlHost> host_;
};

TEST_F(TextControlTest, ALifeAsAndroidLeadsIt) {
  TextClient client = Connect();
  EXPECT_EQ(client.Ask("query"), "active");
  EXPECT_EQ(client.Ask("supports,second_stage_socket_handoff"), "fail");
  EXPECT_EQ(client.Ask("init,system_b,/cow,/src,/base"), "success,2048");
  const proto::SnapshotBackend& got = host_->attached["system_b"].snapshot();
  EXPECT_EQ(got.cow_path(), "/cow");
  EXPECT_EQ(got.source_path(), "/src");
  EXPECT_EQ(got.base_path(), "/base");
  EXPECT_EQ(StateOf("system_b"), proto::DeviceStatus::PREPARED);
  EXPECT_EQ(host_->kernels.count("system_b"), 0u) << "served before start";
  EXPECT_NE(access((directory_ + "/state/system_b").c_str(), F_OK), 0);
  EXPECT_EQ(client.Ask("getstatus,system_b"), "snapshot");
  EXPECT_EQ(client.Ask("initiate_merge,system_b"), "fail");

  EXPECT_EQ(client.Ask("start,system_b"), "success");
  EXPECT_EQ(StateOf("system_b"), proto::DeviceStatus::SERVING);
  EXPECT_EQ(access((directory_ + "/state/system_b").c_str(), F_OK), 0);
  EXPECT_EQ(client.Ask("getstatus,system_b"), "snapshot");
  EXPECT_EQ(client.Ask("merge_percent"), "0.000000");
  EXPECT_EQ(client.Ask("update-verify"), "fail");

  EXPECT_EQ(client.Ask("initiate_merge,system_b"), "success");
  EXPECT_EQ(client.Ask("getstatus,system_b"), "snapshot-merge");
  MergeableBackend* backend = host_->backends["system_b"];
  backend->Set(State::kRunning, 3);
  EXPECT_EQ(client.Ask("merge_percent"), "30.000000");
  EXPECT_EQ(client.Ask("initiate_merge,system_b"), "success");
  backend->Set(State::kFailed, 3);
  EXPECT_EQ(client.Ask("getstatus,system_b"), "snapshot-merge-failed");
  backend->Set(State::kDone, 10);
  EXPECT_EQ(client.Ask("getstatus,system_b"), "snapshot-merge-complete");
  EXPECT_EQ(client.Ask("merge_percent"), "100.000000");

  // libsnapshot changes the table, by which our device goes, then asks.
  host_->kernels["system_b"].CloseKernelEnd();
  EXPECT_EQ(client.Ask("delete,system_b"), "success");
  EXPECT_EQ(client.Ask("delete,system_b"), "success");
  EXPECT_EQ(client.Ask("getstatus,system_b"), "snapshot-merge-failed");
  EXPECT_EQ(client.Ask("merge_percent"), "100.000000");
}

TEST_F(TextControlTest, TheBaseIsNotItsOwnSource) {
  TextClient client = Connect();
  EXPECT_EQ(client.Ask("init,a,/cow,/base,/base"), "success,2048");
  EXPECT_EQ(host_->attached["a"].snapshot().source_path(), "");
}

TEST_F(TextControlTest, WhatCannotBeDoneFails) {
  TextClient client = Connect();
  EXPECT_EQ(client.Ask("init,a,/bad,/b,/b"), "fail");
  EXPECT_EQ(client.Ask("init,../a,/c,/b,/b"), "fail");
  EXPECT_EQ(client.Ask("init,a,/c,/b"), "fail");
  EXPECT_EQ(client.Ask("start,a"), "fail") << "never opened";
  EXPECT_EQ(client.Ask("start"), "fail");
  EXPECT_EQ(client.Ask("delete"), "fail");
  EXPECT_EQ(client.Ask("initiate_merge,a"), "fail");
  EXPECT_EQ(client.Ask("initiate_merge"), "fail");
  EXPECT_EQ(client.Ask("supports"), "fail");
  EXPECT_EQ(client.Ask("getstatus"), "snapshot-merge-failed");
  EXPECT_EQ(client.Ask("getstatus,"), "snapshot-merge-failed");
  Serve(&client, "a");
  EXPECT_EQ(client.Ask("init,a,/c,/b,/b"), "fail") << "twice";
  EXPECT_EQ(client.Ask("start,a"), "fail") << "twice";
  EXPECT_EQ(client.Ask("getstatus,a"), "snapshot");
  EXPECT_EQ(client.Ask("query"), "active") << "the session goes on";
}

// The node may come after init, and after a first start.
TEST_F(TextControlTest, StartCanBeTriedAgain) {
  TextClient client = Connect();
  EXPECT_EQ(client.Ask("init,gone,/c,/b,/b"), "success,2048");
  EXPECT_EQ(client.Ask("start,gone"), "fail");
  EXPECT_EQ(StateOf("gone"), proto::DeviceStatus::PREPARED);
  EXPECT_EQ(client.Ask("init,gone,/c,/b,/b"), "fail");
  host_->no_node.clear();
  EXPECT_EQ(client.Ask("start,gone"), "success");
  EXPECT_EQ(StateOf("gone"), proto::DeviceStatus::SERVING);
}

TEST_F(TextControlTest, WhatWasOnlyPreparedCanBeDeleted) {
  TextClient client = Connect();
  EXPECT_EQ(client.Ask("init,a,/c,/b,/b"), "success,2048");
  EXPECT_EQ(client.Ask("delete,a"), "success");
  EXPECT_FALSE(host_->registry->Status("a").ok());
  EXPECT_EQ(client.Ask("init,a,/c,/b,/b"), "success,2048");
}

TEST_F(TextControlTest, MergesArePausedAndGoOn) {
  TextClient client = Connect();
  for (const char* name : {"a", "b", "c"}) Serve(&client, name);
  EXPECT_EQ(client.Ask("initiate_merge,a"), "success");
  EXPECT_EQ(client.Ask("initiate_merge,b"), "success");
  EXPECT_EQ(client.Ask("pause_merge"), "success");
  EXPECT_EQ(host_->backends["a"]->status().state, State::kIdle);
  EXPECT_EQ(host_->backends["b"]->status().state, State::kIdle);
  EXPECT_EQ(client.Ask("delete,b"), "success");
  EXPECT_EQ(client.Ask("resume_merge"), "success");
  EXPECT_EQ(host_->backends["a"]->status().state, State::kRunning);
  EXPECT_EQ(host_->backends["c"]->status().state, State::kIdle)
      << "a merge that nobody asked for";
}

// What was merged counts on after its device is gone, until the next update.
TEST_F(TextControlTest, PercentCountsWhatIsOver) {
  TextClient client = Connect();
  for (const char* name : {"a", "b"}) {
    Serve(&client, name);
    EXPECT_EQ(client.Ask(absl::StrCat("initiate_merge,", name)), "success");
  }
  host_->backends["a"]->Set(State::kDone, 10);
  host_->backends["b"]->Set(State::kRunning, 5);
  Turn(2);
  EXPECT_EQ(client.Ask("delete,a"), "success");
  EXPECT_EQ(client.Ask("merge_percent"), "75.000000");
  EXPECT_EQ(client.Ask("delete,b"), "success");
  EXPECT_EQ(client.Ask("merge_percent"), "100.000000");
  Serve(&client, "a");
  EXPECT_EQ(client.Ask("merge_percent"), "0.000000");
}

TEST_F(TextControlTest, DetachEndsWithTheLastDevice) {
  TextClient client = Connect();
  Serve(&client, "a");
  Serve(&client, "b");
  EXPECT_EQ(client.Ask("init,c,/c,/b,/b"), "success,2048");
  EXPECT_EQ(client.Ask("initiate_merge,a"), "success");
  EXPECT_EQ(client.Ask("detach"), "(none)");
  EXPECT_EQ(host_->backends["a"]->status().state, State::kIdle);
  Turn(3);
  EXPECT_FALSE(host_->registry->Status("c").ok()) << "nobody would start it";
  EXPECT_EQ(client.Ask("query"), "passive");
  EXPECT_EQ(client.Ask("init,d,/c,/b,/b"), "fail");
  EXPECT_EQ(client.Ask("initiate_merge,a"), "fail");
  EXPECT_EQ(client.Ask("getstatus,a"), "snapshot");
  host_->kernels["a"].CloseKernelEnd();
  Turn(5);
  EXPECT_EQ(host_->ends, 0) << "b is still served";
  host_->kernels["b"].CloseKernelEnd();
  Turn(5);
  EXPECT_EQ(host_->ends, 1);
}

TEST_F(TextControlTest, StopLetsMergesGoOn) {
  TextClient client = Connect();
  Serve(&client, "a");
  EXPECT_EQ(client.Ask("initiate_merge,a"), "success");
  ASSERT_TRUE(client.TrySend("stop"));
  // As Android's client does: it does not wait for anything.
  client.HangUp();
  Turn(3);
  EXPECT_EQ(host_->backends["a"]->status().state, State::kRunning);
  EXPECT_EQ(host_->ends, 0);
  TextClient other = Connect();
  EXPECT_EQ(other.Ask("query"), "passive");
  EXPECT_EQ(other.Ask("delete,a"), "success");
  EXPECT_EQ(host_->ends, 1);
}

TEST_F(TextControlTest, StopEndsAtOnceWithoutDevices) {
  TextClient client = Connect();
  EXPECT_EQ(client.Ask("stop"), "(none)");
  EXPECT_EQ(host_->ends, 1);
  EXPECT_EQ(client.Ask("stop"), "(none)");
  EXPECT_EQ(host_->ends, 1);
}

// Opening a large file takes turns; others are served meanwhile.
TEST_F(TextControlTest, ASlowInitKeepsOnlyItsClientWaiting) {
  TextClient client = Connect();
  TextClient other = Connect();
  EXPECT_EQ(client.Ask("init,a,/slow,/b,/b"), "(none)");
  EXPECT_EQ(client.Ask("query"), "(none)") << "answers come in order";
  EXPECT_EQ(other.Ask("query"), "active");
  EXPECT_EQ(other.Ask("getstatus,a"), "snapshot");
  EXPECT_EQ(other.Ask("start,a"), "fail");
  EXPECT_EQ(other.Ask("init,a,/c,/b,/b"), "fail");
  // What waits unread wakes nobody.
  bool fired = false;
  Timer timer([](void* context) { *static_cast<bool*>(context) = true; },
              &fired);
  host_->loop->Arm(&timer, 20'000);
  int turns = 0;
  for (; !fired; ++turns) host_->loop->Turn(/*wait=*/true);
  EXPECT_LE(turns, 5);
  host_->open_slowly();
  // One turn gave both, and a stream keeps no bounds.
  EXPECT_EQ(client.Receive(), "success,2048active");
}

TEST_F(TextControlTest, AClientMayEndWhileItsInitGoesOn) {
  TextClient client = Connect();
  EXPECT_EQ(client.Ask("init,a,/slow,/b,/b"), "(none)");
  client.HangUp();
  Turn(3);
  host_->open_slowly();
  Turn(3);
  TextClient other = Connect();
  EXPECT_EQ(other.Ask("start,a"), "success");
}

TEST_F(TextControlTest, DeleteEndsAnInitThatGoesOn) {
  TextClient client = Connect();
  TextClient other = Connect();
  EXPECT_EQ(client.Ask("init,a,/slow,/b,/b"), "(none)");
  EXPECT_EQ(other.Ask("delete,a"), "(none)");
  host_->open_slowly();
  EXPECT_EQ(client.Receive(), "fail");
  EXPECT_EQ(other.Receive(), "success");
}

TEST_F(TextControlTest, HostileClientsLoseTheirSessionAndNothingElse) {
  TextClient good = Connect();
  Serve(&good, "a");
  for (const std::string& garbage :
       {std::string("\xff\xfe\x00\x01", 4), std::string("fly"),
        std::string(","), std::string(512, 'x'), std::string("query\n"),
        std::string("queryquery"), std::string("\x08\x00\x00\x00query", 9)}) {
    TextClient client = Connect();
    EXPECT_EQ(client.Ask(garbage), "fail") << garbage;
    EXPECT_FALSE(client.Receive().has_value());
    EXPECT_EQ(client.Ask("query"), "(not sent)") << "its session went on";
  }
  {
    // A packet that is too long has no first 512 bytes to be obeyed.
    TextClient oversized = Connect();
    EXPECT_EQ(oversized.Ask("delete,a," + std::string(600, ',')), "(end)");
  }
  {
    TextClient longest = Connect();
    const std::string path(kPacketBytesMax - strlen("init,p,,/b,/b"), 'c');
    EXPECT_EQ(longest.Ask("init,p," + path + ",/b,/b"), "success,2048");
  }
  {
    // Half a command is a command: there is nothing by which to see the rest.
    TextClient half = Connect();
    EXPECT_EQ(half.Ask("init,q,/c"), "fail");
    EXPECT_EQ(half.Ask(",/b,/b"), "fail");
  }
  {
    TextClient silent = Connect();
    TextClient gone = Connect();
    gone.HangUp();
    Turn(3);
  }
  EXPECT_EQ(good.Ask("getstatus,a"), "snapshot");
}

// Asks and asks and never reads: held to its rate, then to its unread bytes.
TEST_F(TextControlTest, ADeafClientIsBounded) {
  TextClient good = Connect();
  Serve(&good, "a");
  TextClient deaf = Connect();
  uint64_t asked = 0;
  const uint64_t begin_us = host_->loop->NowUs();
  while (host_->loop->NowUs() - begin_us < 200'000) {
    if (!deaf.TrySend("query,")) break;
    ++asked;
    host_->loop->Turn(/*wait=*/false);
    if (asked % 500 == 0) {
      ASSERT_EQ(good.Ask("getstatus,a"), "snapshot");
    }
  }
  EXPECT_GT(asked, 0u);
  EXPECT_EQ(good.Ask("getstatus,a"), "snapshot");
}

TEST_F(TextControlTest, AGreedyClientIsReadSlowly) {
  TextClient greedy = Connect();
  const uint64_t begin_us = host_->loop->NowUs();
  uint64_t answers = 0;
  while (answers < 600) {
    ASSERT_TRUE(greedy.TrySend("query"));
    for (;;) {
      const auto answer = greedy.Receive();
      if (!answer.has_value()) {
        host_->loop->Turn(/*wait=*/true);
        continue;
      }
      ASSERT_EQ(*answer, "active");
      break;
    }
    ++answers;
  }
  const uint64_t us = host_->loop->NowUs() - begin_us;
  EXPECT_LE(answers,
            Server::kFramesPerSecond * (1'050'000 + us) / 1'000'000 + 8);
}

// What each role may ask for; the kernel's word on who asks is taken as given.
TEST_F(TextControlTest, RolesLimitVerbs) {
  TextClient client = Connect();
  Serve(&client, "a");
  const uint64_t session = 1;  // the only one of this server
  const auto ask = [&](Role role, std::string_view command) {
    host_->text_service->OnFrame(
        session, role, reinterpret_cast<const uint8_t*>(command.data()),
        static_cast<uint32_t>(command.size()));
    return client.Receive().value_or("(none)");
  };
  EXPECT_EQ(ask(Role::kLook, "getstatus,a"), "snapshot");
  EXPECT_EQ(ask(Role::kLook, "initiate_merge,a"), "fail");
  EXPECT_EQ(ask(Role::kMerge, "initiate_merge,a"), "success");
  EXPECT_EQ(ask(Role::kMerge, "init,b,/c,/b,/b"), "fail");
  EXPECT_EQ(ask(Role::kMerge, "delete,a"), "fail");
  EXPECT_EQ(ask(Role::kMerge, "stop"), "fail");
  EXPECT_EQ(ask(Role::kMerge, "detach"), "fail");
  EXPECT_EQ(host_->ends, 0);
  EXPECT_EQ(ask(Role::kServe, "delete,a"), "success");
}

TEST_F(TextControlTest, MoreClientsThanSessions) {
  std::vector<std::unique_ptr<TextClient>> clients;
  for (size_t i = 0; i < Server::kSessionsMax + 1; ++i) {
    clients.push_back(std::make_unique<TextClient>(directory_ + "/android",
                                                   host_->loop.get()));
    Turn(1);
  }
  EXPECT_EQ(clients.front()->Ask("query"), "active");
  EXPECT_NE(clients.back()->Ask("query"), "active");
  clients.erase(clients.begin());
  Turn(3);
  TextClient late = Connect();
  EXPECT_EQ(late.Ask("query"), "active");
}

TEST_F(TextControlTest, AnInheritedSocketIsServed) {
  const std::string path = directory_ + "/passed";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(
      bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
      0);
  const auto adopt = [&](int from, const std::string& name) {
    return Server::Adopt(UniqueFd(dup(from)), name, {},
                         host_->text_service.get(), host_->loop.get(),
                         Framing::kPacket);
  };
  EXPECT_EQ(adopt(fd.get(), path + "2").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(adopt(fd.get(), path.substr(0, path.size() - 1)).status().code(),
            absl::StatusCode::kInvalidArgument);
  UniqueFd no_socket(open("/dev/null", O_RDWR));
  EXPECT_EQ(adopt(no_socket.get(), path).status().code(),
            absl::StatusCode::kInvalidArgument);
  auto server = adopt(fd.get(), path);
  ASSERT_TRUE(server.ok()) << server.status();
  host_->text_service->SetServer(server->get());
  {
    TextClient client(path, host_->loop.get());
    EXPECT_EQ(client.Ask("query"), "active");
  }
  host_->text_service->SetServer(host_->text_server.get());
  server->reset();
  EXPECT_EQ(access(path.c_str(), F_OK), 0) << "its name is not ours";
}

}  // namespace
}  // namespace dmu

// SPDX-License-Identifier: Apache-2.0
//
// Goal: every call of the client library does what it says against the real
// server, ends in time when the daemon does not answer, and survives whatever
// stands at the other end.
// Method: the real daemon's parts (control_host.h) on a thread of their own,
// the client on this one; and sockets on which the test answers by hand.
#include "tools/client/control_client.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "test/control_host.h"

namespace dmu {
namespace {

using State = MergeStatus::State;

// A daemon's parts that turn on a thread of their own.
class HostThread {
 public:
  explicit HostThread(const std::string& directory)
      : pool_(BufferPool::Create(4)), wake_(eventfd(0, EFD_CLOEXEC)) {
    thread_ = std::thread([this, directory] { Main(directory); });
    Run([](ControlHost*) {});
  }
  ~HostThread() {
    Run([this](ControlHost*) { ending_ = true; });
    thread_.join();
  }

  // Has the thread call `work`, and waits until it has.
  void Run(std::function<void(ControlHost*)> work) {
    std::unique_lock<std::mutex> lock(mutex_);
    work_ = std::move(work);
    const uint64_t one = 1;
    EXPECT_EQ(write(wake_.get(), &one, sizeof(one)), 8);
    done_.wait(lock, [this] { return work_ == nullptr; });
  }

 private:
  void Main(const std::string& directory) {
    host_ = std::make_unique<ControlHost>(directory, pool_.get());
    Watch watch;
    watch.ready = [](void* self, uint32_t) {
      static_cast<HostThread*>(self)->Work();
    };
    watch.context = this;
    watch.fd = wake_.get();
    watch.events = EPOLLIN;
    EXPECT_EQ(host_->loop->AddWatch(&watch), 0);
    while (!ending_) host_->loop->Turn(/*wait=*/true);
    host_->loop->Unwatch(&watch);
    host_.reset();
  }

  void Work() {
    uint64_t count = 0;
    EXPECT_EQ(read(wake_.get(), &count, sizeof(count)), 8);
    const std::lock_guard<std::mutex> lock(mutex_);
    work_(host_.get());
    work_ = nullptr;
    done_.notify_all();
  }

  std::unique_ptr<BufferPool> pool_;
  UniqueFd wake_;
  std::unique_ptr<ControlHost> host_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable done_;
  std::function<void(ControlHost*)> work_;
  bool ending_ = false;
};

class ControlClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/dmu-client-test-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    host_ = std::make_unique<HostThread>(directory_);
  }
  void TearDown() override {
    host_.reset();
    EXPECT_EQ(system(absl::StrCat("rm -r ", directory_).c_str()), 0);
  }

  ControlClient Connect() {
    auto client = ControlClient::Connect(
        {.path = directory_ + "/control", .timeout_ms = 30'000});
    EXPECT_TRUE(client.ok()) << client.status();
    return std::move(*client);
  }

  static proto::Attach Null(const std::string& name) {
    proto::Attach attach;
    attach.set_name(name);
    attach.mutable_null()->set_size_bytes(kHostSizeBytes);
    return attach;
  }

  void SetMerge(const std::string& name, State state, uint64_t merged) {
    host_->Run(
        [&](ControlHost* host) { host->backends[name]->Set(state, merged); });
  }

  static proto::Request WatchOf(const std::string& name) {
    proto::Request request;
    request.mutable_watch()->set_name(name);
    return request;
  }

  // Polls as a program's own loop would.
  static proto::Response Await(ControlClient* client) {
    for (;;) {
      auto response = client->Receive();
      EXPECT_TRUE(response.ok()) << response.status();
      if (!response.ok()) return {};
      if (response->has_value()) return **response;
      pollfd ready = {.fd = client->fd(), .events = POLLIN, .revents = 0};
      EXPECT_EQ(poll(&ready, 1, 30'000), 1) << "no response";
      if (ready.revents == 0) return {};
    }
  }

  std::string directory_;
  std::unique_ptr<HostThread> host_;
};

TEST_F(ControlClientTest, TheDefaultPathIsTheDaemons) {
  EXPECT_EQ(ControlClient::Options().path, kDefaultControlPath);
}

TEST_F(ControlClientTest, ADevicesLife) {
  ControlClient client = Connect();
  auto status = client.Status();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->daemon.version(), "test");
  EXPECT_TRUE(status->devices.empty());

  ASSERT_TRUE(client.Attach(Null("a")).ok());
  ASSERT_TRUE(client.AttachSnapshot("b", "/cow", "/base").ok());
  status = client.Status("b");
  ASSERT_TRUE(status.ok()) << status.status();
  ASSERT_EQ(status->devices.size(), 1u);
  EXPECT_EQ(status->devices[0].cow_path(), "/cow");
  EXPECT_EQ(status->devices[0].base_path(), "/base");
  EXPECT_EQ(client.Status()->devices.size(), 2u);

  ASSERT_TRUE(
      client
          .StartMerge("a", {.undo_log_path = "/log", .rate_bytes_per_s = 12345})
          .ok());
  host_->Run([](ControlHost* host) {
    EXPECT_EQ(host->backends["a"]->status().state, State::kRunning);
    EXPECT_EQ(host->backends["a"]->rate_bytes_per_s(), 12345u);
    EXPECT_TRUE(host->backends["a"]->keeps_undo_log());
  });
  ASSERT_TRUE(client.PauseMerge("a").ok());
  // What is not given stays.
  ASSERT_TRUE(client.StartMerge("a").ok());
  host_->Run([](ControlHost* host) {
    EXPECT_EQ(host->backends["a"]->status().state, State::kRunning);
    EXPECT_EQ(host->backends["a"]->rate_bytes_per_s(), 12345u);
  });
  EXPECT_TRUE(client.Detach("a").ok());
  EXPECT_TRUE(absl::IsNotFound(client.Status("a").status()));
  EXPECT_TRUE(client.HandOver().ok());
  host_->Run([](ControlHost* host) { EXPECT_EQ(host->stops, 1); });
}

TEST_F(ControlClientTest, ErrorsAreTheDaemons) {
  ControlClient client = Connect();
  EXPECT_TRUE(absl::IsInvalidArgument(client.Attach(Null("../a"))));
  EXPECT_TRUE(absl::IsUnavailable(client.Attach(Null("gone"))));
  EXPECT_TRUE(absl::IsDataLoss(client.AttachSnapshot("a", "/bad", "/b")));
  EXPECT_TRUE(absl::IsNotFound(client.Detach("a")));
  EXPECT_TRUE(absl::IsNotFound(client.StartMerge("a")));
  EXPECT_TRUE(absl::IsNotFound(client.PauseMerge("a")));
  ASSERT_TRUE(client.Attach(Null("a")).ok());
  const absl::Status twice = client.Attach(Null("a"));
  EXPECT_TRUE(absl::IsAlreadyExists(twice));
  EXPECT_NE(twice.message().find("served already"), absl::string_view::npos);
  EXPECT_TRUE(absl::IsUnimplemented(client.Call(proto::Request()).status()));
  // Refused here: the daemon would end the session.
  proto::Attach large = Null("b");
  large.set_name(std::string(9000, 'x'));
  EXPECT_TRUE(absl::IsInvalidArgument(client.Attach(large)));
  EXPECT_TRUE(client.Status("a").ok()) << "the connection goes on";
}

TEST_F(ControlClientTest, ThrottleAsksAndSets) {
  ControlClient client = Connect();
  proto::Throttle limits;
  limits.set_rate_bytes_per_s(5000);
  ASSERT_TRUE(client.Throttle(limits).ok());
  limits.Clear();
  limits.set_merges_max(3);
  ASSERT_TRUE(client.Throttle(limits).ok());
  const auto in_force = client.Throttle({});
  ASSERT_TRUE(in_force.ok()) << in_force.status();
  EXPECT_EQ(in_force->rate_bytes_per_s(), 5000u);
  EXPECT_EQ(in_force->merges_max(), 3u);
  limits.set_merges_max(99);
  EXPECT_TRUE(absl::IsInvalidArgument(client.Throttle(limits).status()));
}

TEST_F(ControlClientTest, WatchFollowsTheMergeToItsEnd) {
  ControlClient client = Connect();
  ASSERT_TRUE(client.Attach(Null("a")).ok());
  uint64_t next = 0;
  const auto last = client.Watch("a", [&](const proto::DeviceStatus& device) {
    EXPECT_EQ(device.merge().merged_ops(), next);
    if (next < 10) {
      ++next;
      SetMerge("a", next == 10 ? State::kDone : State::kRunning, next);
    }
    return true;
  });
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->merge().state(), proto::MergeStatus::DONE);
  EXPECT_EQ(next, 10u);
}

TEST_F(ControlClientTest, WatchEndsWhenTheCallerOrTheDeviceDoes) {
  ControlClient client = Connect();
  ASSERT_TRUE(client.Attach(Null("a")).ok());
  EXPECT_TRUE(absl::IsNotFound(
      client.Watch("none", [](const auto&) { return true; }).status()));
  const auto last =
      client.Watch("a", [](const proto::DeviceStatus&) { return false; });
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->name(), "a");
  // What the daemon still tells of it gets in nobody's way.
  for (uint64_t merged = 0; merged < 5; ++merged) {
    SetMerge("a", State::kRunning, merged);
    ASSERT_TRUE(client.Status("a").ok());
  }
  SetMerge("a", State::kRunning, 6);
  auto nothing = client.Receive();
  ASSERT_TRUE(nothing.ok()) << nothing.status();
  EXPECT_FALSE(nothing->has_value());
  EXPECT_TRUE(
      absl::IsNotFound(client
                           .Watch("a",
                                  [&](const proto::DeviceStatus&) {
                                    host_->Run([](ControlHost* host) {
                                      host->kernels["a"].CloseKernelEnd();
                                    });
                                    return true;
                                  })
                           .status()));
}

TEST_F(ControlClientTest, APollLoopSeesWhatItSent) {
  ControlClient client = Connect();
  ASSERT_TRUE(client.Attach(Null("a")).ok());
  ASSERT_TRUE(client.Attach(Null("b")).ok());
  const auto a = client.Send(WatchOf("a"));
  const auto b = client.Send(WatchOf("b"));
  const auto none = client.Send(WatchOf("none"));
  ASSERT_TRUE(a.ok() && b.ok() && none.ok());
  proto::Response response = Await(&client);
  EXPECT_EQ(response.id(), *a);
  EXPECT_TRUE(response.more());
  EXPECT_EQ(Await(&client).id(), *b);
  response = Await(&client);
  EXPECT_EQ(response.id(), *none);
  EXPECT_EQ(response.code(), static_cast<int>(absl::StatusCode::kNotFound));
  EXPECT_FALSE(response.more());

  SetMerge("b", State::kRunning, 4);
  response = Await(&client);
  EXPECT_EQ(response.id(), *b);
  EXPECT_EQ(response.devices(0).merge().merged_ops(), 4u);

  // A blocking call in between keeps the newest event of each, and no more.
  SetMerge("a", State::kRunning, 1);
  SetMerge("a", State::kRunning, 2);
  SetMerge("b", State::kDone, 10);
  ASSERT_TRUE(client.Status().ok());
  response = Await(&client);
  EXPECT_EQ(response.id(), *a);
  EXPECT_EQ(response.devices(0).merge().merged_ops(), 2u);
  response = Await(&client);
  EXPECT_EQ(response.id(), *b);
  EXPECT_FALSE(response.more());
  auto nothing = client.Receive();
  ASSERT_TRUE(nothing.ok()) << nothing.status();
  EXPECT_FALSE(nothing->has_value());
}

TEST_F(ControlClientTest, ManyRequestsAtOnceAreAllAnswered) {
  ControlClient client = Connect();
  constexpr uint64_t kRequests = 300;
  proto::Request request;
  request.mutable_status();
  for (uint64_t i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(client.Send(request).ok());
  }
  for (uint64_t i = 1; i <= kRequests; ++i) {
    ASSERT_EQ(Await(&client).id(), i);
  }
}

TEST_F(ControlClientTest, NobodyListens) {
  const auto client = ControlClient::Connect({.path = directory_ + "/nothing"});
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.status()));
  EXPECT_NE(client.status().message().find("start dmuserd"),
            absl::string_view::npos);
  EXPECT_TRUE(absl::IsInvalidArgument(
      ControlClient::Connect({.path = std::string(200, 'x')}).status()));
}

TEST_F(ControlClientTest, TheDaemonEndsInTheMidstOfIt) {
  ControlClient client = Connect();
  ASSERT_TRUE(client.Attach(Null("a")).ok());
  host_.reset();
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.Status().status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.Receive().status()));
  host_ = std::make_unique<HostThread>(directory_);
  EXPECT_TRUE(Connect().Status().ok());
}

// A daemon that the test plays.
class Impostor {
 public:
  explicit Impostor(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path.data(), path.size());
    listening_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(bind(listening_.get(), reinterpret_cast<sockaddr*>(&address),
                   sizeof(address)),
              0);
    EXPECT_EQ(listen(listening_.get(), 4), 0);
  }

  void Accept() { fd_.reset(accept(listening_.get(), nullptr, nullptr)); }
  void Say(const std::string& bytes) {
    EXPECT_EQ(send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  void HangUp() { fd_.reset(); }

 private:
  UniqueFd listening_;
  UniqueFd fd_;
};

class ImpostorTest : public ControlClientTest {
 protected:
  // A client whose first call finds `answer` there already.
  absl::Status CallOn(const std::string& answer, bool hang_up) {
    const std::string path = absl::StrCat(directory_, "/i", ++count_);
    Impostor impostor(path);
    auto client = ControlClient::Connect({.path = path, .timeout_ms = 100});
    EXPECT_TRUE(client.ok()) << client.status();
    impostor.Accept();
    impostor.Say(answer);
    if (hang_up) impostor.HangUp();
    return client->Status().status();
  }

  static std::string Frame(const proto::Response& response) {
    std::string frame;
    AppendFrame(response.SerializeAsString(), &frame);
    return frame;
  }

  int count_ = 0;
};

TEST_F(ImpostorTest, WhateverAnswersACallEnds) {
  proto::Response good;
  good.set_id(1);
  EXPECT_TRUE(CallOn(Frame(good), /*hang_up=*/false).ok());
  // In time, though nothing comes, half of it, or other answers only.
  proto::Response other;
  other.set_id(7);
  std::string others;
  for (int i = 0; i < 100; ++i) others += Frame(other);
  for (const std::string& late :
       {std::string(), Frame(good).substr(0, 3),
        Frame(good).substr(0, Frame(good).size() - 1), others}) {
    for (const bool hang_up : {false, true}) {
      EXPECT_TRUE(absl::IsDeadlineExceeded(CallOn(late, hang_up)));
    }
  }
  EXPECT_TRUE(absl::IsInternal(CallOn("\xff\xff\xff\x7f", false)));
  std::string garbage;
  AppendFrame("\xff\xff\xff", &garbage);
  EXPECT_TRUE(absl::IsInternal(CallOn(garbage, false)));
  EXPECT_TRUE(absl::IsInternal(CallOn("HTTP/1.1 400 Bad Request\r\n", false)));
}

TEST_F(ImpostorTest, ADaemonThatDoesNotReadIsWaitedForInTime) {
  const std::string path = directory_ + "/deaf";
  Impostor impostor(path);
  auto client = ControlClient::Connect({.path = path, .timeout_ms = 50});
  ASSERT_TRUE(client.ok()) << client.status();
  proto::Request request;
  request.mutable_status()->set_name(std::string(8000, 'x'));
  absl::Status sent;
  for (int i = 0; i < 1000 && sent.ok(); ++i) {
    sent = client->Send(request).status();
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(sent)) << sent;
}

// The timeout is for the whole of a call: one that is fed byte by byte ends.
TEST_F(ImpostorTest, ADribbleDoesNotPutTheDeadlineOff) {
  const std::string path = directory_ + "/dribble";
  Impostor impostor(path);
  auto client = ControlClient::Connect({.path = path, .timeout_ms = 200});
  ASSERT_TRUE(client.ok()) << client.status();
  impostor.Accept();
  std::string frame;
  AppendFrame(std::string(4000, 'x'), &frame);
  std::atomic<size_t> said = 0;
  std::atomic<bool> over = false;
  std::thread dribble([&] {
    // Were each byte a new beginning, it would take seconds.
    for (; said < frame.size() && !over; ++said) {
      impostor.Say(std::string(1, frame[said]));
      poll(nullptr, 0, 1);
    }
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Status().status()));
  EXPECT_LT(said, frame.size());
  over = true;
  dribble.join();
}

}  // namespace
}  // namespace dmu

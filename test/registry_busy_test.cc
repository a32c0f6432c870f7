// SPDX-License-Identifier: Apache-2.0
//
// Goal: a recovered device whose storage somebody else has in use is waited for
// without end, says so, and is in nobody's way: not in that of other devices,
// of readiness, unmap, handover or the daemon's stop. One that is newly
// attached is refused after a second. Method: the real registry and state store
// on the simulator's loop, whose clock jumps; files that are in use for as long
// as the test says.
#include <stdlib.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/device/busy_wait.h"
#include "daemon/device/registry.h"
#include "gtest/gtest.h"
#include "proto/control.pb.h"
#include "proto/state.pb.h"
#include "test/control_host.h"
#include "test/sim/sim_loop.h"

namespace dmu {
namespace {

constexpr uint64_t kSecond = 1'000'000;

// Is up at once and never asked.
class UpChannel : public Channel {
 public:
  UpChannel(Loop* loop, std::string name, std::vector<std::string>* removed)
      : loop_(loop), name_(std::move(name)), removed_(removed) {}
  void Start(RequestSink* sink) override { sink->OnStarted(absl::OkStatus()); }
  void Stop(Task* done) override { loop_->Post(done); }
  void Remove(Task* done) override {
    removed_->push_back(name_);
    loop_->Post(done);
  }

 private:
  Loop* const loop_;
  const std::string name_;
  std::vector<std::string>* const removed_;
};

class RegistryBusyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/dmu-registry-busy-test-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    store_ = std::make_unique<StateStore>(directory_ + "/state");
    ASSERT_TRUE(store_->Prepare().ok());
    Start();
  }
  void TearDown() override {
    Stop();
    EXPECT_EQ(system(absl::StrCat("rm -rf ", directory_).c_str()), 0);
  }

  void Start() {
    Registry::Factories factories;
    factories.open_backend = [this](const proto::Attach& attach,
                                    const Registry::BackendDone& done) {
      const std::string& name = attach.name();
      tries_us_[name].push_back(loop_.NowUs());
      if (busy_.count(name) > 0) {
        done(absl::AbortedError(name + "'s disk: is in use"));
      } else {
        done(std::make_unique<MergeableBackend>(&loop_));
      }
    };
    factories.open_channel =
        [this](const proto::DeviceRecord& record, const Geometry&,
               bool) -> absl::StatusOr<std::unique_ptr<Channel>> {
      const std::string& name = record.attach().name();
      if (gone_.count(name) > 0) return absl::UnavailableError("no node");
      return std::unique_ptr<Channel>(
          std::make_unique<UpChannel>(&loop_, name, &removed_));
    };
    factories.is_gone = [this](const proto::DeviceRecord& record) {
      return gone_.count(record.attach().name()) > 0;
    };
    factories.open_disk =
        [this](
            const std::string& path) -> absl::StatusOr<std::unique_ptr<Disk>> {
      if (busy_.count(path) > 0) {
        return absl::AbortedError(path + ": is in use");
      }
      return std::unique_ptr<Disk>(std::make_unique<NoDisk>());
    };
    registry_ = std::make_unique<Registry>(factories, store_.get(), &loop_);
  }
  // Without a timer: at once, or never.
  void Stop() {
    if (registry_ == nullptr) return;
    const uint64_t before_us = loop_.NowUs();
    bool stopped = false;
    registry_->StopAll([&stopped] { stopped = true; });
    EXPECT_TRUE(loop_.TurnUntil([&stopped] { return stopped; }, 100));
    EXPECT_EQ(loop_.NowUs(), before_us);
    registry_.reset();
  }

  void Leave(const std::string& name, const std::string& log = "") {
    proto::DeviceRecord record;
    record.mutable_attach()->set_name(name);
    record.mutable_attach()->mutable_null()->set_size_bytes(kHostSizeBytes);
    record.set_merge_wanted(!log.empty());
    record.set_undo_log_path(log);
    ASSERT_TRUE(store_->Save(record).ok());
  }
  // Whether the daemon called itself ready by then.
  void Recover() {
    ready_at_us_.reset();
    registry_->Recover([this] { ready_at_us_ = loop_.NowUs(); });
  }
  void Pass(uint64_t us) {
    bool over = false;
    Timer timer([](void* context) { *static_cast<bool*>(context) = true; },
                &over);
    loop_.Arm(&timer, us);
    ASSERT_TRUE(loop_.TurnUntil([&over] { return over; }, 1'000'000));
  }
  proto::DeviceStatus StatusOf(const std::string& name) {
    auto all = registry_->Status(name);
    return all.ok() ? all->front() : proto::DeviceStatus();
  }
  bool Serves(const std::string& name) {
    return registry_->Status(name).ok() &&
           StatusOf(name).state() == proto::DeviceStatus::SERVING;
  }
  bool Waits(const std::string& name) {
    return registry_->Status(name).ok() &&
           StatusOf(name).state() == proto::DeviceStatus::WAITING;
  }
  absl::Status Run(const std::function<void(Registry::Done)>& what) {
    std::optional<absl::Status> answer;
    what([&answer](absl::Status status) { answer = std::move(status); });
    EXPECT_TRUE(loop_.TurnUntil([&answer] { return answer.has_value(); }, 100));
    return answer.value_or(absl::UnknownError("no answer"));
  }
  absl::Status Detach(const std::string& name) {
    return Run([&](Registry::Done done) { registry_->Detach(name, done); });
  }

  std::string directory_;
  sim::SimLoop loop_{1};
  std::unique_ptr<StateStore> store_;
  std::unique_ptr<Registry> registry_;
  std::set<std::string> busy_;
  std::set<std::string> gone_;
  std::vector<std::string> removed_;
  std::map<std::string, std::vector<uint64_t>> tries_us_;
  std::optional<uint64_t> ready_at_us_;
};

TEST_F(RegistryBusyTest, ARecoveredDeviceIsWaitedForWithoutEnd) {
  Leave("a");
  busy_ = {"a"};
  Recover();
  EXPECT_TRUE(Waits("a"));
  EXPECT_EQ(StatusOf("a").waits_for(), "a's disk: is in use");
  Pass(3600 * kSecond);
  EXPECT_TRUE(Waits("a"));
  busy_.clear();
  Pass(kSecond);
  EXPECT_TRUE(Serves("a"));
  EXPECT_EQ(StatusOf("a").waits_for(), "");
}

// Soon at first, for a killed daemon's last I/O is mostly over in milliseconds;
// then seldom, for an hour of it is to cost nothing.
TEST_F(RegistryBusyTest, TriesComeAtGrowingIntervals) {
  Leave("a");
  busy_ = {"a"};
  Recover();
  Pass(600 * kSecond);
  const std::vector<uint64_t>& tries_us = tries_us_["a"];
  ASSERT_GE(tries_us.size(), 600u);
  EXPECT_LE(tries_us.size(), 610u);
  EXPECT_EQ(tries_us[1] - tries_us[0], BusyWait::kFirstUs);
  for (size_t i = 2; i < tries_us.size(); ++i) {
    const uint64_t step_us = tries_us[i] - tries_us[i - 1];
    EXPECT_GE(step_us, tries_us[i - 1] - tries_us[i - 2]);
    EXPECT_LE(step_us, BusyWait::kLongestUs);
  }
}

TEST_F(RegistryBusyTest, OthersAreServedAndTheDaemonIsReady) {
  Leave("a");
  Leave("b");
  busy_ = {"a"};
  Recover();
  EXPECT_TRUE(Serves("b"));
  EXPECT_FALSE(ready_at_us_.has_value()) << "it may be over in a moment";
  const uint64_t before_us = loop_.NowUs();
  Pass(60 * kSecond);
  ASSERT_TRUE(ready_at_us_.has_value());
  EXPECT_LE(*ready_at_us_, before_us + 11 * kSecond);
  EXPECT_TRUE(Waits("a"));
}

TEST_F(RegistryBusyTest, ReadyIsWhoServesWhatWasInUseForAMoment) {
  Leave("a");
  busy_ = {"a"};
  Recover();
  Pass(5 * kSecond);
  EXPECT_FALSE(ready_at_us_.has_value());
  busy_.clear();
  Pass(kSecond);
  EXPECT_TRUE(ready_at_us_.has_value());
  EXPECT_TRUE(Serves("a"));
}

TEST_F(RegistryBusyTest, TheDaemonStopsAtOnceAndTheNextOneGoesOn) {
  Leave("a");
  busy_ = {"a"};
  Recover();
  Pass(60 * kSecond);
  Stop();
  EXPECT_TRUE(removed_.empty());
  Start();
  Recover();
  EXPECT_TRUE(Waits("a"));
  busy_.clear();
  Pass(kSecond);
  EXPECT_TRUE(Serves("a"));
}

TEST_F(RegistryBusyTest, UnmapEndsTheWaitForGood) {
  Leave("a");
  busy_ = {"a"};
  Recover();
  Pass(60 * kSecond);
  const uint64_t before_us = loop_.NowUs();
  EXPECT_TRUE(Detach("a").ok());
  EXPECT_EQ(loop_.NowUs(), before_us) << "at once";
  EXPECT_EQ(removed_, std::vector<std::string>{"a"})
      << "what its channel had made in the kernel goes, too";
  EXPECT_FALSE(registry_->Status("a").ok());
  EXPECT_FALSE(store_->Load("a").has_value());
  EXPECT_TRUE(absl::IsNotFound(Detach("a")));
  const size_t tries = tries_us_["a"].size();
  Pass(60 * kSecond);
  EXPECT_EQ(tries_us_["a"].size(), tries);
}

// Nothing waits for it in the kernel any more.
TEST_F(RegistryBusyTest, ADeviceThatWentIsNotWaitedFor) {
  Leave("a");
  busy_ = {"a"};
  Recover();
  Pass(60 * kSecond);
  gone_ = {"a"};
  Pass(kSecond);
  EXPECT_FALSE(registry_->Status("a").ok());
  EXPECT_FALSE(store_->Load("a").has_value());
}

TEST_F(RegistryBusyTest, AnAttachOfItsNameIsRefusedWithTheReason) {
  Leave("a");
  busy_ = {"a"};
  Recover();
  const absl::Status refused = Run([&](Registry::Done done) {
    proto::Attach attach;
    attach.set_name("a");
    registry_->Attach(attach, done);
  });
  EXPECT_TRUE(absl::IsAlreadyExists(refused));
  EXPECT_NE(refused.message().find("a's disk: is in use"),
            absl::string_view::npos)
      << refused;
}

TEST_F(RegistryBusyTest, WhoWatchesIsTold) {
  auto told = std::make_shared<std::vector<std::string>>();
  registry_->AddObserver([this, told](const std::string& name) {
    told->push_back(absl::StrCat(name, Waits(name), Serves(name)));
  });
  Leave("a");
  busy_ = {"a"};
  Recover();
  Pass(60 * kSecond);
  busy_.clear();
  Pass(kSecond);
  EXPECT_EQ(*told, (std::vector<std::string>{"a10", "a01"})) << "once each";
}

// Somebody stands and waits for the answer.
TEST_F(RegistryBusyTest, ANewDeviceIsRefusedAfterASecond) {
  busy_ = {"a"};
  std::optional<absl::Status> answer;
  proto::Attach attach;
  attach.set_name("a");
  attach.mutable_null()->set_size_bytes(kHostSizeBytes);
  registry_->Attach(attach, [&](absl::Status status) { answer = status; });
  EXPECT_EQ(StatusOf("a").state(), proto::DeviceStatus::ATTACHING);
  Pass(kSecond - 1);
  EXPECT_FALSE(answer.has_value());
  Pass(1);
  loop_.Turn();
  ASSERT_TRUE(answer.has_value());
  EXPECT_TRUE(absl::IsAborted(*answer)) << *answer;
  EXPECT_FALSE(registry_->Status("a").ok());
}

// The undo log may be on a disk as stuck as the device's own.
TEST_F(RegistryBusyTest, AMergeThatWasWantedWaitsForItsUndoLog) {
  Leave("a", "/log");
  busy_ = {"/log"};
  Recover();
  EXPECT_TRUE(Serves("a"));
  EXPECT_EQ(StatusOf("a").waits_for(), "/log: is in use");
  Pass(3600 * kSecond);
  EXPECT_EQ(StatusOf("a").merge().state(), proto::MergeStatus::IDLE);
  busy_.clear();
  Pass(kSecond);
  EXPECT_EQ(StatusOf("a").waits_for(), "");
  EXPECT_EQ(StatusOf("a").merge().state(), proto::MergeStatus::RUNNING);
}

TEST_F(RegistryBusyTest, APausedMergeDoesNotWaitForItsUndoLog) {
  Leave("a", "/log");
  busy_ = {"/log"};
  Recover();
  const absl::Status paused = Run([&](Registry::Done done) {
    proto::Merge pause;
    pause.set_name("a");
    pause.set_action(proto::Merge::PAUSE);
    registry_->SetMerge(pause, done);
  });
  EXPECT_TRUE(paused.ok()) << paused;
  EXPECT_EQ(StatusOf("a").waits_for(), "");
  busy_.clear();
  Pass(60 * kSecond);
  EXPECT_EQ(StatusOf("a").merge().state(), proto::MergeStatus::IDLE);
  EXPECT_FALSE(store_->Load("a")->merge_wanted());
}

TEST_F(RegistryBusyTest, AMergeThatIsAskedForIsRefusedAfterASecond) {
  Leave("a");
  Recover();
  busy_ = {"/log"};
  std::optional<absl::Status> answer;
  proto::Merge merge;
  merge.set_name("a");
  merge.set_undo_log_path("/log");
  registry_->SetMerge(merge, [&](absl::Status status) { answer = status; });
  Pass(2 * kSecond);
  ASSERT_TRUE(answer.has_value());
  EXPECT_TRUE(absl::IsAborted(*answer)) << *answer;
  EXPECT_EQ(StatusOf("a").waits_for(), "");
}

}  // namespace
}  // namespace dmu

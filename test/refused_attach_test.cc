// SPDX-License-Identifier: Apache-2.0
//
// Goal: an attach that fails, wherever it fails, changes nothing on disk: not
// the record of a device of that name that an earlier daemon served and this
// one could not recover, and none where there was none. Method: the real
// registry and state store; the state directory's bytes before and after each
// refusal.
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "daemon/base/buffer_pool.h"
#include "gtest/gtest.h"
#include "proto/control.pb.h"
#include "proto/state.pb.h"
#include "test/control_host.h"

namespace dmu {
namespace {

class RefusedAttachTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/dmu-refused-attach-test-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    pool_ = BufferPool::Create(4);
    Restart();
  }
  void TearDown() override {
    daemon_.reset();
    EXPECT_EQ(system(absl::StrCat("rm -rf ", directory_).c_str()), 0);
  }

  void Restart() {
    daemon_.reset();
    daemon_ = std::make_unique<ControlHost>(directory_, pool_.get());
  }
  Registry& registry() { return *daemon_->registry; }

  static proto::Attach Of(const std::string& name, uint64_t size_bytes) {
    proto::Attach attach;
    attach.set_name(name);
    attach.mutable_null()->set_size_bytes(size_bytes);
    return attach;
  }

  // Turns until `answer` is there.
  absl::Status Await(std::optional<absl::Status>* answer) {
    for (int i = 0; i < 200 && !answer->has_value(); ++i) {
      daemon_->loop->Turn(/*wait=*/false);
    }
    EXPECT_TRUE(answer->has_value());
    return answer->value_or(absl::UnknownError("no answer"));
  }
  absl::Status Run(const std::function<void(Registry::Done)>& what) {
    std::optional<absl::Status> answer;
    what([&answer](absl::Status status) { answer = status; });
    return Await(&answer);
  }
  absl::Status Attach(const proto::Attach& attach) {
    return Run([&](Registry::Done done) { registry().Attach(attach, done); });
  }
  absl::Status Prepare(const proto::Attach& attach) {
    return Run([&](Registry::Done done) { registry().Prepare(attach, done); });
  }
  absl::Status Serve(const std::string& name) {
    return Run([&](Registry::Done done) { registry().Serve(name, done); });
  }
  absl::Status Detach(const std::string& name) {
    return Run([&](Registry::Done done) { registry().Detach(name, done); });
  }

  // A record of an earlier daemon's device which this one could not recover.
  void LeaveUnserved(const proto::Attach& attach, uint64_t ublk_mark = 0) {
    proto::DeviceRecord record;
    *record.mutable_attach() = attach;
    record.set_ublk_mark(ublk_mark);
    record.set_merge_wanted(true);
    ASSERT_TRUE(daemon_->store.Save(record).ok());
    Restart();
    daemon_->broken = attach.name();
    registry().Recover([] {});
    ASSERT_FALSE(registry().Status(attach.name()).ok());
    daemon_->broken.clear();
  }

  std::string StatePath() const { return directory_ + "/state"; }

  // Every file of the state directory.
  std::map<std::string, std::string> OnDisk() {
    std::map<std::string, std::string> files;
    DIR* dir = opendir(StatePath().c_str());
    while (const dirent* entry = dir != nullptr ? readdir(dir) : nullptr) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      std::string& bytes = files[name];
      if (entry->d_type != DT_REG) continue;
      std::ifstream in(StatePath() + "/" + name, std::ios::binary);
      bytes = std::string(std::istreambuf_iterator<char>(in), {});
    }
    if (dir != nullptr) closedir(dir);
    return files;
  }

  std::string directory_;
  std::unique_ptr<BufferPool> pool_;
  std::unique_ptr<ControlHost> daemon_;
};

// A size that the host's back ends refuse.
constexpr uint64_t kBadBytes = 512;

TEST_F(RefusedAttachTest, ABackEndThatCannotBeOpened) {
  LeaveUnserved(Of("a", kHostSizeBytes));
  const auto before = OnDisk();
  ASSERT_EQ(before.size(), 1u);
  EXPECT_TRUE(absl::IsDataLoss(Attach(Of("a", kBadBytes))));
  EXPECT_EQ(OnDisk(), before);
  EXPECT_TRUE(absl::IsDataLoss(Prepare(Of("a", kBadBytes))));
  EXPECT_EQ(OnDisk(), before);
}

TEST_F(RefusedAttachTest, AChannelThatCannotBeOpened) {
  LeaveUnserved(Of("gone", kHostSizeBytes));
  const auto before = OnDisk();
  ASSERT_EQ(before.size(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(Attach(Of("gone", kHostSizeBytes))));
  EXPECT_EQ(OnDisk(), before);
  ASSERT_TRUE(Prepare(Of("gone", kHostSizeBytes)).ok());
  EXPECT_TRUE(absl::IsUnavailable(Serve("gone")));
  EXPECT_EQ(OnDisk(), before);
  ASSERT_TRUE(Detach("gone").ok());
  EXPECT_EQ(OnDisk(), before) << "what was only prepared had no record";
}

TEST_F(RefusedAttachTest, AChannelThatDoesNotComeUp) {
  LeaveUnserved(Of("late", kHostSizeBytes));
  const auto before = OnDisk();
  ASSERT_EQ(before.size(), 1u);
  std::optional<absl::Status> answer;
  registry().Attach(Of("late", kHostSizeBytes),
                    [&answer](absl::Status status) { answer = status; });
  ASSERT_NE(daemon_->late, nullptr);
  EXPECT_NE(OnDisk(), before) << "recorded before it is served";
  daemon_->late->sink()->OnStarted(absl::PermissionDeniedError("no"));
  EXPECT_TRUE(absl::IsPermissionDenied(Await(&answer)));
  EXPECT_EQ(OnDisk(), before);
}

TEST_F(RefusedAttachTest, OneThatIsDetachedBeforeItServes) {
  LeaveUnserved(Of("late", kHostSizeBytes));
  const auto before = OnDisk();
  std::optional<absl::Status> answer;
  registry().Attach(Of("late", kHostSizeBytes),
                    [&answer](absl::Status status) { answer = status; });
  EXPECT_TRUE(Detach("late").ok());
  EXPECT_TRUE(absl::IsCancelled(Await(&answer)));
  EXPECT_EQ(OnDisk(), before);
}

// Whoever asked is told that the device is not attached, so the next daemon
// must not serve it.
TEST_F(RefusedAttachTest, TheDaemonEndsBeforeItServes) {
  std::optional<absl::Status> answer;
  registry().Attach(Of("late", kHostSizeBytes),
                    [&answer](absl::Status status) { answer = status; });
  ASSERT_NE(daemon_->late, nullptr);
  daemon_->registry->StopAll([] {});
  EXPECT_TRUE(absl::IsCancelled(Await(&answer)));
  EXPECT_EQ(daemon_->channel_log, "remove ");
  EXPECT_TRUE(OnDisk().empty());
}

// What was served before is not forgotten by a daemon that ends while it is
// recovered.
TEST_F(RefusedAttachTest, TheDaemonEndsWhileItRecovers) {
  proto::DeviceRecord record;
  *record.mutable_attach() = Of("late", kHostSizeBytes);
  ASSERT_TRUE(daemon_->store.Save(record).ok());
  Restart();
  const auto before = OnDisk();
  registry().Recover([] {});
  ASSERT_NE(daemon_->late, nullptr);
  Restart();
  EXPECT_EQ(OnDisk(), before);
}

TEST_F(RefusedAttachTest, ARecordThatCannotBeWritten) {
  // Its place is taken by what no rename replaces.
  ASSERT_EQ(mkdir((StatePath() + "/a").c_str(), 0700), 0);
  const auto before = OnDisk();
  EXPECT_FALSE(Attach(Of("a", kHostSizeBytes)).ok());
  EXPECT_EQ(OnDisk(), before);
  ASSERT_TRUE(Prepare(Of("a", kHostSizeBytes)).ok());
  EXPECT_FALSE(Serve("a").ok());
  EXPECT_EQ(OnDisk(), before);
  ASSERT_EQ(rmdir((StatePath() + "/a").c_str()), 0);
  EXPECT_TRUE(Serve("a").ok()) << "and may be tried again";
  EXPECT_TRUE(Detach("a").ok());
  EXPECT_TRUE(OnDisk().empty());
}

// An attach that succeeds takes the record's place.
TEST_F(RefusedAttachTest, OneThatSucceedsReplacesTheRecord) {
  LeaveUnserved(Of("a", kBadBytes));
  const auto before = OnDisk();
  EXPECT_TRUE(Attach(Of("a", kHostSizeBytes)).ok());
  EXPECT_EQ(OnDisk().size(), 1u);
  EXPECT_NE(OnDisk(), before);
  EXPECT_TRUE(Detach("a").ok());
  EXPECT_TRUE(OnDisk().empty());
}

// Its record is all that knows of what waits in the kernel.
TEST_F(RefusedAttachTest, AUblkDeviceThatWaitsIsNotForgotten) {
  LeaveUnserved(Of("late", kHostSizeBytes), /*ublk_mark=*/77);
  const auto before = OnDisk();
  EXPECT_TRUE(absl::IsAlreadyExists(Attach(Of("late", kHostSizeBytes))));
  EXPECT_TRUE(absl::IsAlreadyExists(Prepare(Of("late", kHostSizeBytes))));
  EXPECT_EQ(OnDisk(), before);
  EXPECT_EQ(daemon_->late, nullptr);
  EXPECT_TRUE(Detach("late").ok());
  EXPECT_EQ(daemon_->channel_log, "remove ");
  EXPECT_TRUE(OnDisk().empty());
}

// A record that nobody can read is left alone by a refused attach, too.
TEST_F(RefusedAttachTest, AnUnreadableRecordStays) {
  std::ofstream(StatePath() + "/late") << "\xff\xff\xff";
  const auto before = OnDisk();
  std::optional<absl::Status> answer;
  registry().Attach(Of("late", kHostSizeBytes),
                    [&answer](absl::Status status) { answer = status; });
  ASSERT_NE(daemon_->late, nullptr);
  daemon_->late->sink()->OnStarted(absl::PermissionDeniedError("no"));
  EXPECT_TRUE(absl::IsPermissionDenied(Await(&answer)));
  EXPECT_EQ(OnDisk(), before);
}

// No name of a device is that of another's record while it is written.
TEST_F(RefusedAttachTest, NamesThatLookLikeTemporaries) {
  ASSERT_TRUE(Attach(Of("a.new", kHostSizeBytes)).ok());
  ASSERT_TRUE(Attach(Of("a", kHostSizeBytes)).ok());
  ASSERT_TRUE(Attach(Of(".a", kHostSizeBytes)).code() ==
              absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OnDisk().size(), 2u);
  Restart();
  registry().Recover([] {});
  EXPECT_TRUE(registry().Status("a").ok());
  EXPECT_TRUE(registry().Status("a.new").ok());
}

}  // namespace
}  // namespace dmu

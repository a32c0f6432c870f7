// SPDX-License-Identifier: Apache-2.0
//
// Goal: whatever the sizes and cuts, every request the kernel sends gets one
// right answer; an error stays with its request; a channel that is stopped or
// dies leaves nothing half done.
// Method: the real channel, device and back ends on the real loop, against a
// fake kernel over a socket pair.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "daemon/backend/file.h"
#include "daemon/backend/merge_governor.h"
#include "daemon/backend/null.h"
#include "daemon/backend/snapshot.h"
#include "daemon/base/buffer_pool.h"
#include "daemon/channel/stream.h"
#include "daemon/channel/wire.h"
#include "daemon/device/device.h"
#include "daemon/io/disk_file.h"
#include "daemon/io/disk_uring.h"
#include "daemon/io/loop_epoll.h"
#include "gtest/gtest.h"
#include "test/fake_call.h"
#include "test/fake_kernel.h"
#include "test/sim/scenario.h"

namespace dmu {
namespace {

constexpr uint64_t kSizeBytes = 4 << 20;

// A back end whose requests wait until the test lets them go, or fail where it
// says.
class ScriptedBackend : public Backend {
 public:
  explicit ScriptedBackend(Loop* loop) : loop_(loop) {}

  Geometry geometry() const override { return {kSizeBytes, false}; }
  void Submit(Request* request) override {
    if (hold) {
      held.push_back(request);
      return;
    }
    Answer(request);
  }
  void Drain(Task* done) override { loop_->Post(done); }

  void Answer(Request* request) {
    const bool bad = request->offset() <= fail_offset &&
                     fail_offset < request->offset() + request->length_bytes;
    for (uint8_t& byte : request->payload) {
      if (request->op == Request::Op::kRead) byte = 0x5a;
    }
    request->Complete(bad ? IoStatus::kIoError : IoStatus::kOk);
  }

  bool hold = false;
  uint64_t fail_offset = UINT64_MAX;
  std::vector<Request*> held;

 private:
  Loop* const loop_;
};

// With the stream of version 1, with batches, and with batches by a call that
// waits.
enum class Mode { kStream, kBatch, kCall };

class ChannelTest : public ::testing::TestWithParam<Mode> {
 protected:
  void SetUp() override {
    loop_ = EpollLoop::Create();
    ASSERT_NE(loop_, nullptr);
    closed_task_.run = [](void* context) {
      static_cast<ChannelTest*>(context)->closed_ = true;
    };
    stopped_task_.run = [](void* context) {
      static_cast<ChannelTest*>(context)->stopped_ = true;
    };
    failed_task_.run = [](void* context) {
      ++static_cast<ChannelTest*>(context)->failures_told_;
    };
    failed_task_.context = this;
    closed_task_.context = this;
    stopped_task_.context = this;
  }

  void TearDown() override {
    if (device_ != nullptr && !stopped_) StopDevice();
    device_.reset();
    EXPECT_EQ(kernel_.violation(), "");
    EXPECT_EQ(pool_ != nullptr ? pool_->in_use() : 0, 0u);
  }

  // By plain system calls, or by the ring.
  std::unique_ptr<Disk> OpenDisk(const std::string& path, bool by_ring) {
    if (!by_ring) {
      auto disk = FileDisk::Open(path, {.writable = true}, loop_.get());
      EXPECT_TRUE(disk.ok()) << disk.status();
      return std::move(*disk);
    }
    ring_ = Ring::Create({}, loop_.get());
    flusher_ = Flusher::Create(loop_.get());
    auto disk = UringDisk::Open(path, {.writable = true}, ring_.get(),
                                flusher_.get(), loop_.get());
    EXPECT_TRUE(disk.ok()) << disk.status();
    return std::move(*disk);
  }

  void Serve(std::unique_ptr<Backend> backend, uint32_t buffers = 16,
             uint32_t slots = 16) {
    pool_ = BufferPool::Create(buffers);
    ASSERT_NE(pool_, nullptr);
    const int fd = kernel_.Open();
    ASSERT_GE(fd, 0);
    device_.reset();
    call_.reset();
    if (GetParam() == Mode::kCall) {
      call_ = std::make_unique<FakeCall>(loop_.get());
    }
    auto channel = std::make_unique<StreamChannel>(
        UniqueFd(fd),
        StreamChannel::Options{.slots = slots,
                               .batch = GetParam() != Mode::kStream,
                               .call = call_.get(),
                               .reopen = FakeKernel::Reopen,
                               .reopen_context = &kernel_},
        loop_.get(), pool_.get());
    device_ =
        std::make_unique<Device>("test", std::move(channel), std::move(backend),
                                 loop_.get(), &closed_task_, &failed_task_);
    device_->Start();
  }

  ScriptedBackend* ServeScripted(uint32_t buffers = 16, uint32_t slots = 16) {
    auto backend = std::make_unique<ScriptedBackend>(loop_.get());
    ScriptedBackend* scripted = backend.get();
    Serve(std::move(backend), buffers, slots);
    return scripted;
  }

  // Runs both sides until `done` holds; fails the test when nothing moves any
  // more for long before that.
  void RunUntil(const std::function<bool()>& done) {
    int idle = 0;
    while (!done()) {
      const bool moved = kernel_.Pump();
      loop_->Turn(/*wait=*/false);
      const bool in_kernel = ring_ != nullptr && ring_->under_way() > 0;
      idle = moved || in_kernel ? 0 : idle + 1;
      ASSERT_LT(idle, 1000) << "both sides wait for each other";
    }
  }

  void RunUntilIdle() {
    for (int idle = 0; idle < 20; ++idle) {
      if (kernel_.Pump()) idle = 0;
      loop_->Turn(/*wait=*/false);
    }
  }

  FakeKernel::Reply Answer(uint64_t seq) {
    std::optional<FakeKernel::Reply> reply;
    RunUntil([&] { return (reply = kernel_.TakeReply(seq)).has_value(); });
    return reply.value_or(FakeKernel::Reply{UINT64_MAX, {}});
  }

  void StopDevice() {
    device_->Stop(&stopped_task_);
    RunUntil([&] { return stopped_; });
  }

  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<Ring> ring_;
  std::unique_ptr<Flusher> flusher_;
  std::unique_ptr<BufferPool> pool_;
  FakeKernel kernel_;
  std::unique_ptr<FakeCall> call_;
  std::unique_ptr<Device> device_;
  Task closed_task_;
  Task failed_task_;
  int failures_told_ = 0;
  Task stopped_task_;
  bool closed_ = false;
  bool stopped_ = false;
};

TEST_P(ChannelTest, NullDeviceReadsZeros) {
  Serve(std::make_unique<NullBackend>(kSizeBytes, loop_.get()));
  const auto reply = Answer(kernel_.Send(DM_USER_REQ_MAP_READ, 8, 4096));
  EXPECT_EQ(reply.type, DM_USER_RESP_SUCCESS);
  EXPECT_EQ(reply.data, std::vector<uint8_t>(4096, 0));
}

TEST_P(ChannelTest, EveryTypeGetsAnAnswer) {
  Serve(std::make_unique<NullBackend>(kSizeBytes, loop_.get()));
  const struct {
    uint64_t type, len, flags, answer;
  } kCases[] = {
      {DM_USER_REQ_MAP_WRITE, 512, 0, DM_USER_RESP_SUCCESS},
      {DM_USER_REQ_MAP_WRITE, 512, DM_USER_REQ_MAP_FLAG_FUA,
       DM_USER_RESP_SUCCESS},
      {DM_USER_REQ_MAP_WRITE, 0, DM_USER_REQ_MAP_FLAG_PREFLUSH,
       DM_USER_RESP_SUCCESS},
      {DM_USER_REQ_MAP_FLUSH, 0, 0, DM_USER_RESP_SUCCESS},
      {DM_USER_REQ_MAP_DISCARD, 1 << 20, 0, DM_USER_RESP_SUCCESS},
      {DM_USER_REQ_MAP_SECURE_ERASE, 4096, 0, DM_USER_RESP_SUCCESS},
      {DM_USER_REQ_MAP_WRITE_ZEROES, 1 << 20, 0, DM_USER_RESP_SUCCESS},
      {DM_USER_REQ_MAP_WRITE_SAME, 4096, 0, DM_USER_RESP_UNSUPPORTED},
      {4711, 4096, 0, DM_USER_RESP_UNSUPPORTED},
  };
  for (const auto& c : kCases) {
    const size_t payload = c.type == DM_USER_REQ_MAP_WRITE ? c.len : 0;
    const uint64_t seq = kernel_.Send(
        c.type, 0, c.len, std::vector<uint8_t>(payload, 1), c.flags);
    EXPECT_EQ(Answer(seq).type, c.answer) << "type " << c.type;
  }
}

TEST_P(ChannelTest, OutOfRangeFailsThatRequestOnly) {
  Serve(std::make_unique<NullBackend>(kSizeBytes, loop_.get()));
  const uint64_t end = kSizeBytes / kSectorBytes;
  EXPECT_EQ(Answer(kernel_.Send(DM_USER_REQ_MAP_READ, end - 1, 1024)).type,
            DM_USER_RESP_ERROR);
  EXPECT_EQ(Answer(kernel_.Send(DM_USER_REQ_MAP_READ, end, 512)).type,
            DM_USER_RESP_ERROR);
  EXPECT_EQ(Answer(kernel_.Send(DM_USER_REQ_MAP_READ, end - 1, 512)).type,
            DM_USER_RESP_SUCCESS);
  EXPECT_EQ(device_->errors().all(), 2u);
  EXPECT_STREQ(device_->errors().last_text(),
               "read of 512 bytes at sector 8192: I/O error: the device has "
               "8192 sectors");
}

class TemporaryFile {
 public:
  explicit TemporaryFile(uint64_t bytes) {
    fd_.reset(mkstemp(path_));
    EXPECT_EQ(ftruncate(fd_.get(), static_cast<off_t>(bytes)), 0);
  }
  explicit TemporaryFile(const std::vector<uint8_t>& content)
      : TemporaryFile(content.size()) {
    EXPECT_EQ(pwrite(fd_.get(), content.data(), content.size(), 0),
              static_cast<ssize_t>(content.size()));
  }
  ~TemporaryFile() { unlink(path_); }
  std::vector<uint8_t> Content() const {
    std::vector<uint8_t> content(
        static_cast<size_t>(lseek(fd_.get(), 0, SEEK_END)));
    EXPECT_EQ(pread(fd_.get(), content.data(), content.size(), 0),
              static_cast<ssize_t>(content.size()));
    return content;
  }
  const char* path() const { return path_; }

 private:
  char path_[64] = "/tmp/dmu-channel-test-XXXXXX";
  UniqueFd fd_;
};

// Random reads and writes of every sector-granular size up to four buffers,
// through transfers of every size, several at a time, against a byte array.
TEST_P(ChannelTest, RandomTrafficMatchesTheFile) {
  const struct {
    size_t chunk;
    bool by_ring;
  } kCases[] = {{size_t{1} << 16, false},
                {4096, false},
                {41, false},
                {40, false},
                {7, false},
                {size_t{1} << 16, true},
                {4096, true},
                {41, true}};
  for (const auto& [chunk, by_ring] : kCases) {
    TemporaryFile file(kSizeBytes);
    stopped_ = false;
    Serve(std::make_unique<FileBackend>(OpenDisk(file.path(), by_ring), false,
                                        loop_.get()),
          /*buffers=*/3, /*slots=*/4);
    kernel_.SetChunk(chunk);
    std::vector<uint8_t> oracle(kSizeBytes, 0);
    std::mt19937 random(static_cast<uint32_t>(chunk));
    const int rounds = chunk < 100 ? 4 : 40;
    for (int round = 0; round < rounds; ++round) {
      // A batch of requests that do not overlap: one per quarter.
      std::vector<std::pair<uint64_t, std::vector<uint8_t>>> reads;
      std::vector<uint64_t> writes;
      for (uint64_t quarter = 0; quarter < 4; ++quarter) {
        const uint64_t sectors = 1 + random() % (chunk < 100 ? 200 : 512);
        const uint64_t first = quarter * kSizeBytes / 4 / kSectorBytes +
                               random() % (kSizeBytes / 4 / 512 - sectors);
        const uint64_t bytes = sectors * kSectorBytes;
        const auto at = oracle.begin() + static_cast<ptrdiff_t>(first * 512);
        if (random() % 2 == 0) {
          reads.emplace_back(
              kernel_.Send(DM_USER_REQ_MAP_READ, first, bytes),
              std::vector<uint8_t>(at, at + static_cast<ptrdiff_t>(bytes)));
          continue;
        }
        std::vector<uint8_t> data(bytes);
        for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
        std::copy(data.begin(), data.end(), at);
        writes.push_back(
            kernel_.Send(DM_USER_REQ_MAP_WRITE, first, bytes, data));
      }
      for (const auto& [seq, expected] : reads) {
        const auto reply = Answer(seq);
        ASSERT_EQ(reply.type, DM_USER_RESP_SUCCESS);
        ASSERT_TRUE(reply.data == expected);
      }
      for (const uint64_t seq : writes) {
        ASSERT_EQ(Answer(seq).type, DM_USER_RESP_SUCCESS);
      }
    }
    StopDevice();
    device_.reset();
    EXPECT_TRUE(file.Content() == oracle) << "chunk " << chunk;
  }
}

// A snapshot's reads are not of one piece of storage, end in any order, and
// wait for a merge that changes what is below them: through each kind of
// channel they are the target's bytes, and what a daemon leaves unanswered the
// next one has.
TEST_P(ChannelTest, ASnapshotIsItsTargetThroughMergeAndRestarts) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    sim::ScenarioOptions options;
    options.blocks_min = 300;
    options.blocks_max = 600;
    options.compression = cow::Compression::kLz4;
    options.span_log2_max = 4;
    const sim::Scenario scenario = sim::MakeScenario(seed, options);
    const TemporaryFile base(scenario.base), cow(scenario.cow);
    MergeGovernor governor(loop_.get(), nullptr);
    std::mt19937 random(static_cast<uint32_t>(seed));
    const uint64_t sectors = scenario.target.size() / kSectorBytes;
    std::map<uint64_t, std::pair<uint64_t, uint64_t>> reads;  // by seq
    bool merged = false;
    for (int life = 0; !(merged && reads.empty()); ++life) {
      std::unique_ptr<Backend> backend;
      OpenSnapshotBackend(OpenDisk(base.path(), false),
                          OpenDisk(cow.path(), false), nullptr, loop_.get(),
                          &governor,
                          [&](absl::StatusOr<std::unique_ptr<Backend>> opened) {
                            ASSERT_TRUE(opened.ok()) << opened.status();
                            backend = std::move(*opened);
                          });
      while (backend == nullptr) loop_->Turn(/*wait=*/false);
      MergeControl* merge = backend->merge();
      stopped_ = false;
      Serve(std::move(backend), /*buffers=*/5, /*slots=*/8);
      kernel_.SetChunk(life % 2 == 0 ? size_t{1} << 16 : 4096);
      merge->Start();
      // Each longer than the one before: there is always one that gets on.
      for (int turn = 0; turn < 60 * (life + 1); ++turn) {
        if (reads.size() < 12 && random() % 3 == 0 && !merged) {
          const uint64_t first = random() % sectors;
          const uint64_t count =
              1 + random() % std::min<uint64_t>(sectors - first, 400);
          const uint64_t seq =
              kernel_.Send(DM_USER_REQ_MAP_READ, first, count * kSectorBytes);
          reads[seq] = {first * kSectorBytes, count * kSectorBytes};
        }
        kernel_.Pump();
        loop_->Turn(/*wait=*/false);
        for (auto read = reads.begin(); read != reads.end();) {
          const auto reply = kernel_.TakeReply(read->first);
          if (!reply.has_value()) {
            ++read;
            continue;
          }
          const auto& [offset, bytes] = read->second;
          ASSERT_EQ(reply->type, DM_USER_RESP_SUCCESS);
          ASSERT_EQ(reply->data.size(), bytes);
          ASSERT_EQ(memcmp(reply->data.data(), &scenario.target[offset], bytes),
                    0)
              << "at " << offset << " in daemon " << life;
          read = reads.erase(read);
        }
      }
      const MergeStatus status = merge->status();
      ASSERT_NE(status.state, MergeStatus::State::kFailed) << status.error;
      merged = status.state == MergeStatus::State::kDone;
      device_->Stop(&stopped_task_);
      while (!stopped_) loop_->Turn(/*wait=*/false);
      device_.reset();
    }
    EXPECT_TRUE(base.Content() == scenario.target);
  }
}

// More requests than slots, more slots than buffers: all wait, none is lost.
TEST_P(ChannelTest, WaitsForMemoryAndLosesNothing) {
  ScriptedBackend* backend = ServeScripted(/*buffers=*/2, /*slots=*/4);
  backend->hold = true;
  std::vector<uint64_t> seqs;
  for (uint64_t i = 0; i < 12; ++i) {
    seqs.push_back(kernel_.Send(DM_USER_REQ_MAP_READ, i, 512));
    seqs.push_back(kernel_.Send(DM_USER_REQ_MAP_FLUSH, 0, 0));
  }
  RunUntilIdle();
  EXPECT_LE(pool_->in_use(), 2u);
  EXPECT_LE(backend->held.size(), 4u);
  while (kernel_.outstanding() > 0) {
    ASSERT_FALSE(backend->held.empty());
    Request* request = backend->held.back();  // the youngest first
    backend->held.pop_back();
    backend->Answer(request);
    RunUntilIdle();
  }
  for (const uint64_t seq : seqs) {
    EXPECT_EQ(Answer(seq).type, DM_USER_RESP_SUCCESS);
  }
}

// More answers at a time than leave in one call, with a payload and without.
TEST_P(ChannelTest, ManyAnswersTogether) {
  ScriptedBackend* backend = ServeScripted(/*buffers=*/50, /*slots=*/100);
  backend->hold = true;
  std::vector<uint64_t> seqs;
  for (uint64_t i = 0; i < 100; ++i) {
    seqs.push_back(i % 3 == 0 ? kernel_.Send(DM_USER_REQ_MAP_READ, i, 512)
                              : kernel_.Send(DM_USER_REQ_MAP_FLUSH, 0, 0));
  }
  RunUntil([&] { return backend->held.size() == seqs.size(); });
  for (Request* request : backend->held) backend->Answer(request);
  for (const uint64_t seq : seqs) {
    EXPECT_EQ(Answer(seq).type, DM_USER_RESP_SUCCESS);
  }
}

// How long requests are carried with so many buffers.
struct Segments {
  uint32_t buffers;
  uint64_t bytes;
};
constexpr Segments kSegments[] = {{2, BufferPool::kBufferBytes},
                                  {16, BufferPool::kRunBytesMax}};

// A long read fails after its success header has left: the channel opens anew,
// the kernel gives everything again, and that one request is refused.
TEST_P(ChannelTest, LateReadErrorRefusesTheWholeRequest) {
  for (const Segments& segments : kSegments) {
    ScriptedBackend* backend = ServeScripted(segments.buffers);
    const int opens_before = kernel_.opens();
    backend->fail_offset = 3 * segments.bytes + 100;
    const uint64_t bad =
        kernel_.Send(DM_USER_REQ_MAP_READ, 0, 5 * segments.bytes);
    const uint64_t good = kernel_.Send(DM_USER_REQ_MAP_READ, 0, 4096);
    EXPECT_EQ(Answer(bad).type, DM_USER_RESP_ERROR);
    EXPECT_EQ(Answer(good).type, DM_USER_RESP_SUCCESS);
    EXPECT_EQ(kernel_.opens(), opens_before + 1);
    StopDevice();
    stopped_ = false;
    device_.reset();
  }
  stopped_ = true;
}

TEST_P(ChannelTest, WriteErrorInTheMiddleReadsThePayloadAway) {
  for (const Segments& segments : kSegments) {
    ScriptedBackend* backend = ServeScripted(segments.buffers);
    const int opens_before = kernel_.opens();
    const uint64_t bytes = 5 * segments.bytes + 512;
    for (uint64_t segment = 0; segment < 6; ++segment) {
      backend->fail_offset = segment * segments.bytes;
      const uint64_t bad = kernel_.Send(DM_USER_REQ_MAP_WRITE, 0, bytes,
                                        std::vector<uint8_t>(bytes, 1));
      const uint64_t good = kernel_.Send(DM_USER_REQ_MAP_READ, 4096, 512);
      EXPECT_EQ(Answer(bad).type, DM_USER_RESP_ERROR) << segment;
      EXPECT_EQ(Answer(good).type, DM_USER_RESP_SUCCESS) << segment;
    }
    EXPECT_EQ(kernel_.opens(), opens_before);
    StopDevice();
    stopped_ = false;
    device_.reset();
  }
  stopped_ = true;
}

// The kernel may give a write again as soon as the file is closed, so Stop
// must wait for what the back end still holds.
TEST_P(ChannelTest, StopWaitsForTheBackEndBeforeItCloses) {
  ScriptedBackend* backend = ServeScripted();
  backend->hold = true;
  const uint64_t seq =
      kernel_.Send(DM_USER_REQ_MAP_WRITE, 0, 512, std::vector<uint8_t>(512, 1));
  RunUntil([&] { return backend->held.size() == 1; });
  device_->Stop(&stopped_task_);
  RunUntilIdle();
  EXPECT_FALSE(stopped_);
  EXPECT_FALSE(kernel_.daemon_closed());
  backend->Answer(backend->held[0]);
  RunUntil([&] { return stopped_; });
  RunUntilIdle();
  EXPECT_TRUE(kernel_.daemon_closed());
  // What was done is said, so that it is not done twice.
  const auto reply = kernel_.TakeReply(seq);
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->type, DM_USER_RESP_SUCCESS);
}

// The rest of a long answer, and those behind it, leave no more: the kernel
// gives all of them again.
TEST_P(ChannelTest, StopInTheMiddleOfALongAnswer) {
  constexpr uint64_t kLong = 3 * BufferPool::kRunBytesMax;
  ScriptedBackend* backend = ServeScripted();
  backend->hold = true;
  const uint64_t long_one = kernel_.Send(DM_USER_REQ_MAP_READ, 0, kLong);
  RunUntil([&] { return backend->held.size() == 1; });
  Request* first = std::exchange(backend->held[0], nullptr);
  backend->held.clear();
  backend->Answer(first);
  RunUntil([&] { return backend->held.size() == 1; });
  std::vector<uint64_t> behind;
  for (int i = 0; i < 3; ++i) {
    behind.push_back(kernel_.Send(DM_USER_REQ_MAP_READ, 8, 4096));
  }
  RunUntil([&] { return backend->held.size() == 4; });
  for (int i = 1; i < 4; ++i) backend->Answer(backend->held[size_t(i)]);
  device_->Stop(&stopped_task_);
  RunUntilIdle();
  EXPECT_FALSE(stopped_) << "the back end still has one";
  backend->Answer(backend->held[0]);
  RunUntil([&] { return stopped_; });
  EXPECT_EQ(pool_->in_use(), 0u);
  device_.reset();
  stopped_ = false;
  ServeScripted();
  EXPECT_EQ(Answer(long_one).data.size(), kLong);
  for (const uint64_t seq : behind) EXPECT_EQ(Answer(seq).data.size(), 4096u);
}

TEST_P(ChannelTest, StopInTheMiddleOfAHeaderAndOfAPayload) {
  for (const size_t cut : {size_t{17}, size_t{40 + 100}}) {
    stopped_ = false;
    ServeScripted();
    kernel_.SetChunk(cut);
    kernel_.Send(DM_USER_REQ_MAP_WRITE, 0, 512, std::vector<uint8_t>(512, 1));
    kernel_.Pump();
    for (int i = 0; i < 5; ++i) loop_->Turn(/*wait=*/false);
    device_->Stop(&stopped_task_);
    for (int i = 0; i < 5; ++i) loop_->Turn(/*wait=*/false);
    EXPECT_TRUE(stopped_);
    device_.reset();
    EXPECT_EQ(pool_->in_use(), 0u);
    // The next daemon gets it whole.
    kernel_.SetChunk(SIZE_MAX);
  }
  stopped_ = false;
  ServeScripted();
  EXPECT_EQ(Answer(0).type, DM_USER_RESP_SUCCESS);
  EXPECT_EQ(Answer(1).type, DM_USER_RESP_SUCCESS);
}

TEST_P(ChannelTest, KernelSideGone) {
  ScriptedBackend* backend = ServeScripted();
  backend->hold = true;
  kernel_.Send(DM_USER_REQ_MAP_READ, 0, 512);
  RunUntil([&] { return backend->held.size() == 1; });
  kernel_.CloseKernelEnd();
  for (int i = 0; i < 5; ++i) loop_->Turn(/*wait=*/false);
  EXPECT_TRUE(closed_);
  backend->Answer(backend->held[0]);
}

TEST_P(ChannelTest, NonsenseClosesTheChannel) {
  const dm_user_message kBad[] = {
      {.type = DM_USER_REQ_MAP_READ, .len = 100},
      {.type = DM_USER_REQ_MAP_READ, .len = 0},
      {.type = DM_USER_REQ_MAP_WRITE, .len = 513},
      {.type = DM_USER_REQ_MAP_READ, .sector = UINT64_MAX, .len = 512},
  };
  for (const dm_user_message& header : kBad) {
    closed_ = false;
    stopped_ = false;
    ServeScripted();
    const auto* bytes = reinterpret_cast<const uint8_t*>(&header);
    kernel_.SendRaw(std::vector<uint8_t>(bytes, bytes + sizeof(header)));
    RunUntil([&] { return closed_; });
    StopDevice();
    device_.reset();
  }
}

// From the turn a request came in until the back end was done with it.
TEST_P(ChannelTest, RequestsAreTimedByKindAndCountedWhileTheyLast) {
  using OpClass = Device::OpClass;
  ScriptedBackend* backend = ServeScripted();
  backend->hold = true;
  const uint64_t sent_us = loop_->NowUs();
  const uint64_t read = kernel_.Send(DM_USER_REQ_MAP_READ, 0, 4096);
  const uint64_t flush = kernel_.Send(DM_USER_REQ_MAP_FLUSH, 0, 0);
  RunUntil([&] { return backend->held.size() == 2; });
  const uint64_t held_us = loop_->NowUs();
  EXPECT_EQ(device_->counters().in_flight, 2u);
  constexpr uint64_t kWaitUs = 2000;
  while (loop_->NowUs() < held_us + kWaitUs) {
  }
  for (Request* request : backend->held) backend->Answer(request);
  const uint64_t done_us = loop_->NowUs();
  EXPECT_EQ(device_->counters().in_flight, 0u);
  EXPECT_EQ(Answer(read).type, DM_USER_RESP_SUCCESS);
  EXPECT_EQ(Answer(flush).type, DM_USER_RESP_SUCCESS);
  for (const OpClass of : {OpClass::kRead, OpClass::kFlush}) {
    const LatencyHistogram& times = device_->latency(of);
    EXPECT_GE(times.max_us(), kWaitUs);
    EXPECT_LE(times.max_us(), done_us - sent_us);
    EXPECT_EQ(times.sum_us(), times.max_us());
    EXPECT_EQ(times.count(LatencyHistogram::BucketOf(times.max_us())), 1u);
  }
  EXPECT_EQ(device_->latency(OpClass::kWrite).max_us(), 0u);
  backend->hold = false;
  Answer(kernel_.Send(DM_USER_REQ_MAP_DISCARD, 0, 4096));
  Answer(kernel_.Send(DM_USER_REQ_MAP_WRITE, 0, 4096,
                      std::vector<uint8_t>(4096, 1)));
  for (const OpClass of :
       {OpClass::kRead, OpClass::kWrite, OpClass::kFlush, OpClass::kOther}) {
    uint64_t all = 0;
    for (int i = 0; i < LatencyHistogram::kBuckets; ++i) {
      all += device_->latency(of).count(i);
    }
    EXPECT_EQ(all, 1u) << static_cast<int>(of);
  }
  EXPECT_EQ(device_->counters().flushes, 1u);
  EXPECT_EQ(device_->counters().other_requests, 2u);
}

// A file that is cut under the device, and comes back: each request that needs
// what is gone fails, with its reason, and nothing else does.
TEST_P(ChannelTest, ACutFileFailsTheRequestsThatNeedItAndSaysWhy) {
  TemporaryFile file(kSizeBytes);
  auto disk = FileDisk::Open(file.path(), {.writable = true}, loop_.get());
  ASSERT_TRUE(disk.ok()) << disk.status();
  Serve(std::make_unique<FileBackend>(std::move(*disk), false, loop_.get()));
  EXPECT_STREQ(device_->errors().last_text(), "");
  ASSERT_EQ(truncate(file.path(), kSizeBytes / 2), 0);
  const uint64_t middle = kSizeBytes / 2 / kSectorBytes;
  EXPECT_EQ(Answer(kernel_.Send(DM_USER_REQ_MAP_READ, middle, 4096)).type,
            DM_USER_RESP_ERROR);
  EXPECT_EQ(Answer(kernel_.Send(DM_USER_REQ_MAP_READ, middle - 8, 8192)).type,
            DM_USER_RESP_ERROR);
  EXPECT_EQ(Answer(kernel_.Send(DM_USER_REQ_MAP_READ, middle - 8, 4096)).type,
            DM_USER_RESP_SUCCESS);
  const ErrorRecord& errors = device_->errors();
  EXPECT_EQ(errors.all(), 2u);
  EXPECT_EQ(errors.count(IoStatus::kShort), 2u);
  EXPECT_EQ(errors.last_status(), IoStatus::kShort);
  EXPECT_EQ(errors.last_sector(), middle - 8);
  EXPECT_EQ(std::string(errors.last_text()),
            "read of 8192 bytes at sector " + std::to_string(middle - 8) +
                ": cut short: " + file.path() + " at offset " +
                std::to_string((middle - 8) * kSectorBytes));
  EXPECT_GT(errors.last_unix_ms(), 1'600'000'000'000u);
  EXPECT_GE(failures_told_, 1);
  ASSERT_EQ(truncate(file.path(), kSizeBytes), 0);
  EXPECT_EQ(Answer(kernel_.Send(DM_USER_REQ_MAP_READ, middle, 4096)).type,
            DM_USER_RESP_SUCCESS);
  EXPECT_EQ(errors.all(), 2u);
}

// All are counted, few are told: who watches a broken disk is not flooded.
TEST_P(ChannelTest, ManyFailuresAreToldSparingly) {
  ScriptedBackend* backend = ServeScripted();
  backend->fail_offset = 0;
  constexpr int kFailures = 300;
  for (int i = 0; i < kFailures; ++i) {
    EXPECT_EQ(Answer(kernel_.Send(DM_USER_REQ_MAP_READ, 0, 512)).type,
              DM_USER_RESP_ERROR);
  }
  RunUntilIdle();
  EXPECT_EQ(device_->errors().all(), uint64_t{kFailures});
  EXPECT_GE(failures_told_, 1);
  EXPECT_LE(failures_told_, 20);
}

INSTANTIATE_TEST_SUITE_P(Modes, ChannelTest,
                         testing::Values(Mode::kStream, Mode::kBatch,
                                         Mode::kCall),
                         [](const auto& info) {
                           switch (info.param) {
                             case Mode::kStream:
                               return "Stream";
                             case Mode::kBatch:
                               return "Batch";
                             default:
                               return "Call";
                           }
                         });

class CallTest : public ChannelTest {};

// One call takes the answers of the turn along and waits for what comes next.
TEST_P(CallTest, AnswersLeaveWithTheCall) {
  ServeScripted();
  RunUntilIdle();
  EXPECT_EQ(call_->begun(), 1);
  uint64_t answered_bytes = 0;
  for (int round = 2; round < 10; ++round) {
    for (uint64_t i = 0; i < 3; ++i) {
      kernel_.Send(DM_USER_REQ_MAP_READ, 8 * i, 512);
      answered_bytes += wire::kHeaderBytes + 512;
    }
    RunUntil([&] { return kernel_.outstanding() == 0; });
    RunUntilIdle();
    EXPECT_EQ(call_->begun(), round);
    EXPECT_EQ(call_->taken_bytes(), answered_bytes) << "some left by write";
  }
}

// What is answered while a call waits does not wait for it.
TEST_P(CallTest, AnswersOvertakeACallThatWaits) {
  ScriptedBackend* backend = ServeScripted();
  backend->hold = true;
  const uint64_t seq = kernel_.Send(DM_USER_REQ_MAP_READ, 0, 512);
  RunUntil([&] { return backend->held.size() == 1; });
  RunUntilIdle();
  EXPECT_EQ(call_->state(), BatchCall::State::kWaiting);
  backend->Answer(backend->held[0]);
  EXPECT_EQ(Answer(seq).type, DM_USER_RESP_SUCCESS);
  EXPECT_EQ(call_->taken_bytes(), 0u);
  EXPECT_EQ(call_->begun(), 2) << "it goes on waiting";
}

// A call that cannot be made yet holds up no answer.
TEST_P(CallTest, AnswersDoNotWaitForAFullRing) {
  ServeScripted();
  RunUntilIdle();
  call_->Hold(true);
  EXPECT_EQ(Answer(kernel_.Send(DM_USER_REQ_MAP_READ, 0, 512)).type,
            DM_USER_RESP_SUCCESS);
  EXPECT_EQ(call_->state(), BatchCall::State::kBegun);
  kernel_.Send(DM_USER_REQ_MAP_READ, 0, 512);
  call_->Hold(false);
  RunUntil([&] { return kernel_.outstanding() == 0; });
}

TEST_P(CallTest, NoCallWithoutMemoryForWhatItBrings) {
  ScriptedBackend* backend = ServeScripted(/*buffers=*/2, /*slots=*/2);
  backend->hold = true;
  for (uint64_t i = 0; i < 3; ++i) kernel_.Send(DM_USER_REQ_MAP_READ, i, 512);
  RunUntilIdle();
  EXPECT_EQ(call_->state(), BatchCall::State::kIdle);
  while (!backend->held.empty()) {
    Request* request = backend->held.back();
    backend->held.pop_back();
    backend->Answer(request);
    RunUntilIdle();
  }
  EXPECT_EQ(kernel_.outstanding(), 0u);
  EXPECT_EQ(call_->state(), BatchCall::State::kWaiting);
}

// Ended without a request for reasons that pass, it is begun again.
TEST_P(CallTest, IsBegunAgain) {
  ServeScripted();
  int begun = 1;
  for (const int result : {0, -EINTR, -EAGAIN, -ENOMEM, -ECANCELED}) {
    RunUntilIdle();
    EXPECT_EQ(call_->begun(), begun) << result;
    call_->End(result);
    ++begun;
  }
  EXPECT_EQ(Answer(kernel_.Send(DM_USER_REQ_MAP_READ, 0, 512)).type,
            DM_USER_RESP_SUCCESS);
}

TEST_P(CallTest, TheTargetIsGone) {
  ServeScripted();
  RunUntilIdle();
  call_->End(-ENOTBLK);
  RunUntil([&] { return closed_; });
  StopDevice();
}

// The file is closed when the call that had it is over, not before.
TEST_P(CallTest, StopAwaitsTheCall) {
  ServeScripted();
  call_->Hold(true);
  device_->Stop(&stopped_task_);
  RunUntilIdle();
  EXPECT_FALSE(stopped_);
  EXPECT_FALSE(kernel_.daemon_closed());
  call_->Hold(false);
  RunUntil([&] { return stopped_; });
  RunUntilIdle();
  EXPECT_TRUE(kernel_.daemon_closed());
}

INSTANTIATE_TEST_SUITE_P(Modes, CallTest, testing::Values(Mode::kCall),
                         [](const auto&) { return "Call"; });

}  // namespace
}  // namespace dmu

// SPDX-License-Identifier: Apache-2.0
//
// control_host.h - one daemon's worth of control: real servers, services,
// registry and state store on the real loop; devices whose merges a test moves
// by hand, over the fake kernel.
#ifndef TEST_CONTROL_HOST_H_
#define TEST_CONTROL_HOST_H_

#include <errno.h>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/backend/null.h"
#include "daemon/base/buffer_pool.h"
#include "daemon/channel/stream.h"
#include "daemon/control/server.h"
#include "daemon/control/service.h"
#include "daemon/control/text_service.h"
#include "daemon/device/registry.h"
#include "daemon/device/state_store.h"
#include "daemon/io/disk.h"
#include "daemon/io/loop_epoll.h"
#include "gtest/gtest.h"
#include "proto/control.pb.h"
#include "test/fake_kernel.h"

namespace dmu {

inline constexpr uint64_t kHostSizeBytes = 1 << 20;

// Ends a request as a storage that failed would.
inline void FailWith(Request* request, IoStatus status, int error) {
  request->cause = {.where = "/some/disk", .offset = 4096, .error = error};
  request->Complete(status);
}

class NoDisk : public Disk {
 public:
  uint64_t size_bytes() const override { return 0; }
  void Submit(DiskOp*) override { FAIL() << "nobody reads this log"; }
};

// A null back end with a merge the test moves by hand.
class MergeableBackend : public NullBackend, public MergeControl {
 public:
  explicit MergeableBackend(Loop* loop) : NullBackend(kHostSizeBytes, loop) {}
  MergeControl* merge() override { return this; }
  void Submit(Request* request) override {
    if (fail_status == IoStatus::kOk) {
      NullBackend::Submit(request);
    } else {
      FailWith(request, fail_status, EIO);
    }
  }
  IoStatus fail_status = IoStatus::kOk;

  void KeepUndoLog(std::unique_ptr<Disk> log,
                   std::function<void(absl::Status)> done) override {
    log_ = std::move(log);
    done(absl::OkStatus());
  }
  void Start() override { Set(MergeStatus::State::kRunning, 0); }
  void SetRate(uint64_t rate_bytes_per_s) override {
    rate_bytes_per_s_ = rate_bytes_per_s;
  }
  uint64_t rate_bytes_per_s() const { return rate_bytes_per_s_; }
  bool keeps_undo_log() const { return log_ != nullptr; }
  void Pause() override { Set(MergeStatus::State::kIdle, status_.merged_ops); }
  MergeStatus status() const override { return status_; }
  void SetListener(Task* changed) override { listener_ = changed; }

  void Set(MergeStatus::State state, uint64_t merged) {
    status_.state = state;
    status_.merged_ops = merged;
    if (listener_ != nullptr) listener_->run(listener_->context);
  }

 private:
  MergeStatus status_ = {.total_ops = 10};
  uint64_t rate_bytes_per_s_ = 0;
  std::unique_ptr<Disk> log_;
  Task* listener_ = nullptr;
};

// A channel whose kernel side comes up, or fails to, when the test says so.
class LateChannel : public Channel {
 public:
  LateChannel(Loop* loop, std::string* log) : loop_(loop), log_(log) {}
  void Start(RequestSink* sink) override { sink_ = sink; }
  void Stop(Task* done) override {
    *log_ += "stop ";
    loop_->Post(done);
  }
  void Remove(Task* done) override {
    *log_ += "remove ";
    loop_->Post(done);
  }
  std::string device_path() const override { return "/dev/late0"; }
  RequestSink* sink() const { return sink_; }

 private:
  Loop* const loop_;
  std::string* const log_;
  RequestSink* sink_ = nullptr;
};

// Can be ended and made again. Sockets: DIRECTORY/control, DIRECTORY/android.
struct ControlHost {
  ControlHost(const std::string& directory, BufferPool* pool)
      : loop(EpollLoop::Create()), store(directory + "/state") {
    Registry::Factories factories;
    factories.open_backend = [this](const proto::Attach& attach,
                                    Registry::BackendDone done) {
      if (attach.snapshot().cow_path() == "/slow") {
        // Until the test lets it come to its end.
        open_slowly = [this, attach, done] { Open(attach, done); };
        return;
      }
      if (attach.name() == broken) {
        done(absl::NotFoundError("no file"));
        return;
      }
      if (attach.has_snapshot()
              ? attach.snapshot().cow_path() == "/bad"
              : attach.null().size_bytes() != kHostSizeBytes) {
        done(absl::DataLossError("no such thing"));
        return;
      }
      Open(attach, done);
    };
    factories.open_disk =
        [](const std::string& path) -> absl::StatusOr<std::unique_ptr<Disk>> {
      if (path == "/no/such/log") return absl::NotFoundError("no log");
      return std::unique_ptr<Disk>(std::make_unique<NoDisk>());
    };
    factories.open_channel =
        [this, pool](const proto::DeviceRecord& record, const Geometry&,
                     bool) -> absl::StatusOr<std::unique_ptr<Channel>> {
      const std::string& name = record.attach().name();
      if (name == "late") {
        auto channel = std::make_unique<LateChannel>(loop.get(), &channel_log);
        late = channel.get();
        return std::unique_ptr<Channel>(std::move(channel));
      }
      if (no_node.count(name) > 0) return absl::UnavailableError("no node");
      return std::unique_ptr<Channel>(std::make_unique<StreamChannel>(
          UniqueFd(kernels[name].Open()), StreamChannel::Options{}, loop.get(),
          pool));
    };
    registry = std::make_unique<Registry>(factories, &store, loop.get());
    service = std::make_unique<Service>(
        registry.get(),
        Service::Daemon{[this](proto::DaemonStatus* s) {
                          s->set_version("test");
                          *s->mutable_throttle() = throttle;
                        },
                        [this](const proto::Throttle& wanted) {
                          if (wanted.merges_max() == 99) {
                            return absl::InvalidArgumentError("too many");
                          }
                          throttle.MergeFrom(wanted);
                          return absl::OkStatus();
                        },
                        [this] { ++stops; }});
    auto listening =
        Server::Listen(directory + "/control", {}, service.get(), loop.get());
    EXPECT_TRUE(listening.ok()) << listening.status();
    EXPECT_TRUE(store.Prepare().ok());
    server = std::move(*listening);
    service->SetServer(server.get());

    text_service =
        std::make_unique<TextService>(registry.get(), [this] { ++ends; });
    auto android =
        Server::Listen(directory + "/android", {}, text_service.get(),
                       loop.get(), Framing::kPacket);
    EXPECT_TRUE(android.ok()) << android.status();
    text_server = std::move(*android);
    text_service->SetServer(text_server.get());
  }

  ~ControlHost() {
    bool stopped = false;
    registry->StopAll([&stopped] { stopped = true; });
    for (int i = 0; i < 100 && !stopped; ++i) loop->Turn(/*wait=*/false);
    EXPECT_TRUE(stopped);
    text_server.reset();
    server.reset();
  }

  void Open(const proto::Attach& attach, const Registry::BackendDone& done) {
    attached[attach.name()] = attach;
    opened.push_back(attach);
    auto backend = std::make_unique<MergeableBackend>(loop.get());
    backends[attach.name()] = backend.get();
    done(std::unique_ptr<Backend>(std::move(backend)));
  }

  std::unique_ptr<EpollLoop> loop;
  StateStore store;
  std::map<std::string, FakeKernel> kernels;
  std::set<std::string> no_node = {"gone"};
  std::function<void()> open_slowly;
  std::map<std::string, proto::Attach> attached;
  std::vector<proto::Attach> opened;  // what back ends were made for
  std::string broken;                 // whose back end cannot be made
  LateChannel* late = nullptr;
  std::string channel_log;
  std::map<std::string, MergeableBackend*> backends;
  std::unique_ptr<Registry> registry;
  proto::Throttle throttle;
  int stops = 0;
  std::unique_ptr<Service> service;
  std::unique_ptr<Server> server;
  int ends = 0;  // how often an Android client ended the daemon
  std::unique_ptr<TextService> text_service;
  std::unique_ptr<Server> text_server;
};

}  // namespace dmu

#endif  // TEST_CONTROL_HOST_H_

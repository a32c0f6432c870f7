// SPDX-License-Identifier: Apache-2.0
//
// main.cc - dmuserd: the factory table, start and stop.
//
// The only file that names concrete kinds of channel and back end.
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "daemon/backend/file.h"
#include "daemon/backend/merge_governor.h"
#include "daemon/backend/null.h"
#include "daemon/backend/pressure.h"
#include "daemon/backend/remap.h"
#include "daemon/backend/snapshot.h"
#include "daemon/base/buffer_pool.h"
#include "daemon/base/log.h"
#include "daemon/channel/misc_node.h"
#include "daemon/channel/ublk/channel.h"
#include "daemon/channel/ublk/parameters.h"
#include "daemon/control/inherited_socket.h"
#include "daemon/control/server.h"
#include "daemon/control/service.h"
#include "daemon/control/take_over.h"
#include "daemon/control/text_service.h"
#include "daemon/device/registry.h"
#include "daemon/device/state_store.h"
#include "daemon/io/disk_file.h"
#include "daemon/io/disk_uring.h"
#include "daemon/io/flusher.h"
#include "daemon/io/give_way.h"
#include "daemon/io/loop_epoll.h"
#include "daemon/io/pool_trimmer.h"
#include "daemon/io/process_figures.h"
#include "daemon/io/ring.h"
#include "daemon/io/root_storage.h"
#include "daemon/io/service_notifier.h"
#include "daemon/options.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace dmu {
namespace {

// Tells whoever waits for it that requests are served.
void NotifyReadyFd(int fd) {
  if (fd < 0) return;
  if (write(fd, "\n", 1) != 1) {
    Log(LogLevel::kWarning, "cannot write to --ready-fd %d: %s", fd,
        strerror(errno));
  }
  close(fd);
}

// The C library asks the kernel to keep this thread's processor number up to
// date, at each switch to it. Nothing here asks for that.
void LeaveRseq() {
  if (__rseq_size == 0) return;
  auto* area = reinterpret_cast<struct rseq*>(
      static_cast<uint8_t*>(__builtin_thread_pointer()) + __rseq_offset);
  // Where the kernel was given another length it refuses, and all is as it was.
  if (syscall(SYS_rseq, area, sizeof(*area), RSEQ_FLAG_UNREGISTER, RSEQ_SIG) ==
      0) {
    // So that the library asks in its other way.
    area->cpu_id = static_cast<uint32_t>(RSEQ_CPU_ID_REGISTRATION_FAILED);
  }
}

// Who asks waits for the answer, and does nothing else meanwhile: it is
// answered before others compute. A merge is for nobody to wait for, and the
// thread is the same, so while there is one it is not so. A daemon that was
// started at another nice value than 0, or may not choose, stays where it is.
constexpr int kNice = -5;
bool GoFirst() {
  errno = 0;
  return getpriority(PRIO_PROCESS, 0) == 0 && errno == 0 &&
         setpriority(PRIO_PROCESS, 0, kNice) == 0;
}
void OnMerging(void*, bool merging) {
  // Where it may not go back it was the last time.
  setpriority(PRIO_PROCESS, 0, merging ? 0 : kNice);
}

// What is there decides, when the client leaves it to us.
absl::Status ChooseTransport(proto::DeviceRecord* record) {
  proto::Attach* attach = record->mutable_attach();
  if (attach->transport() == proto::TRANSPORT_AUTO) {
    const std::string node = absl::StrCat("/dev/dm-user/", attach->name());
    const bool ublk = access(node.c_str(), F_OK) != 0 &&
                      access(ublk::kControlPath, F_OK) == 0;
    attach->set_transport(ublk ? proto::TRANSPORT_UBLK
                               : proto::TRANSPORT_DM_USER);
  }
  if (attach->transport() == proto::TRANSPORT_DM_USER) return absl::OkStatus();
  if (attach->transport() != proto::TRANSPORT_UBLK) {
    return absl::UnimplementedError("this daemon does not know that transport");
  }
  uint64_t random = 0;
  if (getrandom(&random, sizeof(random), 0) != sizeof(random)) {
    return absl::InternalError(absl::StrCat("getrandom: ", strerror(errno)));
  }
  record->set_ublk_mark(ublk::MakeMark(random));
  return absl::OkStatus();
}

class Daemon {
 public:
  explicit Daemon(Options options) : options_(std::move(options)) {}

  int Run();

 private:
  Registry::Factories Factories();
  absl::StatusOr<std::unique_ptr<Channel>> OpenChannel(
      const proto::DeviceRecord& record, const Geometry& geometry,
      bool recovering);
  void OpenBackend(const proto::Attach& attach, Registry::BackendDone done);
  absl::StatusOr<std::unique_ptr<Disk>> OpenDisk(const std::string& path,
                                                 const DiskOptions& options);
  bool StartIo();
  void OpenFile(const proto::Attach& attach, const Registry::BackendDone& done);
  void OpenRemapped(const proto::Attach& attach,
                    const Registry::BackendDone& done);
  void OpenSnapshot(const std::string& name,
                    const proto::SnapshotBackend& snapshot,
                    Registry::BackendDone done);
  void FillStatus(proto::DaemonStatus* status);
  absl::Status Throttle(const proto::Throttle& throttle);
  // On the socket the starter passed, or on one of its own.
  absl::StatusOr<std::unique_ptr<Server>> Listen(const std::string& path,
                                                 SessionHandler* handler,
                                                 Framing framing);
  absl::Status ListenToAndroid();
  bool WatchSignals();
  void OnSignal();
  void Stop();

  const Options options_;
  std::unique_ptr<EpollLoop> loop_;
  GiveWay give_way_{GiveWay::ForThisThread(), nullptr};
  std::unique_ptr<Ring> ring_;        // nullptr: synchronous I/O
  std::unique_ptr<Flusher> flusher_;  // with ring_
  std::unique_ptr<BufferPool> pool_;
  std::unique_ptr<PoolTrimmer> trimmer_;
  std::unique_ptr<ServiceNotifier> notifier_;
  ProcPressure pressure_;
  std::unique_ptr<MergeGovernor> governor_;
  std::unique_ptr<StateStore> store_;
  std::unique_ptr<Registry> registry_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<TextService> text_service_;
  std::unique_ptr<Server> text_server_;
  UniqueFd signal_fd_;
  Watch signal_watch_;
  AnonymousPeak anonymous_peak_;
  SparingFigures figures_;
  bool knows_pressure_ = false;
  bool stopping_ = false;
};

Registry::Factories Daemon::Factories() {
  Registry::Factories factories;
  factories.open_backend = [this](const proto::Attach& attach,
                                  Registry::BackendDone done) {
    OpenBackend(attach, std::move(done));
  };
  factories.open_channel = [this](const proto::DeviceRecord& record,
                                  const Geometry& geometry, bool recovering) {
    anonymous_peak_.Look();  // what the back end took is there now
    return OpenChannel(record, geometry, recovering);
  };
  factories.is_gone = [](const proto::DeviceRecord& record) {
    // A ublk device is there until its daemon, or one after it, removes it.
    return record.attach().transport() != proto::TRANSPORT_UBLK &&
           !MiscNodeExists(record.attach().name());
  };
  factories.choose_transport = ChooseTransport;
  factories.open_disk = [this](const std::string& path) {
    return OpenDisk(path, {.writable = true, .exclusive = true});
  };
  factories.trim_memory = [this] {
    anonymous_peak_.Look();
    pool_->Trim();
    malloc_trim(0);
  };
  return factories;
}

absl::StatusOr<std::unique_ptr<Channel>> Daemon::OpenChannel(
    const proto::DeviceRecord& record, const Geometry& geometry,
    bool recovering) {
  const proto::Attach& attach = record.attach();
  if (attach.transport() != proto::TRANSPORT_UBLK) {
    return OpenMiscNode(attach.name(), geometry,
                        {.way = options_.channel, .ring = ring_.get()},
                        loop_.get(), pool_.get());
  }
  UblkChannel::Options options;
  options.geometry = geometry;
  options.mark = record.ublk_mark();
  options.recover = recovering;
  return std::unique_ptr<Channel>(
      std::make_unique<UblkChannel>(options, loop_.get(), pool_.get()));
}

void Daemon::OpenBackend(const proto::Attach& attach,
                         Registry::BackendDone done) {
  switch (attach.backend_case()) {
    case proto::Attach::kNull:
      if (attach.null().size_bytes() % kSectorBytes != 0) {
        done(absl::InvalidArgumentError("the size is not a multiple of 512"));
        return;
      }
      done(std::make_unique<NullBackend>(attach.null().size_bytes(),
                                         loop_.get()));
      return;
    case proto::Attach::kFile:
      OpenFile(attach, done);
      return;
    case proto::Attach::kSnapshot:
      OpenSnapshot(attach.name(), attach.snapshot(), std::move(done));
      return;
    default:
      done(absl::UnimplementedError(
          "this daemon does not know that kind of back end"));
  }
}

// false: cannot go on.
bool Daemon::StartIo() {
  if (options_.io == Options::Io::kSync) return true;
  // Room for a waiting command of each of some hundred devices.
  ring_ = Ring::Create({.under_way_max = 1024}, loop_.get());
  if (ring_ != nullptr) flusher_ = Flusher::Create(loop_.get());
  if (flusher_ != nullptr) return true;
  const int error = errno;
  ring_.reset();
  if (options_.io == Options::Io::kUring) {
    Log(LogLevel::kError,
        "--io uring: the kernel does not give an io_uring (%s): it takes Linux "
        "6.1, and sysctl kernel.io_uring_disabled=0 where there is one",
        strerror(error));
    return false;
  }
  Log(LogLevel::kWarning,
      "the kernel does not give an io_uring (%s): a disk that does not answer "
      "will hold up all devices",
      strerror(error));
  return true;
}

absl::StatusOr<std::unique_ptr<Disk>> Daemon::OpenDisk(
    const std::string& path, const DiskOptions& options) {
  if (ring_ == nullptr) return FileDisk::Open(path, options, loop_.get());
  return UringDisk::Open(path, options, ring_.get(), flusher_.get(),
                         loop_.get());
}

void Daemon::OpenFile(const proto::Attach& attach,
                      const Registry::BackendDone& done) {
  const proto::FileBackend& file = attach.file();
  if (file.direct_io() == proto::DIRECT_IO_REMAP) {
    OpenRemapped(attach, done);
    return;
  }
  DiskOptions options = {.writable = !file.read_only(), .exclusive = true};
  if (file.direct_io() == proto::DIRECT_IO_ON) {
    options.direct = DirectIo::kOn;
  } else if (file.direct_io() == proto::DIRECT_IO_AUTO && ring_ != nullptr) {
    // Without a ring each would be waited for.
    options.direct = DirectIo::kIfFit;
  }
  if (options.direct != DirectIo::kOff &&
      attach.transport() == proto::TRANSPORT_DM_USER) {
    options.unit_bytes = MiscNodeBlockBytes(attach.name());
  }
  auto disk = OpenDisk(file.path(), options);
  if (!disk.ok()) {
    done(disk.status());
    return;
  }
  done(std::make_unique<FileBackend>(std::move(*disk), file.read_only(),
                                     loop_.get()));
}

void Daemon::OpenRemapped(const proto::Attach& attach,
                          const Registry::BackendDone& done) {
  const proto::FileBackend& file = attach.file();
  if (attach.transport() != proto::TRANSPORT_DM_USER) {
    done(absl::InvalidArgumentError(
        "answers by place need dm-user.ko: ublk has none"));
    return;
  }
  // Only looked at; the table holds it.
  auto opened = OpenDiskFile(file.path(), {});
  if (!opened.ok()) {
    done(opened.status());
    return;
  }
  if (!opened->block_device) {
    done(absl::InvalidArgumentError(
        absl::StrCat(file.path(),
                     ": is a file, and the kernel can send requests to a block "
                     "device only; map it from a loop device (losetup), or "
                     "without --direct-io remap")));
    return;
  }
  done(std::make_unique<RemapBackend>(std::move(*opened), file.read_only(),
                                      loop_.get()));
}

void Daemon::OpenSnapshot(const std::string& name,
                          const proto::SnapshotBackend& snapshot,
                          Registry::BackendDone done) {
  // Both are written by a merge, and nobody else may change them while the
  // device shows what they mean together.
  // After the merge nothing is written any more.
  const bool shared = snapshot.share_base();
  const DiskOptions options = {.writable = !shared, .exclusive = !shared};
  auto cow = OpenDisk(snapshot.cow_path(), options);
  if (!cow.ok()) {
    done(cow.status());
    return;
  }
  auto base = OpenDisk(snapshot.base_path(), options);
  struct stat info = {};
  if (absl::IsAborted(base.status()) &&
      stat(snapshot.base_path().c_str(), &info) == 0 && S_ISBLK(info.st_mode) &&
      MiscNodeHolds(name, info.st_rdev)) {
    // It is held for this very device, which the kernel reads from it.
    base = OpenDisk(snapshot.base_path(), {.writable = true});
  }
  if (!base.ok()) {
    done(base.status());
    return;
  }
  std::unique_ptr<Disk> source;
  if (!snapshot.source_path().empty()) {
    // Only read, and often the same blocks as the base under another name.
    auto opened = OpenDisk(snapshot.source_path(), {});
    if (!opened.ok()) {
      done(opened.status());
      return;
    }
    source = std::move(*opened);
  }
  OpenSnapshotBackend(std::move(*base), std::move(*cow), std::move(source),
                      loop_.get(), governor_.get(), std::move(done));
}

void Daemon::FillStatus(proto::DaemonStatus* status) {
  status->set_version(kVersion);
  status->set_pid(static_cast<uint32_t>(getpid()));
  const ProcessFigures& figures = figures_.Get(loop_->NowUs());
  anonymous_peak_.Look(figures.anonymous_bytes);
  status->set_anonymous_bytes(figures.anonymous_bytes);
  status->set_private_bytes(figures.private_bytes);
  status->set_peak_resident_bytes(figures.peak_resident_bytes);
  status->set_peak_anonymous_bytes(anonymous_peak_.bytes());
  status->set_threads(figures.threads);
  status->set_cpu_us(figures.cpu_us);
  status->set_started_unix_ms(figures.started_unix_ms);
  status->set_turns(loop_->turns());
  status->set_log_lines_lost(LogLinesLost());
  status->set_pool_bytes(uint64_t{pool_->count()} * BufferPool::kBufferBytes);
  status->set_pool_used_bytes(uint64_t{pool_->in_use()} *
                              BufferPool::kBufferBytes);
  const MergeGovernor::Limits& limits = governor_->limits();
  proto::Throttle* throttle = status->mutable_throttle();
  throttle->set_rate_bytes_per_s(limits.rate_bytes_per_s);
  throttle->set_pressure_percent(limits.pressure_percent);
  throttle->set_merges_max(limits.active_max);
  status->set_knows_pressure(knows_pressure_);
}

absl::Status Daemon::Throttle(const proto::Throttle& throttle) {
  MergeGovernor::Limits limits = governor_->limits();
  if (throttle.has_rate_bytes_per_s()) {
    limits.rate_bytes_per_s = throttle.rate_bytes_per_s();
  }
  if (throttle.has_pressure_percent()) {
    if (throttle.pressure_percent() > 100) {
      return absl::InvalidArgumentError("the pressure is 0 to 100 percent");
    }
    if (throttle.pressure_percent() > 0 && !knows_pressure_) {
      return absl::FailedPreconditionError(
          "this kernel does not say how busy the machine is: it needs "
          "CONFIG_PSI, and psi=1 on its command line where it is off");
    }
    limits.pressure_percent = throttle.pressure_percent();
  }
  if (throttle.has_merges_max()) {
    if (throttle.merges_max() < 1 || throttle.merges_max() > kMergesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("merges at once are 1 to ", kMergesMax));
    }
    limits.active_max = throttle.merges_max();
  }
  governor_->SetLimits(limits);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Server>> Daemon::Listen(const std::string& path,
                                                       SessionHandler* handler,
                                                       Framing framing) {
  const int inherited = InheritedSocket(path);
  return inherited >= 0
             ? Server::Adopt(UniqueFd(inherited), path, options_.roles, handler,
                             loop_.get(), framing)
             : Server::Listen(path, options_.roles, handler, loop_.get(),
                              framing);
}

absl::Status Daemon::ListenToAndroid() {
  const std::string& path = options_.android_socket_path;
  if (path.empty()) return absl::OkStatus();
  text_service_ =
      std::make_unique<TextService>(registry_.get(), [this] { Stop(); });
  auto server = Listen(path, text_service_.get(), Framing::kPacket);
  if (!server.ok()) return server.status();
  text_server_ = std::move(*server);
  text_service_->SetServer(text_server_.get());
  return absl::OkStatus();
}

bool Daemon::WatchSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  if (sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) return false;
  signal_fd_.reset(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signal_fd_.valid()) return false;
  signal_watch_.ready = [](void* context, uint32_t) {
    static_cast<Daemon*>(context)->OnSignal();
  };
  signal_watch_.context = this;
  signal_watch_.fd = signal_fd_.get();
  signal_watch_.events = EPOLLIN;
  return loop_->AddWatch(&signal_watch_) == 0;
}

void Daemon::OnSignal() {
  signalfd_siginfo info;
  if (read(signal_fd_.get(), &info, sizeof(info)) == sizeof(info)) Stop();
}

void Daemon::Stop() {
  if (stopping_) return;
  stopping_ = true;
  notifier_->Stopping();
  Log(LogLevel::kInfo,
      "stopping: what is in flight is answered, the rest "
      "waits in the kernel");
  registry_->StopAll([this] { loop_->Stop(); });
}

int Daemon::Run() {
  if (options_.root_storage_name != nullptr &&
      !EnterRootStorage(options_.root_storage_name)) {
    return kExitFailure;
  }
  // Whoever read the log may end, a file may not grow beyond a limit: both are
  // errors of one call, and no reason to end.
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  if (const int error = OpenLog({.target = options_.log}); error != 0) {
    Log(LogLevel::kError, "cannot open the log that --log asks for: %s",
        strerror(error));
    return kExitFailure;
  }
  // What a request needs must never wait for a request of ours: tell the
  // memory management that this process is part of the write-out path.
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) {
    Log(LogLevel::kWarning,
        "cannot become an I/O flusher (%s): do not swap to these devices",
        strerror(errno));
  }
  // Any number of devices, with a few files each; what is left is an error of
  // one attach, or of one client.
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 &&
      files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  LeaveRseq();
  const bool goes_first = GoFirst();
  loop_ = EpollLoop::Create();
  pool_ = BufferPool::Create(
      static_cast<uint32_t>(options_.memory_bytes / BufferPool::kBufferBytes));
  if (loop_ == nullptr || pool_ == nullptr || !WatchSignals()) {
    Log(LogLevel::kError, "cannot start: %s", strerror(errno));
    return kExitFailure;
  }
  loop_->SetRoundObserver(&give_way_);
  if (options_.root_storage_name == nullptr) {
    trimmer_ = std::make_unique<PoolTrimmer>(pool_.get(), loop_.get());
  }
  if (!StartIo()) return kExitFailure;
  notifier_ = std::make_unique<ServiceNotifier>(loop_.get());
  governor_ = std::make_unique<MergeGovernor>(loop_.get(), &pressure_);
  if (goes_first) governor_->SetListener(OnMerging, nullptr);
  PressureSource::Totals totals;
  knows_pressure_ = pressure_.Read(&totals);
  if (options_.limits.pressure_percent > 0 && !knows_pressure_) {
    Log(LogLevel::kWarning,
        "the kernel does not say how busy the machine is (CONFIG_PSI, psi=1): "
        "--merge-pressure has no effect");
  }
  governor_->SetLimits(options_.limits);
  store_ = std::make_unique<StateStore>(options_.state_directory);
  registry_ =
      std::make_unique<Registry>(Factories(), store_.get(), loop_.get());
  service_ = std::make_unique<Service>(
      registry_.get(), Service::Daemon{[this](proto::DaemonStatus* status) {
                                         FillStatus(status);
                                       },
                                       [this](const proto::Throttle& throttle) {
                                         return Throttle(throttle);
                                       },
                                       [this] { Stop(); }});
  // With a socket that was passed there is nobody to talk to on it but us.
  if (options_.take_over && InheritedSystemdSocket(options_.control_path) < 0) {
    absl::Status over = TakeOver(options_.control_path);
    if (!over.ok()) {
      Log(LogLevel::kError, "%s", std::string(over.message()).c_str());
      return kExitBusy;
    }
  }
  // The socket first: it is what keeps a second daemon from these records.
  auto server = Listen(options_.control_path, service_.get(), Framing::kLength);
  absl::Status ready = server.ok() ? store_->Prepare() : server.status();
  if (ready.ok()) ready = ListenToAndroid();
  if (!ready.ok()) {
    Log(LogLevel::kError, "%s", std::string(ready.message()).c_str());
    return absl::IsAborted(ready) ? kExitBusy : kExitFailure;
  }
  server_ = std::move(*server);
  service_->SetServer(server_.get());
  // Ready is who serves what its predecessor served.
  registry_->Recover([this] {
    if (options_.root_storage_name == nullptr) ForgetCodePages();
    notifier_->Ready();
    NotifyReadyFd(options_.ready_fd);
  });
  loop_->Run();
  // What a disk flushes by itself holds its file; who takes over, when the
  // socket is closed, finds it free.
  flusher_.reset();
  text_server_.reset();
  server_.reset();
  return kExitOk;
}

}  // namespace
}  // namespace dmu

int main(int argc, char** argv) {
  dmu::Options options;
  const int parsed = dmu::ParseOptions(argc, argv, &options);
  if (parsed != 0) return parsed - 1;
  return dmu::Daemon(std::move(options)).Run();
}

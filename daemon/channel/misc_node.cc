// SPDX-License-Identifier: Apache-2.0
#include "daemon/channel/misc_node.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/buffer_pool.h"
#include "daemon/base/log.h"
#include "daemon/channel/header_channel.h"
#include "daemon/channel/stream.h"
#include "daemon/channel/uring_call.h"
#include "daemon/io/unique_fd.h"
#include "dm-user/uapi/dm-user.h"

namespace dmu {

namespace {

int OpenFile(const char* path) {
  return open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

// The mode of a channel that works in this way.
dm_user_channel ModeOf(ChannelWay way, uint64_t features) {
  dm_user_channel mode = {};
  mode.flags = DM_USER_CHANNEL_FENCED;
  if (way == ChannelWay::kStream) return mode;
  mode.flags |= DM_USER_CHANNEL_BATCH;
  if ((features & DM_USER_FEATURE_COALESCE) == 0) return mode;
  mode.flags |= DM_USER_CHANNEL_COALESCE;
  // What one buffer holds is one piece of work.
  mode.coalesce_bytes = BufferPool::kBufferBytes;
  return mode;
}

// As much as the storage's queue would be given in one piece anyway; no buffer
// of the daemon's has to hold it.
constexpr uint32_t kRemapCoalesceBytes = 1 << 20;

// The mode of a channel without data.
dm_user_channel RemapModeOf(ChannelWay way, uint64_t features) {
  dm_user_channel mode = ModeOf(way, features);
  mode.flags |= DM_USER_CHANNEL_USER_COPY | DM_USER_CHANNEL_REMAP;
  if (mode.coalesce_bytes > 0) mode.coalesce_bytes = kRemapCoalesceBytes;
  return mode;
}

// Why there is no such way; nullptr when there is.
const char* WhyNot(ChannelWay way, uint64_t features, const Ring* ring) {
  switch (way) {
    case ChannelWay::kUring:
      if ((features & DM_USER_FEATURE_URING) == 0 ||
          (features & DM_USER_FEATURE_SEGMENTS) == 0) {
        return "this dm-user.ko is older than batches through io_uring";
      }
      if ((features & DM_USER_FEATURE_URING_PARKS) == 0) {
        return "this kernel's io_uring would keep a thread of the daemon for "
               "each device (it takes Linux 6.8)";
      }
      if (ring == nullptr) {
        return "the daemon has no io_uring (--io sync, or the kernel gives "
               "none)";
      }
      return nullptr;
    case ChannelWay::kBatch:
      return (features & DM_USER_FEATURE_BATCH) == 0
                 ? "this dm-user.ko is older than batches"
                 : nullptr;
    default:
      return nullptr;
  }
}

// nullptr: the channel shall work in this way, which for kUring has reserved a
// place of the ring. Else why it cannot, and nothing is reserved.
const char* ReserveWay(ChannelWay way, uint64_t features, Ring* ring) {
  const char* why_not = WhyNot(way, features, ring);
  if (why_not == nullptr && way == ChannelWay::kUring &&
      !ring->ReservePlace()) {
    why_not =
        "as many devices as the daemon's io_uring has room for use it already";
  }
  return why_not;
}

// Why another way than kUring is better, though it may be had; nullptr: it is
// not.
const char* NotWorthIt(const Geometry& geometry, uint64_t features) {
  if (geometry.remap) {
    return (features & DM_USER_FEATURE_WAKE) != 0
               ? "one call that answers, fetches and waits costs less"
               : nullptr;
  }
  // A call that waits again takes no late answer along: each is one more.
  return geometry.direct_io
             ? "answers come late past the page cache, and cost less so"
             : nullptr;
}

std::string NodePath(const std::string& name) {
  return absl::StrCat("/dev/dm-user/", name);
}

// Which device of the table it is, if it is one of them.
std::optional<uint32_t> FindDevice(int fd, dev_t number) {
  dm_user_device device = {};
  for (; ioctl(fd, DM_USER_IOC_DEVICE, &device) == 0; ++device.device) {
    if (makedev(device.major, device.minor) == number) return device.device;
  }
  return std::nullopt;
}

// The extents of the table. Has a file of its own, which serves nothing: that
// of the stream may be closed and opened anew.
class MiscNodeRedirect : public Redirect {
 public:
  MiscNodeRedirect(UniqueFd fd, uint32_t device)
      : fd_(std::move(fd)), device_(device) {}

  bool Add(const Extent* extents, size_t count) override {
    if (full_) return false;
    // A piece that does not fit leaves those before it.
    dm_user_extent pieces[kPieces];
    while (count > 0) {
      const size_t n = std::min(count, kPieces);
      for (size_t i = 0; i < n; ++i) {
        pieces[i] = {};
        pieces[i].first_sector = extents[i].first_sector;
        pieces[i].sectors = extents[i].sectors;
        pieces[i].device_sector = extents[i].base_sector;
        pieces[i].device = device_;
      }
      dm_user_extents add = {};
      add.extents = reinterpret_cast<uintptr_t>(pieces);
      add.count = static_cast<uint32_t>(n);
      if (ioctl(fd_.get(), DM_USER_IOC_EXTENTS_ADD, &add) != 0) {
        full_ = true;
        return false;
      }
      extents += n;
      count -= n;
    }
    return true;
  }

  void Clear() override {
    // Nobody waits: what reads redirected see stays as it is.
    dm_user_revoke revoke = {};
    revoke.flags = DM_USER_REVOKE_ALL;
    ioctl(fd_.get(), DM_USER_IOC_EXTENTS_REVOKE, &revoke);
    full_ = false;
  }

 private:
  static constexpr size_t kPieces = 256;
  const UniqueFd fd_;
  const uint32_t device_;
  bool full_ = false;
};

// nullptr when the table does not name the device. What an earlier daemon has
// told is gone: nobody knows what it was worth.
std::unique_ptr<Redirect> OpenRedirect(const std::string& path, dev_t base) {
  if (base == 0) return nullptr;
  UniqueFd fd(OpenFile(path.c_str()));
  if (!fd.valid()) return nullptr;
  const std::optional<uint32_t> device = FindDevice(fd.get(), base);
  if (!device.has_value()) return nullptr;
  auto redirect = std::make_unique<MiscNodeRedirect>(std::move(fd), *device);
  redirect->Clear();
  return redirect;
}

// A StreamChannel that knows the path it came from, and how it works.
class MiscNodeChannel : public Channel {
 public:
  struct Parts {
    std::string path;
    UniqueFd fd;
    uint32_t slots = 0;
    ChannelWay way = ChannelWay::kStream;
    dm_user_channel mode = {};
    std::unique_ptr<BatchCall> call;  // kUring
    std::unique_ptr<Redirect> redirect;
  };

  MiscNodeChannel(Parts parts, Loop* loop, BufferPool* pool)
      : path_(std::move(parts.path)),
        way_(parts.way),
        mode_(parts.mode),
        call_(std::move(parts.call)),
        redirect_(std::move(parts.redirect)),
        stream_(std::move(parts.fd),
                {.slots = parts.slots,
                 .batch = way_ != ChannelWay::kStream,
                 .call = call_.get(),
                 .reopen = Reopen,
                 .reopen_context = this},
                loop, pool) {}

  void Start(RequestSink* sink) override { stream_.Start(sink); }
  void Stop(Task* done) override { stream_.Stop(done); }
  Redirect* redirect() override { return redirect_.get(); }
  const char* way() const override { return ChannelWayName(way_); }

 private:
  static int Reopen(void* context) {
    auto* self = static_cast<MiscNodeChannel*>(context);
    const int fd = OpenFile(self->path_.c_str());
    if (fd < 0 || ioctl(fd, DM_USER_IOC_SET_CHANNEL, &self->mode_) == 0) {
      return fd;
    }
    // Another module is behind the name now, and it is less.
    close(fd);
    errno = ENODEV;
    return -1;
  }

  const std::string path_;
  const ChannelWay way_;
  dm_user_channel mode_;
  const std::unique_ptr<BatchCall> call_;
  const std::unique_ptr<Redirect> redirect_;
  StreamChannel stream_;
};

// A HeaderChannel with its call.
class MiscNodeHeaders : public Channel {
 public:
  MiscNodeHeaders(UniqueFd fd, ChannelWay way, HeaderChannel::Options options,
                  std::unique_ptr<BatchCall> call, Loop* loop)
      : way_(way),
        call_(std::move(call)),
        headers_(std::move(fd), options, loop) {}

  void Start(RequestSink* sink) override { headers_.Start(sink); }
  void Stop(Task* done) override { headers_.Stop(done); }
  const char* way() const override { return ChannelWayName(way_); }

 private:
  const ChannelWay way_;
  const std::unique_ptr<BatchCall> call_;
  HeaderChannel headers_;
};

// Where the places of a back end with Geometry::remap are.
absl::StatusOr<uint32_t> FindRemapDevice(const std::string& path, int fd,
                                         uint64_t features, dev_t number) {
  if ((features & DM_USER_FEATURE_REMAP) == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        path,
        ": this dm-user.ko is older than answers by place; load the one that "
        "comes with this daemon, or map without --direct-io remap"));
  }
  const std::optional<uint32_t> device = FindDevice(fd, number);
  if (device.has_value()) return *device;
  return absl::FailedPreconditionError(absl::StrCat(
      path, ": the table does not name ", major(number), ":", minor(number),
      " for redirect, where the data is; create the device with "
      "'dmuserctl map --direct-io remap'"));
}

}  // namespace

const char* ChannelWayName(ChannelWay way) {
  switch (way) {
    case ChannelWay::kUring:
      return "uring";
    case ChannelWay::kBatch:
      return "batch";
    case ChannelWay::kStream:
      return "stream";
    default:
      return "auto";
  }
}

std::optional<ChannelWay> ParseChannelWay(std::string_view name) {
  for (const ChannelWay way : {ChannelWay::kAuto, ChannelWay::kUring,
                               ChannelWay::kBatch, ChannelWay::kStream}) {
    if (name == ChannelWayName(way)) return way;
  }
  return std::nullopt;
}

absl::StatusOr<std::unique_ptr<Channel>> OpenMiscNode(
    const std::string& name, const Geometry& geometry,
    const MiscNodeOptions& options, Loop* loop, BufferPool* pool) {
  const std::string path = NodePath(name);
  UniqueFd fd(OpenFile(path.c_str()));
  if (!fd.valid() && (errno == ENOENT || errno == ENXIO || errno == ENODEV)) {
    return absl::UnavailableError(absl::StrCat(
        path,
        ": there is no such node; load dm-user.ko and create the device "
        "(dmuserctl map does both in order)"));
  }
  if (!fd.valid() && (errno == EACCES || errno == EPERM)) {
    return absl::PermissionDeniedError(
        absl::StrCat(path, ": not permitted; run dmuserd as root"));
  }
  if (!fd.valid()) {
    return absl::InternalError(
        absl::StrCat(path, ": cannot open: ", strerror(errno)));
  }
  dm_user_info info = {};
  if (ioctl(fd.get(), DM_USER_IOC_INFO, &info) != 0) {
    return absl::UnavailableError(absl::StrCat(
        path,
        ": this dm-user does not tell its size and cannot be polled; "
        "load the dm-user.ko that comes with this daemon"));
  }
  if (info.sectors * kSectorBytes != geometry.size_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": the device has ", info.sectors,
                     " sectors, what it is to show "
                     "has ",
                     geometry.size_bytes / kSectorBytes,
                     "; create the device with that length"));
  }
  MiscNodeChannel::Parts parts;
  const char* why_not = nullptr;
  if (options.way == ChannelWay::kAuto) {
    parts.way = ChannelWay::kStream;
    for (const ChannelWay way : {ChannelWay::kUring, ChannelWay::kBatch}) {
      const char* lacks = way == ChannelWay::kUring
                              ? NotWorthIt(geometry, info.features)
                              : nullptr;
      if (lacks == nullptr) {
        lacks = ReserveWay(way, info.features, options.ring);
      }
      if (lacks == nullptr) {
        parts.way = way;
        break;
      }
      if (why_not == nullptr) why_not = lacks;
    }
  } else {
    parts.way = options.way;
    why_not = ReserveWay(options.way, info.features, options.ring);
    if (why_not != nullptr) {
      return absl::FailedPreconditionError(absl::StrCat(
          path, ": --channel ", ChannelWayName(options.way), ": ", why_not,
          "; start dmuserd with --channel auto, which takes what there is"));
    }
  }
  uint32_t device = 0;
  parts.mode = ModeOf(parts.way, info.features);
  if (geometry.remap) {
    auto found =
        FindRemapDevice(path, fd.get(), info.features, geometry.base_device);
    if (!found.ok()) return found.status();
    if (parts.way == ChannelWay::kStream) {
      return absl::FailedPreconditionError(absl::StrCat(
          path, ": answers by place need --channel uring or batch"));
    }
    device = *found;
    parts.mode = RemapModeOf(parts.way, info.features);
  }
  if (parts.way == ChannelWay::kUring) {
    parts.call = std::make_unique<UringCall>(options.ring, parts.mode);
  }
  if (ioctl(fd.get(), DM_USER_IOC_SET_CHANNEL, &parts.mode) != 0) {
    return absl::InternalError(absl::StrCat(path, ": cannot be set to ",
                                            ChannelWayName(parts.way), ": ",
                                            strerror(errno)));
  }
  const char* why = options.way != ChannelWay::kAuto ? "asked for"
                    : why_not != nullptr             ? why_not
                                                     : "the best there is";
  LogWith(LogLevel::kInfo, {.device = name.c_str()}, "%s: channel %s: %s",
          name.c_str(), ChannelWayName(parts.way), why);
  if (geometry.remap) {
    const HeaderChannel::Options headers = {
        .device = device,
        .call = parts.call.get(),
        .sleeps = (info.features & DM_USER_FEATURE_WAKE) != 0};
    return std::unique_ptr<Channel>(std::make_unique<MiscNodeHeaders>(
        std::move(fd), parts.way, headers, std::move(parts.call), loop));
  }
  parts.path = path;
  parts.slots = geometry.depth;
  parts.fd = std::move(fd);
  parts.redirect = OpenRedirect(path, geometry.base_device);
  return std::unique_ptr<Channel>(
      std::make_unique<MiscNodeChannel>(std::move(parts), loop, pool));
}

bool MiscNodeExists(const std::string& name) {
  return access(NodePath(name).c_str(), F_OK) == 0 || errno != ENOENT;
}

uint32_t MiscNodeBlockBytes(const std::string& name) {
  const UniqueFd fd(OpenFile(NodePath(name).c_str()));
  dm_user_info info = {};
  if (!fd.valid() || ioctl(fd.get(), DM_USER_IOC_INFO, &info) != 0) {
    return kSectorBytes;
  }
  return std::max<uint32_t>(info.block_bytes, kSectorBytes);
}

bool MiscNodeHolds(const std::string& name, dev_t device) {
  const UniqueFd fd(OpenFile(NodePath(name).c_str()));
  return fd.valid() && FindDevice(fd.get(), device).has_value();
}

}  // namespace dmu

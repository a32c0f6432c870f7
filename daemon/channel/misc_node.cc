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
#include "daemon/channel/stream.h"
#include "daemon/io/unique_fd.h"
#include "dm-user/uapi/dm-user.h"

namespace dmu {

namespace {

// Without the promise the target falls back to its policy for such writes; a
// dm-user that does not know the ioctl has no promise to take.
// *batch: in, whether to ask for batches; out, whether the file has them.
int Open(const char* path, bool* batch) {
  const int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return -1;
  dm_user_channel channel = {};
  if (*batch) {
    channel.flags = DM_USER_CHANNEL_FENCED | DM_USER_CHANNEL_BATCH |
                    DM_USER_CHANNEL_COALESCE;
    // What one buffer holds is one piece of work.
    channel.coalesce_bytes = BufferPool::kBufferBytes;
    if (ioctl(fd, DM_USER_IOC_SET_CHANNEL, &channel) == 0) return fd;
    channel.coalesce_bytes = 0;
    channel.flags = DM_USER_CHANNEL_FENCED | DM_USER_CHANNEL_BATCH;
    if (ioctl(fd, DM_USER_IOC_SET_CHANNEL, &channel) == 0) return fd;
  }
  *batch = false;
  channel.flags = DM_USER_CHANNEL_FENCED;
  ioctl(fd, DM_USER_IOC_SET_CHANNEL, &channel);
  return fd;
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
  UniqueFd fd(open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) return nullptr;
  const std::optional<uint32_t> device = FindDevice(fd.get(), base);
  if (!device.has_value()) return nullptr;
  auto redirect = std::make_unique<MiscNodeRedirect>(std::move(fd), *device);
  redirect->Clear();
  return redirect;
}

// A StreamChannel that knows the path it came from.
class MiscNodeChannel : public Channel {
 public:
  MiscNodeChannel(std::string path, UniqueFd fd, bool batch, uint32_t slots,
                  std::unique_ptr<Redirect> redirect, Loop* loop,
                  BufferPool* pool)
      : path_(std::move(path)),
        batch_(batch),
        redirect_(std::move(redirect)),
        stream_(std::move(fd),
                {.slots = slots,
                 .batch = batch,
                 .reopen = Reopen,
                 .reopen_context = this},
                loop, pool) {}

  void Start(RequestSink* sink) override { stream_.Start(sink); }
  void Stop(Task* done) override { stream_.Stop(done); }
  Redirect* redirect() override { return redirect_.get(); }

 private:
  static int Reopen(void* context) {
    auto* self = static_cast<MiscNodeChannel*>(context);
    bool batch = self->batch_;
    const int fd = Open(self->path_.c_str(), &batch);
    if (fd < 0 || batch == self->batch_) return fd;
    // Another module is behind the name now, and it is less.
    close(fd);
    errno = ENODEV;
    return -1;
  }

  const std::string path_;
  const bool batch_;
  const std::unique_ptr<Redirect> redirect_;
  StreamChannel stream_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Channel>> OpenMiscNode(const std::string& name,
                                                      const Geometry& geometry,
                                                      Loop* loop,
                                                      BufferPool* pool) {
  const std::string path = NodePath(name);
  bool batch = true;
  UniqueFd fd(Open(path.c_str(), &batch));
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
  return std::unique_ptr<Channel>(std::make_unique<MiscNodeChannel>(
      path, std::move(fd), batch, geometry.depth,
      OpenRedirect(path, geometry.base_device), loop, pool));
}

uint32_t MiscNodeBlockBytes(const std::string& name) {
  const UniqueFd fd(
      open(NodePath(name).c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  dm_user_info info = {};
  if (!fd.valid() || ioctl(fd.get(), DM_USER_IOC_INFO, &info) != 0) {
    return kSectorBytes;
  }
  return std::max<uint32_t>(info.block_bytes, kSectorBytes);
}

bool MiscNodeHolds(const std::string& name, dev_t device) {
  const UniqueFd fd(
      open(NodePath(name).c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  return fd.valid() && FindDevice(fd.get(), device).has_value();
}

}  // namespace dmu

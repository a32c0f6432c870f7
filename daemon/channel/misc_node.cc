// SPDX-License-Identifier: Apache-2.0
#include "daemon/channel/misc_node.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

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

// A StreamChannel that knows the path it came from.
class MiscNodeChannel : public Channel {
 public:
  MiscNodeChannel(std::string path, UniqueFd fd, bool batch, Loop* loop,
                  BufferPool* pool)
      : path_(std::move(path)),
        batch_(batch),
        stream_(std::move(fd),
                {.batch = batch, .reopen = Reopen, .reopen_context = this},
                loop, pool) {}

  void Start(RequestSink* sink) override { stream_.Start(sink); }
  void Stop(Task* done) override { stream_.Stop(done); }

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
  StreamChannel stream_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Channel>> OpenMiscNode(const std::string& name,
                                                      const Geometry& geometry,
                                                      Loop* loop,
                                                      BufferPool* pool) {
  const std::string path = absl::StrCat("/dev/dm-user/", name);
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
      path, std::move(fd), batch, loop, pool));
}

}  // namespace dmu

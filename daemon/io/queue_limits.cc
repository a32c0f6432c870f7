// SPDX-License-Identifier: Apache-2.0
#include "daemon/io/queue_limits.h"

#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "daemon/base/types.h"

namespace dmu {
namespace {

constexpr uint64_t kBlockSectors = 8;

// Below the device's folder in sysfs or, for a partition, the disk's. Empty:
// there is none.
std::string SysfsPath(uint64_t number, const char* name) {
  for (const char* up : {"", "../"}) {
    char path[96];
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s%s", major(number),
             minor(number), up, name);
    if (access(path, F_OK) == 0) return path;
  }
  return "";
}

// 0: not known.
uint64_t SysfsNumber(uint64_t number, const char* name) {
  const std::string path = SysfsPath(number, name);
  FILE* file = path.empty() ? nullptr : fopen(path.c_str(), "re");
  if (file == nullptr) return 0;
  unsigned long long value = 0;
  if (fscanf(file, "%llu", &value) != 1) value = 0;
  fclose(file);
  return value;
}

}  // namespace

QueueLimits AskQueueLimits(int fd) {
  QueueLimits limits;
  struct stat info = {};
  if (fstat(fd, &info) != 0 || !S_ISBLK(info.st_mode)) return limits;
  limits.hardware = !SysfsPath(info.st_rdev, "mq").empty();
  if (!limits.hardware) return limits;
  uint16_t sectors = 0;  // 65535 and more are that
  if (ioctl(fd, BLKSECTGET, &sectors) == 0 && sectors >= kBlockSectors) {
    limits.transfer_bytes_max =
        sectors / kBlockSectors * kBlockSectors * kSectorBytes;
  }
  const uint64_t count = SysfsNumber(info.st_rdev, "queue/nr_requests");
  if (count > 0) limits.depth = static_cast<uint32_t>(count);
  return limits;
}

QueueOps AskQueueOps(int fd) {
  QueueOps ops;
  struct stat info = {};
  if (fstat(fd, &info) != 0 || !S_ISBLK(info.st_mode)) return ops;
  ops.discard = SysfsNumber(info.st_rdev, "queue/discard_max_bytes") > 0;
  ops.write_zeroes =
      SysfsNumber(info.st_rdev, "queue/write_zeroes_max_bytes") > 0;
  return ops;
}

}  // namespace dmu

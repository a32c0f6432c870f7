// SPDX-License-Identifier: Apache-2.0
//
// See redirect.h.
#include "test/vm/redirect.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "test/vm/dm.h"

namespace dmu {

int g_storm_seconds = 4;

std::string RamDisk(int index) {
  static const bool loaded =
      system(("modprobe brd max_part=0 rd_nr=" + std::to_string(kRamDisks) +
              " rd_size=" + std::to_string(kRamDiskSectors / 2))
                 .c_str()) == 0;
  return loaded ? "/dev/ram" + std::to_string(index) : "";
}

bool WriteDevice(const std::string& path, uint64_t sector,
                 const std::vector<uint8_t>& data) {
  Buffer buffer(data.size());
  memcpy(buffer.data(), data.data(), data.size());
  const int fd = open(path.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC);
  const bool good =
      pwrite(fd, buffer.data(), data.size(),
             static_cast<off_t>(sector * 512)) == ssize_t(data.size());
  close(fd);
  return good;
}

std::vector<uint8_t> ReadDevice(const std::string& path, uint64_t sector,
                                size_t bytes) {
  Buffer buffer(bytes);
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  const ssize_t n =
      pread(fd, buffer.data(), bytes, static_cast<off_t>(sector * 512));
  close(fd);
  return n == ssize_t(bytes) ? buffer.Copy() : std::vector<uint8_t>();
}

AddResult TryAdd(Channel* channel, const std::vector<dm_user_extent>& extents) {
  dm_user_extents add = {};
  add.extents = reinterpret_cast<uintptr_t>(extents.data());
  add.count = static_cast<uint32_t>(extents.size());
  const int error =
      ioctl(channel->fd(), DM_USER_IOC_EXTENTS_ADD, &add) < 0 ? errno : 0;
  return {error, add.wrong, add.reason};
}

int Add(Channel* channel, const std::vector<dm_user_extent>& extents) {
  return TryAdd(channel, extents).error;
}

int Revoke(Channel* channel, uint64_t first_sector, uint64_t sectors,
           uint32_t timeout_ms) {
  dm_user_revoke revoke = {};
  revoke.first_sector = first_sector;
  revoke.sectors = sectors;
  revoke.timeout_ms = timeout_ms;
  return ioctl(channel->fd(), DM_USER_IOC_EXTENTS_REVOKE, &revoke) < 0 ? errno
                                                                       : 0;
}

int RevokeAll(Channel* channel, uint32_t timeout_ms) {
  dm_user_revoke revoke = {};
  revoke.timeout_ms = timeout_ms;
  revoke.flags = DM_USER_REVOKE_ALL;
  return ioctl(channel->fd(), DM_USER_IOC_EXTENTS_REVOKE, &revoke) < 0 ? errno
                                                                       : 0;
}

std::vector<std::string> Extents(Channel* channel, uint64_t first_sector,
                                 uint32_t max) {
  std::vector<dm_user_extent> extents(max);
  dm_user_extents get = {};
  get.extents = reinterpret_cast<uintptr_t>(extents.data());
  get.first_sector = first_sector;
  get.count = max;
  if (ioctl(channel->fd(), DM_USER_IOC_EXTENTS_GET, &get) < 0) {
    return {"errno " + std::to_string(errno)};
  }
  std::vector<std::string> lines;
  for (uint32_t i = 0; i < get.count; ++i) {
    const dm_user_extent& e = extents[i];
    lines.push_back(std::to_string(e.first_sector) + "+" +
                    std::to_string(e.sectors) + " " + std::to_string(e.device) +
                    "@" + std::to_string(e.device_sector) +
                    (e.flags == DM_USER_EXTENT_WRITABLE ? " w" : ""));
  }
  return lines;
}

dm_user_extent Extent(uint64_t first_sector, uint64_t sectors, uint32_t device,
                      uint64_t device_sector, uint32_t flags) {
  dm_user_extent e = {};
  e.first_sector = first_sector;
  e.sectors = sectors;
  e.device = device;
  e.device_sector = device_sector;
  e.flags = flags;
  return e;
}

std::string RedirectWords(uint32_t max_extents,
                          const std::vector<std::string>& devices,
                          const std::string& more) {
  std::string words = (more.empty() ? "" : more + " ") + "redirect " +
                      std::to_string(max_extents) + " " +
                      std::to_string(devices.size());
  for (const std::string& device : devices) {
    words += " " + device;
  }
  return std::to_string(Split(words).size()) + " " + words;
}

}  // namespace dmu

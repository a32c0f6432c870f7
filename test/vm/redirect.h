// SPDX-License-Identifier: Apache-2.0
//
// Redirect, for the kernel tests: RAM disks to redirect to, and the ioctls
// about extents, one method each. Needs root and the module brd.
#ifndef TEST_VM_REDIRECT_H_
#define TEST_VM_REDIRECT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "dm-user/uapi/dm-user.h"
#include "test/vm/channel.h"

namespace dmu {

constexpr uint32_t kForeverMs = UINT32_MAX;
constexpr uint64_t kRamDiskSectors = 20480;  // 10 MiB each
constexpr int kRamDisks = 2;

// Loads the module if need be; "/dev/ram<index>", or "" without it.
std::string RamDisk(int index);

// O_DIRECT, whole; false if anything is missing.
bool WriteDevice(const std::string& path, uint64_t sector,
                 const std::vector<uint8_t>& data);
std::vector<uint8_t> ReadDevice(const std::string& path, uint64_t sector,
                                size_t bytes);

// What the ioctl says of an attempt to add.
struct AddResult {
  int error;  // 0 or errno
  uint32_t wrong;
  uint32_t reason;
};

AddResult TryAdd(Channel* channel, const std::vector<dm_user_extent>& extents);
// 0 or errno.
int Add(Channel* channel, const std::vector<dm_user_extent>& extents);
int Revoke(Channel* channel, uint64_t first_sector, uint64_t sectors,
           uint32_t timeout_ms = kForeverMs);
int RevokeAll(Channel* channel, uint32_t timeout_ms = kForeverMs);
// All extents from `first_sector` on, one line each:
// "<first>+<sectors> <device>@<sector>[ w]", or "errno <n>".
std::vector<std::string> Extents(Channel* channel, uint64_t first_sector = 0,
                                 uint32_t max = 4096);

dm_user_extent Extent(uint64_t first_sector, uint64_t sectors, uint32_t device,
                      uint64_t device_sector, uint32_t flags = 0);

// The words of a table's feature list for redirect to `devices`.
std::string RedirectWords(uint32_t max_extents,
                          const std::vector<std::string>& devices,
                          const std::string& more = "");

// How long a storm lasts: 4, or what --storm=SECONDS says.
extern int g_storm_seconds;

}  // namespace dmu

#endif  // TEST_VM_REDIRECT_H_

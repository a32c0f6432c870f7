// SPDX-License-Identifier: Apache-2.0
//
// What the guest of tools/bench needs and no shell can do:
//
//   bench_guest extents NAME COUNT SECTORS
//       has the target NAME redirect its first SECTORS sectors to its device 0,
//       in COUNT extents of one size. No two are neighbours on both sides: the
//       kernel would make one of them.
//   bench_guest images OLD NEW MIB
//       writes an old and a new image of which seven eighths are the same.
//       A block compresses to about a third, as system files do.
//   bench_guest changes OLD NEW TO
//       writes to TO the blocks of NEW that OLD has otherwise.
//
// Deterministic: instructions are counted. Ends with 1 and a sentence on any
// failure.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "dm-user/uapi/dm-user.h"

namespace {

constexpr size_t kBlockBytes = 4096;
// Changes come in runs, as files do: so many blocks of each such group.
constexpr uint64_t kGroupBlocks = 32;
constexpr uint64_t kChangedBlocks = 4;

using Block = std::vector<uint8_t>;

int Fail(const std::string& what) {
  fprintf(stderr, "bench_guest: %s: %s\n", what.c_str(), strerror(errno));
  return 1;
}

int AddExtents(const std::string& name, uint64_t count, uint64_t sectors) {
  const uint64_t each = sectors / count;
  std::vector<dm_user_extent> extents(count);
  for (uint64_t i = 0; i < count; ++i) {
    // Pairs change places; one that is left over has no other neighbour there.
    const uint64_t at = (i ^ 1) < count ? i ^ 1 : i;
    extents[i].first_sector = i * each;
    extents[i].sectors = each;
    extents[i].device_sector = at * each;
    extents[i].flags = DM_USER_EXTENT_WRITABLE;
  }
  const std::string node = "/dev/dm-user/" + name;
  const int fd = open(node.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return Fail(node);
  dm_user_extents add = {};
  add.extents = reinterpret_cast<uintptr_t>(extents.data());
  add.count = static_cast<uint32_t>(count);
  if (ioctl(fd, DM_USER_IOC_EXTENTS_ADD, &add) != 0) {
    return Fail(node + ": extent " + std::to_string(add.wrong));
  }
  return close(fd) == 0 ? 0 : Fail(node);
}

// Lines of text with a word in each that is nowhere else.
void Fill(std::mt19937_64* random, Block* block) {
  constexpr char kLine[] =
      "0123456789abcdef: what one line says, and the next one as well \n";
  constexpr size_t kLineBytes = sizeof(kLine) - 1;
  constexpr size_t kWordBytes = 16;
  static_assert(kBlockBytes % kLineBytes == 0);
  for (size_t i = 0; i < kBlockBytes; i += kLineBytes) {
    uint8_t* to = block->data() + i;
    memcpy(to, kLine, kLineBytes);
    uint64_t word = (*random)();
    for (size_t digit = 0; digit < kWordBytes; ++digit, word >>= 4) {
      to[digit] = static_cast<uint8_t>(kLine[word % 16]);
    }
  }
}

bool WriteBlock(int fd, uint64_t index, const Block& block) {
  return pwrite(fd, block.data(), kBlockBytes,
                static_cast<off_t>(index * kBlockBytes)) ==
         static_cast<ssize_t>(kBlockBytes);
}

bool ReadBlock(int fd, uint64_t index, Block* block) {
  return pread(fd, block->data(), kBlockBytes,
               static_cast<off_t>(index * kBlockBytes)) ==
         static_cast<ssize_t>(kBlockBytes);
}

int MakeImages(const char* old_path, const char* new_path, uint64_t mib) {
  const int old_fd = open(old_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (old_fd < 0) return Fail(old_path);
  const int new_fd = open(new_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (new_fd < 0) return Fail(new_path);
  std::mt19937_64 random(1);
  Block block(kBlockBytes);
  for (uint64_t i = 0; i < (mib << 20) / kBlockBytes; ++i) {
    Fill(&random, &block);
    if (!WriteBlock(old_fd, i, block)) return Fail(old_path);
    if (i % kGroupBlocks < kChangedBlocks) Fill(&random, &block);
    if (!WriteBlock(new_fd, i, block)) return Fail(new_path);
  }
  return fsync(old_fd) == 0 && fsync(new_fd) == 0 ? 0 : Fail("fsync");
}

int WriteChanges(const char* old_path, const char* new_path,
                 const char* to_path) {
  const int old_fd = open(old_path, O_RDONLY | O_CLOEXEC);
  if (old_fd < 0) return Fail(old_path);
  const int new_fd = open(new_path, O_RDONLY | O_CLOEXEC);
  if (new_fd < 0) return Fail(new_path);
  const int to_fd = open(to_path, O_WRONLY | O_CLOEXEC);
  if (to_fd < 0) return Fail(to_path);
  Block before(kBlockBytes);
  Block after(kBlockBytes);
  for (uint64_t i = 0; ReadBlock(new_fd, i, &after); ++i) {
    if (!ReadBlock(old_fd, i, &before)) return Fail(old_path);
    if (before != after && !WriteBlock(to_fd, i, after)) return Fail(to_path);
  }
  return fsync(to_fd) == 0 ? 0 : Fail(to_path);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc > 1 ? argv[1] : "";
  if (argc == 5 && verb == "extents") {
    return AddExtents(argv[2], strtoull(argv[3], nullptr, 10),
                      strtoull(argv[4], nullptr, 10));
  }
  if (argc == 5 && verb == "images") {
    return MakeImages(argv[2], argv[3], strtoull(argv[4], nullptr, 10));
  }
  if (argc == 5 && verb == "changes") {
    return WriteChanges(argv[2], argv[3], argv[4]);
  }
  fprintf(stderr, "usage: see the head of bench_guest.cc\n");
  return 2;
}

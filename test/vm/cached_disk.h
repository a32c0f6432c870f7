// SPDX-License-Identifier: Apache-2.0
//
// cached_disk.h - a disk with a volatile cache, and what a power cut may leave
// of it, shown as a file.
//
// A write goes to the cache, a flush empties it. A power cut keeps any of the
// writes in the cache, whole or sector by sector; of two that overlap and are
// both kept, the later one wins. Files are in memory, and going from one state
// to the next costs what differs.
#ifndef TEST_VM_CACHED_DISK_H_
#define TEST_VM_CACHED_DISK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/base/types.h"

namespace dmu {

class CachedDisk {
 public:
  // What of the cache a power cut keeps.
  struct Choice {
    enum class Kind : uint8_t {
      kNone,
      kAll,
      kSome,  // each write with a chance of keep / 256
      kTorn,  // each sector with that chance
      // A disk that lies: what the last flush was for is lost, what was written
      // after it is kept. To see that a test notices.
      kLostFlush,
    };
    Kind kind = Kind::kNone;
    uint32_t keep = 128;
    uint64_t seed = 0;
  };

  // Ends the process when there is no memory.
  explicit CachedDisk(std::vector<uint8_t> initial);
  CachedDisk(const CachedDisk&) = delete;
  CachedDisk& operator=(const CachedDisk&) = delete;
  ~CachedDisk();

  // Inside the disk; `data` must outlive it.
  void Write(uint64_t offset, ConstByteSpan data);
  void Flush();

  size_t cached_writes() const { return cache_.size(); }
  // Whether the last flush made anything durable that was not so before.
  bool flush_mattered() const { return flush_mattered_; }

  // Makes the file what the disk would be.
  void Show(const Choice& choice);
  // The file was written by somebody else: Show must make all of it again.
  void Forget();

  // The file, for whoever opens it by name; the same as a mapping.
  const std::string& path() const { return path_; }
  ConstByteSpan shown() const { return shown_; }

 private:
  struct Piece {
    uint64_t offset;
    ConstByteSpan data;
  };
  void Put(const Piece& piece);

  // The disk without `flushed_` and `cache_`.
  std::vector<uint8_t> durable_;
  std::vector<Piece> flushed_;
  std::vector<Piece> cache_;
  bool flush_mattered_ = false;

  int fd_ = -1;
  std::string path_;
  ByteSpan shown_;
  // Where the file is not `durable_`; data for its length alone.
  std::vector<Piece> differs_;
};

}  // namespace dmu

#endif  // TEST_VM_CACHED_DISK_H_

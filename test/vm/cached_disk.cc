// SPDX-License-Identifier: Apache-2.0
//
// See cached_disk.h.
#include "test/vm/cached_disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "daemon/base/check.h"
#include "test/sim/rng.h"

namespace dmu {

CachedDisk::CachedDisk(std::vector<uint8_t> initial)
    : durable_(std::move(initial)) {
  const size_t bytes = durable_.size();
  fd_ = memfd_create("disk", MFD_CLOEXEC);
  void* map = MAP_FAILED;
  if (fd_ >= 0 && ftruncate(fd_, static_cast<off_t>(bytes)) == 0) {
    map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  }
  if (map == MAP_FAILED) {
    perror("a file in memory");
    exit(1);
  }
  shown_ = ByteSpan(static_cast<uint8_t*>(map), bytes);
  path_ = "/proc/self/fd/" + std::to_string(fd_);
  Forget();
}

CachedDisk::~CachedDisk() {
  munmap(shown_.data(), shown_.size());
  close(fd_);
}

void CachedDisk::Write(uint64_t offset, ConstByteSpan data) {
  DMU_CHECK(offset <= durable_.size());
  DMU_CHECK(data.size() <= durable_.size() - offset);
  cache_.push_back({offset, data});
}

void CachedDisk::Flush() {
  for (const Piece& piece : flushed_) {
    memcpy(durable_.data() + piece.offset, piece.data.data(),
           piece.data.size());
    differs_.push_back(piece);
  }
  flushed_ = std::move(cache_);
  cache_.clear();
  flush_mattered_ =
      std::any_of(flushed_.begin(), flushed_.end(), [this](const Piece& piece) {
        return memcmp(durable_.data() + piece.offset, piece.data.data(),
                      piece.data.size()) != 0;
      });
}

void CachedDisk::Put(const Piece& piece) {
  memcpy(shown_.data() + piece.offset, piece.data.data(), piece.data.size());
  differs_.push_back(piece);
}

void CachedDisk::Show(const Choice& choice) {
  for (const Piece& piece : differs_) {
    memcpy(shown_.data() + piece.offset, durable_.data() + piece.offset,
           piece.data.size());
  }
  differs_.clear();
  if (choice.kind != Choice::Kind::kLostFlush) {
    for (const Piece& piece : flushed_) Put(piece);
  }
  if (choice.kind == Choice::Kind::kNone) return;
  sim::Rng rng(choice.seed);
  for (const Piece& piece : cache_) {
    if (choice.kind == Choice::Kind::kTorn) {
      for (uint64_t at = 0; at < piece.data.size(); at += kSectorBytes) {
        if (rng.Below(256) >= choice.keep) continue;
        Put({piece.offset + at, piece.data.subspan(at, kSectorBytes)});
      }
    } else if (choice.kind != Choice::Kind::kSome ||
               rng.Below(256) < choice.keep) {
      Put(piece);
    }
  }
}

void CachedDisk::Forget() { differs_ = {{0, ConstByteSpan(durable_)}}; }

}  // namespace dmu

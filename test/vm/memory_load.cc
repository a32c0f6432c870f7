// SPDX-License-Identifier: Apache-2.0
//
// Makes memory short, and finds again what was in it.
//
// Usage: memory_load hold MIB          fills memory, prints a line, and keeps
// it
//                                      until it is killed
//        memory_load swap MIB PASSES   fills memory and finds all of it again,
//        so
//                                      many times
//        memory_load write FILE MIB    fills a file, and syncs it
//        memory_load check FILE MIB    finds all of it again
// Ends with 0, or with 1 and a line about what is wrong.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

namespace {

constexpr size_t kPage = 4096, kWords = kPage / sizeof(uint64_t);
constexpr size_t kChunkPages = 16;

// The first and the last word of a page say which it is, and of which pass.
void FillPage(uint64_t* at, uint64_t page, uint64_t pass) {
  at[0] = (page + 1) * 0x9E3779B97F4A7C15u + pass;
  at[kWords - 1] = ~at[0];
}

bool PageIsGood(const uint64_t* at, uint64_t page, uint64_t pass) {
  return at[0] == (page + 1) * 0x9E3779B97F4A7C15u + pass &&
         at[kWords - 1] == ~at[0];
}

int Wrong(uint64_t page) {
  fprintf(stderr, "memory_load: page %llu is wrong\n",
          static_cast<unsigned long long>(page));
  return 1;
}

int Memory(size_t bytes, uint64_t passes, bool hold) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    perror("mmap");
    return 1;
  }
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  auto* at = static_cast<uint64_t*>(memory);
  // Each pass checks what the one before has written, and all but the last
  // write it anew.
  for (uint64_t pass = 0; pass <= passes; ++pass) {
    for (size_t page = 0; page < bytes / kPage; ++page) {
      if (pass > 0 && !PageIsGood(at + page * kWords, page, pass - 1)) {
        return Wrong(page);
      }
      if (pass == 0 || pass < passes) {
        FillPage(at + page * kWords, page, pass);
      }
    }
  }
  if (hold) {
    if (mlock(memory, bytes) != 0) {
      perror("mlock");
      return 1;
    }
    printf("filled\n");
    fflush(stdout);
    for (;;) {
      pause();
    }
  }
  return 0;
}

int File(const char* path, size_t bytes, bool write_it) {
  static uint64_t chunk[kChunkPages * kWords];
  const int fd =
      open(path, write_it ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY, 0644);
  if (fd < 0) {
    perror(path);
    return 1;
  }
  for (uint64_t page = 0; page < bytes / kPage; page += kChunkPages) {
    for (size_t i = 0; write_it && i < kChunkPages; ++i) {
      FillPage(chunk + i * kWords, page + i, 0);
    }
    const ssize_t n = write_it ? write(fd, chunk, sizeof(chunk))
                               : read(fd, chunk, sizeof(chunk));
    if (n != static_cast<ssize_t>(sizeof(chunk))) {
      perror(path);
      return 1;
    }
    for (size_t i = 0; i < kChunkPages; ++i) {
      if (!PageIsGood(chunk + i * kWords, page + i, 0)) {
        return Wrong(page + i);
      }
    }
  }
  if (write_it && fsync(fd) != 0) {
    perror("fsync");
    return 1;
  }
  return close(fd) != 0;
}

size_t Mib(const char* text) { return strtoul(text, nullptr, 10) << 20; }

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 2 ? argv[1] : "";
  if (mode == "hold" && argc == 3) {
    return Memory(Mib(argv[2]), 0, /*hold=*/true);
  }
  if (mode == "swap" && argc == 4) {
    return Memory(Mib(argv[2]), strtoul(argv[3], nullptr, 10),
                  /*hold=*/false);
  }
  if ((mode == "write" || mode == "check") && argc == 4) {
    return File(argv[2], Mib(argv[3]), mode == "write");
  }
  fprintf(stderr,
          "usage: %s hold MIB | swap MIB PASSES | write FILE MIB | "
          "check FILE MIB\n",
          argv[0]);
  return 2;
}

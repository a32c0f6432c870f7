// SPDX-License-Identifier: Apache-2.0
//
// A daemon that memory may be swapped to, for guest scripts: everything it
// needs for a request is in locked memory before the first one comes, and its
// I/O goes past the page cache, which would have to find a page first.
//
// Usage: direct_daemon NAME DEVICE. Prints "ready", then serves until the
// target is removed.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>

#include "test/vm/channel.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace {

constexpr size_t kBufferBytes = 1 << 20;

// Moves the payload of one request between channel and disk, through the
// buffer.
bool Move(dmu::Channel* channel, int disk, uint8_t* buffer,
          const dmu::WireHeader& h) {
  uint64_t offset = h.sector * 512;
  for (uint64_t left = h.len; left > 0;) {
    const size_t bytes = std::min<uint64_t>(left, kBufferBytes);
    const bool write_it = h.type == DM_USER_REQ_MAP_WRITE;
    if (!write_it && pread(disk, buffer, bytes, static_cast<off_t>(offset)) !=
                         static_cast<ssize_t>(bytes)) {
      return false;
    }
    for (size_t done = 0; done < bytes;) {
      const ssize_t n = write_it ? channel->Read(buffer + done, bytes - done)
                                 : channel->Write(buffer + done, bytes - done);
      if (n <= 0) {
        return false;
      }
      done += static_cast<size_t>(n);
    }
    if (write_it && pwrite(disk, buffer, bytes, static_cast<off_t>(offset)) !=
                        static_cast<ssize_t>(bytes)) {
      return false;
    }
    offset += bytes;
    left -= bytes;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s NAME DEVICE\n", argv[0]);
    return 2;
  }
  const int disk = open(argv[2], O_RDWR | O_DIRECT | O_CLOEXEC);
  auto* buffer = static_cast<uint8_t*>(aligned_alloc(4096, kBufferBytes));
  dmu::Channel channel(argv[1]);
  if (disk < 0 || buffer == nullptr || !channel.ok() ||
      channel.SetFlags(DM_USER_CHANNEL_FENCED) != 0 ||
      prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0 ||
      mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
    fprintf(stderr, "%s %s: %m\n", argv[1], argv[2]);
    return 1;
  }
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    dmu::WireHeader h;
    const ssize_t n = channel.Read(&h, sizeof(h));
    if (n == -ENOTBLK) {
      return 0;
    }
    if (n != sizeof(h)) {
      return 1;
    }
    const uint64_t type = h.type;
    h.type = DM_USER_RESP_SUCCESS;
    // After the data of a WRITE, before those of a READ.
    if (type == DM_USER_REQ_MAP_READ &&
        channel.Write(&h, sizeof(h)) != sizeof(h)) {
      return 1;
    }
    h.type = type;
    if (!Move(&channel, disk, buffer, h)) {
      return 1;
    }
    if (type != DM_USER_REQ_MAP_READ &&
        channel.ReplyType(h.seq, DM_USER_RESP_SUCCESS) != sizeof(h)) {
      return 1;
    }
  }
}

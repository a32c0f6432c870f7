// SPDX-License-Identifier: Apache-2.0
//
// The smallest real daemon, for guest scripts: serves one control node from a
// file mapped into memory, by blocking reads alone, as a daemon written for
// Android's target would. What it has answered is in the page cache of the
// file, so it may be killed at any moment and started again.
//
// Usage: ram_daemon NAME FILE. Ends with 0 when the target is removed.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test/vm/channel.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s NAME FILE\n", argv[0]);
    return 2;
  }
  const int fd = open(argv[2], O_RDWR | O_CLOEXEC);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) {
    perror(argv[2]);
    return 1;
  }
  const auto bytes = static_cast<size_t>(st.st_size);
  void* disk = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (disk == MAP_FAILED) {
    perror("mmap");
    return 1;
  }
  dmu::Channel channel(argv[1]);
  // Memory is written before the reply is: nothing can land later.
  if (!channel.ok() || channel.SetFlags(DM_USER_CHANNEL_FENCED) != 0) {
    fprintf(stderr, "/dev/dm-user/%s: %m\n", argv[1]);
    return 1;
  }
  return dmu::ServeRam(&channel, static_cast<uint8_t*>(disk), bytes) ? 0 : 1;
}

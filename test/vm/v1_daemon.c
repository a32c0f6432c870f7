// SPDX-License-Identifier: Apache-2.0
//
// A daemon as somebody writes it who has read Android's header and nothing
// else: a header of 40 bytes, blocking reads and writes, one request at a time.
// No ioctl, no poll, no flag of this project, and none of its headers either,
// so that it cannot follow them when they change.
//
// Usage: v1_daemon NAME FILE
// Serves /dev/dm-user/NAME from FILE until the device is removed, then ends
// with 0. Any other end of the stream is a failure.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct message {
  uint64_t seq;
  uint64_t type;
  uint64_t flags;
  uint64_t sector;
  uint64_t len;
};

enum { REQ_READ = 0, REQ_WRITE = 1, REQ_FLUSH = 2 };
enum { RESP_SUCCESS = 0, RESP_ERROR = 1, RESP_UNSUPPORTED = 2 };
enum { FLAG_FUA = 0x200, FLAG_PREFLUSH = 0x400 };

static char buffer[65536];

static void die(const char* what) {
  perror(what);
  exit(1);
}

// True if all came; false if the device was removed before the first byte.
static int read_all(int fd, void* to, size_t bytes) {
  size_t done = 0;

  while (done < bytes) {
    ssize_t n = read(fd, (char*)to + done, bytes - done);

    if (n < 0 && errno == ENOTBLK && done == 0) {
      return 0;
    }
    if (n <= 0) {
      die("read from the control node");
    }
    done += (size_t)n;
  }
  return 1;
}

static void write_all(int fd, const void* from, size_t bytes) {
  size_t done = 0;

  while (done < bytes) {
    ssize_t n = write(fd, (const char*)from + done, bytes - done);

    if (n <= 0) {
      die("write to the control node");
    }
    done += (size_t)n;
  }
}

static size_t piece(uint64_t left) {
  return left < sizeof(buffer) ? (size_t)left : sizeof(buffer);
}

static void serve_read(int fd, int disk, struct message* m) {
  uint64_t offset = m->sector * 512, left = m->len;

  m->type = RESP_SUCCESS;
  write_all(fd, m, sizeof(*m));
  while (left > 0) {
    size_t n = piece(left);

    if (pread(disk, buffer, n, (off_t)offset) != (ssize_t)n) {
      die("read the file");
    }
    write_all(fd, buffer, n);
    offset += n;
    left -= n;
  }
}

static void serve_write(int fd, int disk, struct message* m) {
  uint64_t offset = m->sector * 512, left = m->len;

  if ((m->flags & FLAG_PREFLUSH) && fdatasync(disk) != 0) {
    die("fdatasync");
  }
  while (left > 0) {
    size_t n = piece(left);

    if (!read_all(fd, buffer, n)) {
      die("the device went in the middle of a payload");
    }
    if (pwrite(disk, buffer, n, (off_t)offset) != (ssize_t)n) {
      die("write the file");
    }
    offset += n;
    left -= n;
  }
  if ((m->flags & FLAG_FUA) && fdatasync(disk) != 0) {
    die("fdatasync");
  }
  m->type = RESP_SUCCESS;
  write_all(fd, m, sizeof(*m));
}

int main(int argc, char** argv) {
  struct message m;
  char path[256];
  int fd, disk;

  if (argc != 3) {
    fprintf(stderr, "usage: %s NAME FILE\n", argv[0]);
    return 2;
  }
  snprintf(path, sizeof(path), "/dev/dm-user/%s", argv[1]);
  fd = open(path, O_RDWR);
  if (fd < 0) {
    die(path);
  }
  disk = open(argv[2], O_RDWR);
  if (disk < 0) {
    die(argv[2]);
  }
  while (read_all(fd, &m, sizeof(m))) {
    switch (m.type) {
      case REQ_READ:
        serve_read(fd, disk, &m);
        break;
      case REQ_WRITE:
      case REQ_FLUSH:
        serve_write(fd, disk, &m);
        break;
      default:
        m.type = RESP_UNSUPPORTED;
        write_all(fd, &m, sizeof(m));
        break;
    }
  }
  return 0;
}

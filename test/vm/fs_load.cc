// SPDX-License-Identifier: Apache-2.0
//
// A load for a file system under test: processes make, write, cut, punch, zero,
// rename, sync and delete files of their own, each of which has a copy in
// memory, and compare what the device gives back with the copy.
//
// Usage: fs_load DIR SECONDS SEED [PROCESSES]
// Leaves the files of the last moment in DIR. Ends with 0, or with 1 and a line
// that names the file, the first wrong byte and the seed.
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr size_t kFiles = 12, kFileBytesMax = 256 << 10;

struct File {
  std::string path;
  bool exists = false;
  std::vector<uint8_t> copy;
};

class Worker {
 public:
  Worker(const std::string& dir, uint32_t seed) : dir_(dir), random_(seed) {
    Must(mkdir(dir_.c_str(), 0755) == 0, "mkdir", dir_);
    for (size_t i = 0; i < kFiles; ++i) {
      File file;
      file.path = NewName();
      files_.push_back(file);
    }
  }

  // Returns the number of operations.
  uint64_t Run(std::chrono::steady_clock::time_point until) {
    uint64_t n = 0;
    for (; std::chrono::steady_clock::now() < until; ++n) {
      One(&files_[Below(kFiles)]);
    }
    for (File& file : files_) {
      if (file.exists) {
        Compare(file);
      }
    }
    return n;
  }

 private:
  size_t Below(size_t n) { return random_() % n; }
  std::string NewName() { return dir_ + "/" + std::to_string(next_name_++); }

  static void Must(bool good, const char* what, const std::string& path) {
    if (!good) {
      fprintf(stderr, "fs_load: %s %s: %m\n", what, path.c_str());
      _exit(1);
    }
  }

  int Open(const File& file, int flags) {
    const int fd = open(file.path.c_str(), flags | O_CLOEXEC, 0644);
    Must(fd >= 0, "open", file.path);
    return fd;
  }

  void Write(File* file, int fd, size_t at, size_t bytes) {
    if (file->copy.size() < at + bytes) {
      file->copy.resize(at + bytes);
    }
    for (size_t i = at; i < at + bytes; ++i) {
      file->copy[i] = static_cast<uint8_t>(random_());
    }
    for (size_t done = 0; done < bytes;) {
      const ssize_t n = pwrite(fd, file->copy.data() + at + done, bytes - done,
                               static_cast<off_t>(at + done));
      Must(n > 0, "write", file->path);
      done += static_cast<size_t>(n);
    }
  }

  void One(File* file) {
    if (!file->exists) {
      const int fd = Open(*file, O_RDWR | O_CREAT | O_EXCL);
      file->exists = true;
      file->copy.clear();
      Write(file, fd, 0, Below(kFileBytesMax) + 1);
      close(fd);
      return;
    }
    const int fd = Open(*file, O_RDWR);
    const size_t at = Below(kFileBytesMax - 1);
    const size_t bytes = Below(std::min<size_t>(kFileBytesMax - at, 32768)) + 1;
    switch (Below(10)) {
      case 0:
      case 1:
        Write(file, fd, at, bytes);
        break;
      case 2:
        Must(ftruncate(fd, static_cast<off_t>(at)) == 0, "cut", file->path);
        file->copy.resize(at);
        break;
      case 3:
        Allocate(file, fd, 0, at, bytes);
        break;
      case 4:
        Allocate(file, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
                 bytes);
        break;
      case 5:
        Allocate(file, fd, FALLOC_FL_ZERO_RANGE, at, bytes);
        break;
      case 6:
        Must(fsync(fd) == 0, "fsync", file->path);
        break;
      case 7: {
        const std::string to = NewName();
        Must(rename(file->path.c_str(), to.c_str()) == 0, "rename", to);
        file->path = to;
        break;
      }
      case 8:
        Must(unlink(file->path.c_str()) == 0, "delete", file->path);
        file->exists = false;
        break;
      case 9:
        Compare(*file);
        break;
    }
    close(fd);
  }

  void Allocate(File* file, int fd, int mode, size_t at, size_t bytes) {
    Must(fallocate(fd, mode, static_cast<off_t>(at),
                   static_cast<off_t>(bytes)) == 0,
         "fallocate", file->path);
    if (!(mode & FALLOC_FL_KEEP_SIZE) && file->copy.size() < at + bytes) {
      file->copy.resize(at + bytes);
    }
    const size_t end = std::min(file->copy.size(), at + bytes);
    if (mode != 0 && at < end) {
      memset(file->copy.data() + at, 0, end - at);
    }
  }

  // From the device: what is clean after fsync() leaves the cache.
  void Compare(const File& file) {
    const int fd = Open(file, O_RDWR);
    Must(fsync(fd) == 0, "fsync", file.path);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    struct stat st;
    Must(fstat(fd, &st) == 0, "stat", file.path);
    std::vector<uint8_t> got(static_cast<size_t>(st.st_size));
    for (size_t done = 0; done < got.size();) {
      const ssize_t n = pread(fd, got.data() + done, got.size() - done,
                              static_cast<off_t>(done));
      Must(n > 0, "read", file.path);
      done += static_cast<size_t>(n);
    }
    close(fd);
    if (got == file.copy) {
      return;
    }
    size_t i = 0;
    while (i < std::min(got.size(), file.copy.size()) &&
           got[i] == file.copy[i]) {
      ++i;
    }
    fprintf(stderr,
            "fs_load: %s: byte %zu is wrong; %zu bytes instead of %zu\n",
            file.path.c_str(), i, got.size(), file.copy.size());
    _exit(1);
  }

  const std::string dir_;
  std::mt19937 random_;
  std::vector<File> files_;
  uint64_t next_name_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    fprintf(stderr, "usage: %s DIR SECONDS SEED [PROCESSES]\n", argv[0]);
    return 2;
  }
  const int processes = argc == 5 ? atoi(argv[4]) : 3;
  const auto seed = static_cast<uint32_t>(strtoul(argv[3], nullptr, 10));
  const auto until =
      std::chrono::steady_clock::now() + std::chrono::seconds(atoi(argv[2]));
  for (int p = 0; p < processes; ++p) {
    const pid_t pid = fork();
    if (pid < 0) {
      perror("fork");
      return 1;
    }
    if (pid == 0) {
      Worker worker(std::string(argv[1]) + "/" + std::to_string(p),
                    seed + static_cast<uint32_t>(p));
      printf("fs_load: process %d: %llu operations\n", p,
             static_cast<unsigned long long>(worker.Run(until)));
      fflush(stdout);
      _exit(0);
    }
  }
  int bad = 0, status = 0;
  while (wait(&status) > 0) {
    bad += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  }
  printf("fs_load: seed %u, %d of %d processes failed\n", seed, bad, processes);
  return bad != 0;
}

// SPDX-License-Identifier: Apache-2.0
//
// Devices that come and go: attaches and detaches many in random order, reads
// and writes between any two steps, and compares all that it reads with what is
// to be there - which a file behind a device keeps while the device is away.
//
// usage: device_churn DIR COUNT SECONDS SEED TRANSPORT GROWTH_KIB
//
// DIR has small.cow, small.base and small.new, and room for a copy of the first
// two for each eighth device; other eighths are null, the rest are files. Goes
// up to COUNT devices and down to none, forth and back, at least once, until
// SECONDS are over. Ends with 0, or with 1 and a line that says what was wrong:
// an I/O, an attach, a detach; or at an end of the way down the daemon's memory
// is more than GROWTH_KIB above that of the first, or it has more open files.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "daemon/control/frame.h"
#include "daemon/io/unique_fd.h"
#include "proto/control.pb.h"
#include "test/sim/rng.h"
#include "tools/client/control_client.h"
#include "tools/map_device.h"

namespace dmu {
namespace {

constexpr size_t kBlockBytes = 4096;
constexpr size_t kFileBlocks = 64;
constexpr int kIosPerStep = 3;

uint64_t NowMs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 +
         static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

[[noreturn]] void Die(const std::string& what) {
  fprintf(stderr, "device_churn: %s\n", what.c_str());
  exit(1);
}

void Must(const absl::Status& status, const std::string& what) {
  if (!status.ok()) Die(absl::StrCat(what, ": ", status.ToString()));
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) Die(absl::StrCat(path, ": cannot be read"));
  return std::string(std::istreambuf_iterator<char>(in), {});
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out << bytes;
  out.close();
  if (!out) Die(absl::StrCat(path, ": cannot be written"));
}

enum class Kind { kSnapshot, kNull, kFile };

struct Victim {
  std::string name;
  Kind kind = Kind::kFile;
  bool live = false;
  std::vector<uint64_t> written;  // of a file's blocks; 0: zeros
};

struct Figures {
  uint64_t anonymous_bytes = 0;
  uint64_t peak_anonymous_bytes = 0;
  size_t files = 0;
};

class Churn {
 public:
  Churn(std::string directory, size_t count, uint64_t seed,
        const std::string& transport)
      : directory_(std::move(directory)), rng_(seed) {
    auto parsed = tools::ParseTransport(transport);
    Must(parsed.status(), transport);
    transport_ = *parsed;
    shown_ = ReadFile(directory_ + "/small.new");
    const std::string cow = ReadFile(directory_ + "/small.cow");
    const std::string base = ReadFile(directory_ + "/small.base");
    void* aligned = nullptr;
    if (posix_memalign(&aligned, kBlockBytes, kBlockBytes) != 0) Die("memory");
    block_ = static_cast<uint8_t*>(aligned);
    for (size_t i = 0; i < count; ++i) {
      Victim victim;
      victim.name = absl::StrCat("churn", i);
      if (i % 8 == 0) {
        victim.kind = Kind::kSnapshot;
        WriteFile(Path(victim, ".cow"), cow);
        WriteFile(Path(victim, ".base"), base);
      } else if (i % 8 == 1) {
        victim.kind = Kind::kNull;
      } else {
        victim.written.resize(kFileBlocks);
        WriteFile(Path(victim, ".file"), "");
        if (truncate(Path(victim, ".file").c_str(),
                     kFileBlocks * kBlockBytes) != 0) {
          Die("truncate");
        }
      }
      victims_.push_back(std::move(victim));
    }
  }
  ~Churn() { free(block_); }

  void Run(uint64_t seconds, uint64_t growth_bytes) {
    const uint64_t end_ms = NowMs() + seconds * 1000;
    Go(victims_.size());
    Go(0);
    const Figures first = Look();
    Print("once", first);
    Figures last = first;
    while (NowMs() < end_ms) {
      Go(victims_.size());
      Go(0);
      last = Look();
      ++rounds_;
      if (last.anonymous_bytes > first.anonymous_bytes + growth_bytes) {
        Die(absl::StrCat("memory has grown from ", first.anonymous_bytes,
                         " to ", last.anonymous_bytes, " bytes"));
      }
      // One for a session whose end the daemon has not seen yet.
      if (last.files > first.files + 1) {
        Die(absl::StrCat("open files were ", first.files, " and are ",
                         last.files));
      }
    }
    Print("at the end", last);
    printf(
        "device_churn: %llu attached, %llu detached, %llu rounds of %zu "
        "devices, %llu reads and writes\n",
        static_cast<unsigned long long>(attached_),
        static_cast<unsigned long long>(detached_),
        static_cast<unsigned long long>(rounds_ + 1), victims_.size(),
        static_cast<unsigned long long>(ios_));
  }

 private:
  std::string Path(const Victim& victim, const char* suffix) const {
    return absl::StrCat(directory_, "/", victim.name, suffix);
  }

  // Until so many are there, none or all: one step in four goes the other way.
  void Go(size_t goal) {
    while (live_ != goal) {
      const bool up = (goal > live_) != rng_.OneIn(4);
      Victim* victim = Any(!up);
      if (victim != nullptr && up) Attach(victim);
      if (victim != nullptr && !up) Detach(victim);
      for (int i = 0; i < kIosPerStep; ++i) {
        if (Victim* live = Any(/*live=*/true)) Use(live);
      }
    }
  }

  Victim* Any(bool live) {
    const size_t count = live ? live_ : victims_.size() - live_;
    if (count == 0) return nullptr;
    size_t left = rng_.Below(count);
    for (Victim& victim : victims_) {
      if (victim.live == live && left-- == 0) return &victim;
    }
    return nullptr;
  }

  void Attach(Victim* victim) {
    proto::Attach attach;
    attach.set_name(victim->name);
    attach.set_transport(transport_);
    if (victim->kind == Kind::kSnapshot) {
      attach.mutable_snapshot()->set_cow_path(Path(*victim, ".cow"));
      attach.mutable_snapshot()->set_base_path(Path(*victim, ".base"));
    } else if (victim->kind == Kind::kNull) {
      attach.mutable_null()->set_size_bytes(kFileBlocks * kBlockBytes);
    } else {
      attach.mutable_file()->set_path(Path(*victim, ".file"));
    }
    Must(tools::MapDevice(attach, "60000", proto::REDIRECT_AUTO,
                          kDefaultControlPath),
         absl::StrCat("attach ", victim->name));
    victim->live = true;
    ++live_;
    ++attached_;
  }

  void Detach(Victim* victim) {
    Must(tools::UnmapDevice(victim->name, kDefaultControlPath),
         absl::StrCat("detach ", victim->name));
    victim->live = false;
    --live_;
    ++detached_;
  }

  void Fill(const Victim& victim, uint64_t block, uint64_t version) {
    sim::Rng bytes(sim::Mix(version * 1000 + block) ^ victim.name.back());
    for (size_t i = 0; i < kBlockBytes; i += sizeof(uint64_t)) {
      const uint64_t word = version == 0 ? 0 : bytes.Next();
      memcpy(expected_ + i, &word, sizeof(word));
    }
  }

  void Use(Victim* victim) {
    const bool writes = victim->kind == Kind::kFile && rng_.OneIn(2);
    const std::string path = absl::StrCat("/dev/mapper/", victim->name);
    UniqueFd fd(open(path.c_str(),
                     (writes ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC));
    if (!fd.valid()) Die(absl::StrCat(path, ": ", strerror(errno)));
    const uint64_t blocks = victim->kind == Kind::kSnapshot
                                ? shown_.size() / kBlockBytes
                                : kFileBlocks;
    const uint64_t block = rng_.Below(blocks);
    const auto offset = static_cast<off_t>(block * kBlockBytes);
    ++ios_;
    if (writes) {
      Fill(*victim, block, ++version_);
      memcpy(block_, expected_, kBlockBytes);
      if (pwrite(fd.get(), block_, kBlockBytes, offset) !=
          static_cast<ssize_t>(kBlockBytes)) {
        Die(absl::StrCat(path, ": write: ", strerror(errno)));
      }
      victim->written[block] = version_;
      return;
    }
    if (pread(fd.get(), block_, kBlockBytes, offset) !=
        static_cast<ssize_t>(kBlockBytes)) {
      Die(absl::StrCat(path, ": read: ", strerror(errno)));
    }
    if (victim->kind == Kind::kSnapshot) {
      memcpy(expected_, shown_.data() + offset, kBlockBytes);
    } else {
      Fill(*victim, block,
           victim->kind == Kind::kFile ? victim->written[block] : 0);
    }
    if (memcmp(block_, expected_, kBlockBytes) != 0) {
      Die(absl::StrCat(path, ": wrong bytes in block ", block));
    }
  }

  Figures Look() {
    auto client = ControlClient::Connect();
    Must(client.status(), "connect");
    proto::Request request;
    request.mutable_status();
    auto response = client->Call(request);
    Must(response.status(), "status");
    const proto::DaemonStatus& daemon = response->daemon();
    if (daemon.threads() != 1) Die("the daemon has threads");
    Figures figures;
    figures.anonymous_bytes = daemon.anonymous_bytes();
    figures.peak_anonymous_bytes = daemon.peak_anonymous_bytes();
    const std::string folder = absl::StrCat("/proc/", daemon.pid(), "/fd");
    DIR* dir = opendir(folder.c_str());
    if (dir == nullptr) Die(folder);
    while (readdir(dir) != nullptr) ++figures.files;
    closedir(dir);
    return figures;
  }

  static void Print(const char* when, const Figures& figures) {
    printf("device_churn: %s: %llu KiB anonymous, %llu at most, %zu files\n",
           when,
           static_cast<unsigned long long>(figures.anonymous_bytes / 1024),
           static_cast<unsigned long long>(figures.peak_anonymous_bytes / 1024),
           figures.files);
    fflush(stdout);
  }

  const std::string directory_;
  sim::Rng rng_;
  proto::Transport transport_ = proto::TRANSPORT_AUTO;
  std::string shown_;  // by a snapshot
  std::vector<Victim> victims_;
  size_t live_ = 0;
  uint64_t version_ = 0;
  uint64_t attached_ = 0, detached_ = 0, rounds_ = 0, ios_ = 0;
  uint8_t* block_ = nullptr;
  uint8_t expected_[kBlockBytes];
};

}  // namespace
}  // namespace dmu

int main(int argc, char** argv) {
  if (argc != 7) {
    fprintf(stderr,
            "usage: device_churn DIR COUNT SECONDS SEED TRANSPORT "
            "GROWTH_KIB\n");
    return 2;
  }
  dmu::Churn churn(argv[1], strtoul(argv[2], nullptr, 10),
                   strtoull(argv[4], nullptr, 10), argv[5]);
  churn.Run(strtoull(argv[3], nullptr, 10),
            strtoull(argv[6], nullptr, 10) * 1024);
  return 0;
}

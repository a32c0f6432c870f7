// SPDX-License-Identifier: Apache-2.0
//
// cow_read_bench.cc - what one thread reads in process, and what an index of
// many ops takes. Prints one JSON object; tools/bench-cow runs it and makes the
// table.
//
// usage: cow_read_bench FILE.cow BASE.img TARGET.img SECONDS
//        cow_read_bench --index OPS FILE.cow
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "daemon/cow/writer.h"
#include "tools/cow_file.h"
#include "tools/file_io.h"
#include "tools/target_reader.h"

namespace dmu::tools {
namespace {

double Now() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "cow_read_bench: %s\n", status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T Need(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status());
  return *std::move(value);
}

// Calls read(block) for random blocks until the time is over; calls a second.
template <typename Read>
double Rate(uint32_t blocks, double seconds, Read read) {
  std::mt19937 random(1);
  uint64_t count = 0;
  const double begin = Now();
  double now = begin;
  while (now - begin < seconds) {
    for (int i = 0; i < 1000; ++i) {
      read(static_cast<uint32_t>(uint64_t{random()} * blocks >> 32));
    }
    count += 1000;
    now = Now();
  }
  return static_cast<double>(count) / (now - begin);
}

// Everything into the page cache, whatever has reclaimed it since.
void Warm(const File& file) {
  std::vector<uint8_t> piece(1 << 20);
  for (uint64_t at = 0; at < file.size_bytes(); at += piece.size()) {
    const uint64_t bytes =
        std::min<uint64_t>(piece.size(), file.size_bytes() - at);
    auto status = file.ReadAt(at, {piece.data(), bytes});
    if (!status.ok()) Die(status);
  }
}

void Reads(const char* cow_path, const char* base_path, const char* target_path,
           double seconds) {
  const CowFile cow = Need(OpenCowFile(cow_path));
  const File base = Need(File::OpenForRead(base_path));
  const File target = Need(File::OpenForRead(target_path));
  TargetReader reader = Need(TargetReader::Create(cow, base));
  if (auto status = reader.UseMappings(); !status.ok()) Die(status);
  const auto blocks =
      static_cast<uint32_t>(reader.target_bytes() / kBlockBytes);
  std::vector<uint8_t> block(kBlockBytes);
  std::vector<uint8_t> memory(target.size_bytes());
  if (auto status = target.ReadAt(0, memory); !status.ok()) Die(status);
  const auto check = [&](uint32_t b) {
    auto status = reader.ReadAt(uint64_t{b} * kBlockBytes, block);
    if (!status.ok()) Die(status);
    if (std::memcmp(block.data(), memory.data() + size_t{b} * kBlockBytes,
                    kBlockBytes) != 0) {
      Die(absl::DataLossError("a block reads wrong"));
    }
  };
  for (uint32_t b = 0; b < blocks; b += 97) check(b);
  Warm(base);
  Warm(cow.file);
  const double view = Rate(blocks, seconds, [&](uint32_t b) {
    auto status = reader.ReadAt(uint64_t{b} * kBlockBytes, block);
    if (!status.ok()) Die(status);
  });
  Warm(target);
  const double pread = Rate(blocks, seconds, [&](uint32_t b) {
    auto status = target.ReadAt(uint64_t{b} * kBlockBytes, block);
    if (!status.ok()) Die(status);
  });
  uint64_t sum = 0;
  const double copy = Rate(blocks, seconds, [&](uint32_t b) {
    std::memcpy(block.data(), memory.data() + size_t{b} * kBlockBytes,
                kBlockBytes);
    sum += block[b % kBlockBytes];
  });
  std::printf(
      "{\"view\": %.0f, \"pread\": %.0f, \"memcpy\": %.0f, "
      "\"sum\": %llu}\n",
      view, pread, copy, static_cast<unsigned long long>(sum));
}

class FileSink : public cow::Sink {
 public:
  explicit FileSink(const File& file) : file_(file) {}
  absl::Status WriteAt(uint64_t offset, ConstByteSpan bytes) override {
    return file_.WriteAt(offset, bytes);
  }
  absl::Status Sync() override { return absl::OkStatus(); }

 private:
  const File& file_;
};

// The peak of resident memory since ResetPeak.
uint64_t PeakKib() {
  std::FILE* file = std::fopen("/proc/self/status", "r");
  unsigned long long kib = 0;
  char line[256];
  while (file != nullptr && std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::sscanf(line, "VmHWM: %llu kB", &kib) == 1) break;
  }
  if (file != nullptr) std::fclose(file);
  return kib;
}

void ResetPeak() {
  std::FILE* file = std::fopen("/proc/self/clear_refs", "w");
  if (file == nullptr) return;
  std::fputs("5", file);
  std::fclose(file);
}

// A file of `ops` ops over an image of 4 GiB: every eighth block, copies, xors,
// zeros and data in turn.
void Index(uint32_t ops, const char* path) {
  {
    OutputFile output = Need(OutputFile::Create(path, /*force=*/true));
    FileSink sink(output.file());
    cow::WriterOptions options;
    options.compression = cow::Compression::kLz4;
    options.op_count_max = ops;
    options.base_bytes = options.target_bytes = uint64_t{4} << 30;
    auto writer = Need(cow::Writer::Create(&sink, options));
    const std::vector<uint8_t> stored(200, 1);
    absl::Status status;
    for (uint32_t i = 0; i < ops && status.ok(); ++i) {
      const auto block =
          static_cast<uint32_t>(uint64_t{i} * 0x9e3779b1 % 1'048'573);
      if (i < ops / 4) {
        status = writer->AddCopy(block, block / 2);
      } else if (i < ops / 2) {
        status = writer->AddXor(block, uint64_t{block} * 2048 + 7, stored);
      } else if (i % 2 == 0) {
        status = writer->AddZero(block);
      } else {
        status = writer->AddReplace(block, 0, stored);
      }
    }
    if (status.ok()) status = writer->Finish();
    if (status.ok()) status = output.Commit();
    if (!status.ok()) Die(status);
  }
  // In a process of its own, so that the peak is the loader's.
  std::fflush(stdout);
  const std::string self = "/proc/self/exe";
  execl(self.c_str(), "cow_read_bench", "--load", path, nullptr);
  Die(absl::InternalError("exec"));
}

void Load(const char* path) {
  ResetPeak();
  const uint64_t before = PeakKib();
  const double begin = Now();
  const CowFile cow = Need(OpenCowFile(path));
  const double seconds = Now() - begin;
  const cow::Image& image = *cow.image;
  std::printf(
      "{\"ops\": %u, \"index_bytes\": %llu, \"peak_kib\": %llu, "
      "\"load_ms\": %.1f}\n",
      image.index.op_count(),
      static_cast<unsigned long long>(image.index.resident_bytes() +
                                      image.ops.resident_bytes()),
      static_cast<unsigned long long>(PeakKib() - before), seconds * 1e3);
}

}  // namespace
}  // namespace dmu::tools

int main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], "--index") == 0) {
    dmu::tools::Index(static_cast<uint32_t>(std::atoi(argv[2])), argv[3]);
  } else if (argc == 3 && std::strcmp(argv[1], "--load") == 0) {
    dmu::tools::Load(argv[2]);
  } else if (argc == 5) {
    dmu::tools::Reads(argv[1], argv[2], argv[3], std::atof(argv[4]));
  } else {
    std::fprintf(stderr, "usage: see the head of cow_read_bench.cc\n");
    return 2;
  }
  return 0;
}

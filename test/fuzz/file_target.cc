// SPDX-License-Identifier: Apache-2.0
#include "test/fuzz/file_target.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "daemon/base/bytes.h"
#include "daemon/base/check.h"
#include "daemon/cow/extension.h"
#include "daemon/cow/format.h"
#include "daemon/cow/op_table.h"
#include "test/sim/scenario.h"
#include "tools/cow_file.h"
#include "tools/cow_merge.h"
#include "tools/cow_verify.h"
#include "tools/file_io.h"
#include "tools/target_reader.h"

namespace dmu {
namespace {

using Bytes = std::vector<uint8_t>;

// A file without a name.
class MemoryFile {
 public:
  explicit MemoryFile(const Bytes& bytes)
      : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
    DMU_CHECK(fd_ >= 0);
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = write(fd_, bytes.data() + done, bytes.size() - done);
      DMU_CHECK(n > 0);
      done += static_cast<size_t>(n);
    }
  }
  ~MemoryFile() { close(fd_); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }
  Bytes Contents() const {
    Bytes bytes(static_cast<size_t>(lseek(fd_, 0, SEEK_END)));
    DMU_CHECK(pread(fd_, bytes.data(), bytes.size(), 0) ==
              static_cast<ssize_t>(bytes.size()));
    return bytes;
  }

 private:
  int fd_;
};

// Larger targets are looked at only in part.
constexpr uint64_t kBlocksMax = 128;

// What each block reads as; empty: an error.
std::vector<Bytes> ReadAll(const tools::CowFile& cow, const tools::File& base) {
  auto reader = tools::TargetReader::Create(cow, base);
  if (!reader.ok()) return {};
  const uint64_t bytes =
      std::min(reader->target_bytes(), kBlocksMax * kBlockBytes);
  std::vector<Bytes> blocks;
  for (uint64_t at = 0; at < bytes; at += kBlockBytes) {
    Bytes block(std::min<uint64_t>(kBlockBytes, bytes - at));
    if (!reader->ReadAt(at, block).ok()) block.clear();
    blocks.push_back(std::move(block));
  }
  // A piece that begins and ends anywhere says the same.
  for (uint64_t at = 1; at + 7000 < bytes; at += 9973) {
    Bytes piece(6000);
    if (!reader->ReadAt(at, piece).ok()) continue;
    for (size_t i = 0; i < piece.size(); ++i) {
      const Bytes& block = blocks[(at + i) / kBlockBytes];
      DMU_CHECK(!block.empty());
      DMU_CHECK(piece[i] == block[(at + i) % kBlockBytes]);
    }
  }
  return blocks;
}

bool AllRead(const std::vector<Bytes>& blocks) {
  return std::none_of(blocks.begin(), blocks.end(),
                      [](const Bytes& block) { return block.empty(); });
}

void CheckVerify(const MemoryFile& cow_file, const tools::File& base,
                 const std::vector<Bytes>& blocks) {
  const auto file = tools::File::OpenForRead(cow_file.path());
  DMU_CHECK(file.ok());
  tools::VerifyOptions options;
  options.base = &base;
  const auto report = tools::VerifyCow(*file, options);
  if (!report.ok()) return;
  // Damage in units of the table that no block comes from is found by verify
  // only; what cannot be read must be found.
  const bool small = blocks.size() < kBlocksMax;
  if (small && !blocks.empty() && !AllRead(blocks)) {
    DMU_CHECK(report->verdict != tools::Verdict::kGood);
  }
}

// Nothing of the file changes but its first sector and the scratch region.
void CheckCowChanges(const cow::Header& header, const Bytes& before,
                     const Bytes& after) {
  DMU_CHECK(before.size() == after.size());
  const uint64_t end =
      std::max<uint64_t>(kSectorBytes, header.SequenceOffset());
  if (before.size() <= end) return;
  DMU_CHECK(std::equal(before.begin() + static_cast<int64_t>(end), before.end(),
                       after.begin() + static_cast<int64_t>(end)));
  const uint64_t own = header.has_scratch() ? header.header_size : kSectorBytes;
  for (uint64_t i = 0; i < own; ++i) {
    const bool counter =
        i >= cow::kMergeCounterOffset && i < cow::kMergeCounterOffset + 8;
    DMU_CHECK(counter || before[i] == after[i]);
  }
}

void CheckMerge(const Bytes& bytes, const cow::Image& image,
                const std::vector<Bytes>& before) {
  MemoryFile cow_file(bytes);
  MemoryFile base_file(FuzzBase());
  tools::MergeOptions options;
  options.cow_path = cow_file.path();
  options.base_path = base_file.path();
  options.window_blocks = 64;
  // One window, then to the end.
  options.windows_max = 1;
  auto summary = tools::MergeOffline(options);
  options.windows_max = UINT64_MAX;
  if (summary.ok() && !summary->finished) {
    summary = tools::MergeOffline(options);
  }
  CheckCowChanges(image.header, bytes, cow_file.Contents());
  const Bytes merged = base_file.Contents();
  for (uint32_t block = 0; block < kBaseBlocks; ++block) {
    const size_t at = size_t{block} * kBlockBytes;
    if (image.index.Find(block).has_value() || merged.size() < at + 4096) {
      continue;
    }
    bool staged = false;
    for (const cow::ScratchEntry& entry : image.progress.scratch) {
      staged |= entry.new_block == block;
    }
    DMU_CHECK(staged || std::memcmp(merged.data() + at, FuzzBase().data() + at,
                                    4096) == 0);
  }
  if (summary.ok() && summary->finished) {
    for (size_t i = 0; i < before.size(); ++i) {
      if (before[i].empty()) continue;
      DMU_CHECK(merged.size() >= i * kBlockBytes + before[i].size());
      DMU_CHECK(std::equal(before[i].begin(), before[i].end(),
                           merged.begin() + static_cast<int64_t>(i) * 4096));
    }
    return;
  }
  const auto cow = tools::OpenCowFile(cow_file.path());
  DMU_CHECK(cow.ok());
  const auto base = tools::File::OpenForRead(base_file.path());
  DMU_CHECK(base.ok());
  const std::vector<Bytes> after = ReadAll(*cow, *base);
  for (size_t i = 0; i < std::min(before.size(), after.size()); ++i) {
    DMU_CHECK(before[i].empty() || before[i] == after[i]);
  }
}

}  // namespace

const Bytes& FuzzBase() {
  static const Bytes* base = new Bytes(sim::NumberedBlocks(kBaseBlocks, 1));
  return *base;
}

std::vector<uint8_t> ExpandInput(const uint8_t* data, size_t size) {
  if (size < 1) return {};
  Bytes file(data + 1, data + size);
  if ((data[0] & 1) != 0 && file.size() >= cow::kHeaderBytesV1) {
    const uint16_t header_bytes = std::min<uint16_t>(
        LoadLe<uint16_t>(file.data() + 12), cow::kHeaderBytesMax);
    const size_t given =
        std::min<size_t>(file.size(), header_bytes + kScratchGiven);
    file.insert(file.begin() + static_cast<int64_t>(given),
                cow::kScratchBytes - kScratchGiven, uint8_t{0});
  }
  if ((data[0] & 2) != 0) RepairChecksums(&file);
  return file;
}

std::vector<uint8_t> ShrinkFile(const std::vector<uint8_t>& file) {
  const cow::Header header = cow::DecodeHeader(file.data());
  Bytes input = file;
  if (header.has_scratch()) {
    const auto begin = input.begin() + header.header_size + kScratchGiven;
    input.erase(begin, begin + (cow::kScratchBytes - kScratchGiven));
  }
  input.insert(input.begin(), header.has_scratch() ? 1 : 0);
  return input;
}

void RepairChecksums(std::vector<uint8_t>* file) {
  if (file->size() < cow::kHeaderBytesMax) return;
  const cow::Header header = cow::DecodeHeader(file->data());
  if (!header.is_v3() || header.op_count > 10'000 ||
      header.op_count_max > 20'000 || header.op_count > header.op_count_max ||
      header.sequence_data_count > 10'000) {
    return;
  }
  const uint64_t at = cow::ExtensionOffsetV3(header);
  if (at == 0 || at + cow::kExtensionBytes > file->size()) return;
  uint8_t* record = file->data() + at;
  if (!cow::HasExtensionMagic(record)) return;
  // Decoding wants a record that is whole: encoded once for its checksum.
  cow::Extension ext;
  (void)cow::DecodeExtension(record, &ext);
  ext.complete = true;
  ext.op_count = header.op_count;
  ext.header_crc = cow::HeaderChecksum(header);
  cow::OpsHasher hasher;
  for (uint64_t i = 0; i < header.op_count; ++i) {
    cow::Op op;
    if (!cow::DecodeOpV3(
            file->data() + header.OpsOffset() + i * cow::kOpBytesV3,
            header.compression, &op)) {
      return;
    }
    hasher.AddOp(op);
  }
  if (header.sequence_data_count != 0) {
    hasher.AddSequence({file->data() + header.SequenceOffset(),
                        4 * header.sequence_data_count});
  }
  ext.ops_check = hasher.Finish();
  if (ext.base_bytes == 0) ext.base_bytes = kBaseBlocks * kBlockBytes;
  if (ext.target_bytes == 0) ext.target_bytes = kBaseBlocks * kBlockBytes;
  cow::EncodeExtension(ext, record);
}

bool RunFile(const uint8_t* data, size_t size) {
  const Bytes bytes = ExpandInput(data, size);
  MemoryFile cow_file(bytes);
  MemoryFile base_file(FuzzBase());
  const auto base = tools::File::OpenForRead(base_file.path());
  DMU_CHECK(base.ok());
  const auto cow = tools::OpenCowFile(cow_file.path());
  if (!cow.ok()) {
    CheckVerify(cow_file, *base, {});
    return false;
  }
  const std::vector<Bytes> blocks = ReadAll(*cow, *base);
  CheckVerify(cow_file, *base, blocks);
  CheckMerge(bytes, *cow->image, blocks);
  for (const cow::ResumePoint& point : cow->image->labels) {
    const auto partial = tools::OpenCowFile(cow_file.path(), point.label);
    if (partial.ok()) (void)ReadAll(*partial, *base);
  }
  return true;
}

std::vector<std::vector<uint8_t>> MakeCorpus() {
  std::vector<Bytes> inputs;
  for (uint64_t seed = 1; inputs.size() < 120; ++seed) {
    sim::ScenarioOptions options;
    options.blocks_min = 4;
    options.blocks_max = 24;
    options.span_log2_max = 2;
    options.compression = static_cast<cow::Compression>(seed % 5);
    const sim::Scenario scenario = sim::MakeScenario(seed, options);
    // An input is what a fuzzer can still take apart.
    Bytes input = ShrinkFile(scenario.cow);
    if (input.size() > 40'000) continue;
    inputs.push_back(input);
  }
  return inputs;
}

}  // namespace dmu

// SPDX-License-Identifier: Apache-2.0
//
// inspect_verb.cc - cow inspect: what a COW file says about itself, for people
// or as one JSON object whose keys stay as they are.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "tools/cow_file.h"
#include "tools/dmuserctl/cow_verbs.h"
#include "tools/progress_bar.h"

ABSL_FLAG(bool, json, false, "print JSON");
ABSL_FLAG(bool, ops, false, "list every op, in the order of the file");
ABSL_FLAG(bool, order, false, "list every op in the order it is merged");
ABSL_FLAG(bool, map, false,
          "draw where the target's blocks come from, one letter for each piece "
          "of the image");

namespace dmu::tools {
namespace {

using Json = nlohmann::ordered_json;

struct Total {
  uint64_t ops = 0;
  uint64_t blocks = 0;
  uint64_t data_bytes = 0;
};

struct Totals {
  Total copy;
  Total zero;
  Total replace;
  Total xored;

  Total& Of(cow::OpType type) {
    switch (type) {
      case cow::OpType::kCopy:
        return copy;
      case cow::OpType::kZero:
        return zero;
      case cow::OpType::kXor:
        return xored;
      default:
        return replace;
    }
  }
};

const char* VerdictName(cow::Progress::Verdict verdict) {
  switch (verdict) {
    case cow::Progress::Verdict::kIdle:
      return "idle";
    case cow::Progress::Verdict::kReplay:
      return "window staged";
    case cow::Progress::Verdict::kCommitted:
      return "window committed";
    case cow::Progress::Verdict::kCorrupt:
      return "corrupt";
  }
  return "?";
}

Json OpToJson(uint32_t number, const cow::Op& op) {
  Json json;
  json["op"] = number;
  json["type"] = cow::OpTypeName(op.type);
  json["new_block"] = op.new_block;
  json["blocks"] = op.span_blocks();
  if (op.type == cow::OpType::kCopy) json["source_block"] = op.source;
  if (op.type == cow::OpType::kXor) json["source_bytes"] = op.source;
  if (cow::HasData(op.type)) {
    json["data_offset"] = op.data_offset;
    json["data_bytes"] = op.data_length;
    json["compression"] = cow::CompressionName(op.compression);
  }
  return json;
}

// printf's %llu and uint64_t are two types where both have 64 bits.
unsigned long long Ull(uint64_t value) { return value; }

void PrintOp(uint32_t number, const cow::Op& op) {
  std::printf("op %u: %s %u", number, cow::OpTypeName(op.type), op.new_block);
  if (op.span_log2 != 0) {
    std::printf("..%u", op.new_block + op.span_blocks() - 1);
  }
  if (op.type == cow::OpType::kCopy) std::printf(" from %llu", Ull(op.source));
  if (op.type == cow::OpType::kXor) {
    std::printf(" from byte %llu", Ull(op.source));
  }
  if (cow::HasData(op.type)) {
    std::printf(", %u bytes at %llu (%s)", op.data_length, Ull(op.data_offset),
                cow::CompressionName(op.compression));
  }
  std::printf("\n");
}

absl::StatusOr<Totals> CountOps(const CowFile& cow) {
  Totals totals;
  absl::Status status = ForEachOp(cow, [&](uint32_t, const cow::Op& op) {
    Total& total = totals.Of(op.type);
    ++total.ops;
    total.blocks += op.span_blocks();
    total.data_bytes += op.data_length;
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return totals;
}

// Calls visit(number, op) in the order of M. Ops that a duplicate of theirs
// stands before in the file are not in it.
absl::Status ForEachInOrder(
    const CowFile& cow,
    const std::function<void(uint32_t, const cow::Op&)>& visit) {
  const cow::Index& index = cow.image->index;
  std::vector<uint32_t> op_at(index.merge_count(), UINT32_MAX);
  for (uint32_t rank = 0; rank < index.op_count(); ++rank) {
    const cow::Index::Found found = index.AtRank(rank);
    if (op_at[found.position] == UINT32_MAX) op_at[found.position] = found.op;
  }
  std::vector<cow::Op> ops(index.op_count());
  absl::Status status = ForEachOp(cow, [&](uint32_t n, const cow::Op& op) {
    ops[n] = op;
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  for (const uint32_t op : op_at) {
    if (op != UINT32_MAX) visit(op, ops[op]);
  }
  return absl::OkStatus();
}

// One letter for each piece of the image: what most of its blocks are.
std::string SpaceMap(const cow::Image& image, uint64_t blocks, uint32_t cells) {
  constexpr char kLetters[] = ".CZRX";  // base, copy, zero, replace, xor
  std::string map;
  for (uint32_t cell = 0; cell < cells; ++cell) {
    const uint64_t begin = blocks * cell / cells;
    const uint64_t end = blocks * (cell + 1) / cells;
    uint64_t counts[5] = {};
    for (uint64_t block = begin; block < end;) {
      const auto at = static_cast<uint32_t>(block);
      const auto found = image.index.Find(at);
      uint64_t next = block + 1;
      size_t kind = 0;
      if (found.has_value()) {
        next = uint64_t{found->new_block} + found->span_blocks();
        kind = found->type == cow::OpType::kCopy      ? 1
               : found->type == cow::OpType::kZero    ? 2
               : found->type == cow::OpType::kReplace ? 3
                                                      : 4;
      } else {
        next = image.index.NextStart(at);
      }
      next = std::min(next, end);
      counts[kind] += next - block;
      block = next;
    }
    map += kLetters[std::max_element(counts, counts + 5) - counts];
  }
  return map;
}

const char* OrderName(cow::Index::Order order) {
  switch (order) {
    case cow::Index::Order::kFile:
      return "as in the file";
    case cow::Index::Order::kOrdered:
      return "copies and xors as in the file, then by block";
    case cow::Index::Order::kSequence:
      return "by sequence, then by block";
  }
  return "?";
}

Json LabelsToJson(const cow::Image& image) {
  Json labels = Json::array();
  for (const cow::ResumePoint& point : image.labels) {
    labels.push_back({{"label", point.label}, {"ops", point.op_count}});
  }
  return labels;
}

Json MergeToJson(const cow::Image& image) {
  Json merge;
  merge["merged_ops"] = image.progress.merged_ops;
  merge["total_ops"] = image.index.merge_count();
  merge["order"] = OrderName(image.index.order());
  merge["total_bytes"] = image.merge_bytes;
  merge["state"] = VerdictName(image.progress.verdict);
  merge["staged_blocks"] = image.progress.scratch.size();
  if (!image.order_error.empty()) merge["order_error"] = image.order_error;
  return merge;
}

// "zstd"; several, of a version 2 file, as "gz+lz4"; "none".
std::string CompressionsOf(const cow::Image& image) {
  if (image.header.is_v3()) {
    return cow::CompressionName(image.header.compression);
  }
  std::string names;
  for (const auto c : {cow::Compression::kGz, cow::Compression::kBrotli,
                       cow::Compression::kLz4, cow::Compression::kZstd}) {
    if ((image.compressions & cow::CompressionBit(c)) == 0) continue;
    names += (names.empty() ? "" : "+") + std::string(cow::CompressionName(c));
  }
  return names.empty() ? "none" : names;
}

bool KnownComplete(const cow::Image& image) {
  return image.has_extension || !image.header.is_v3();
}

Json TotalToJson(const Total& total) {
  return {{"ops", total.ops},
          {"blocks", total.blocks},
          {"data_bytes", total.data_bytes}};
}

void PrintTotal(const char* name, const Total& total) {
  std::printf("  %-9s %llu ops, %llu blocks", name, Ull(total.ops),
              Ull(total.blocks));
  if (total.data_bytes != 0) {
    std::printf(", %s stored", FormatBytes(total.data_bytes).c_str());
  }
  std::printf("\n");
}

Json ToJson(const CowFile& cow, const Totals& totals) {
  const cow::Image& image = *cow.image;
  const cow::Header& header = image.header;
  Json json;
  json["path"] = cow.file.path();
  json["file_bytes"] = cow.file.size_bytes();
  json["version"] = header.major_version;
  json["block_bytes"] = header.block_size;
  json["compression"] = CompressionsOf(image);
  json["cluster_ops"] = header.cluster_ops;
  json["max_unit_bytes"] = header.unit_bytes_max();
  json["scratch_bytes"] = header.buffer_size;
  // Version 3 can only say with the extension record that it is complete.
  json["known_complete"] = KnownComplete(image);
  json["has_checks"] = image.unit_checks_offset != 0;
  if (image.has_extension) {
    json["base_bytes"] = image.extension.base_bytes;
    json["target_bytes"] = image.extension.target_bytes;
    json["base_digest"] = absl::StrFormat("%016x", image.extension.base_digest);
    json["target_digest"] =
        absl::StrFormat("%016x", image.extension.target_digest);
  }
  json["op_count"] = image.index.op_count();
  json["op_count_max"] = header.op_count_max;
  json["duplicate_ops"] = image.index.duplicate_count();
  json["sequence_entries"] =
      image.sequence.empty()
          ? 0
          : image.sequence.back().first + image.sequence.back().count;
  json["labels"] = LabelsToJson(image);
  json["copy"] = TotalToJson(totals.copy);
  json["xor"] = TotalToJson(totals.xored);
  json["zero"] = TotalToJson(totals.zero);
  json["replace"] = TotalToJson(totals.replace);
  json["merge"] = MergeToJson(image);
  json["index_bytes"] =
      image.index.resident_bytes() + image.ops.resident_bytes();
  return json;
}

void PrintText(const CowFile& cow, const Totals& totals) {
  const cow::Image& image = *cow.image;
  const cow::Header& header = image.header;
  std::printf("%s: COW file version %u, %s, compression %s, units up to %s\n",
              cow.file.path().c_str(), header.major_version,
              FormatBytes(cow.file.size_bytes()).c_str(),
              CompressionsOf(image).c_str(),
              FormatBytes(header.unit_bytes_max()).c_str());
  if (image.has_extension) {
    std::printf("  base      %llu bytes\n  target    %llu bytes\n",
                Ull(image.extension.base_bytes),
                Ull(image.extension.target_bytes));
  } else {
    std::printf(
        "  base      at least %llu blocks\n"
        "  target    at least %llu blocks\n",
        Ull((image.source_end_bytes + kBlockBytes - 1) / kBlockBytes),
        Ull(image.span_blocks));
  }
  PrintTotal("copy", totals.copy);
  PrintTotal("xor", totals.xored);
  PrintTotal("zero", totals.zero);
  PrintTotal("replace", totals.replace);
  std::printf("  complete  %s\n",
              KnownComplete(image)
                  ? "yes"
                  : "not recorded (made by a writer that does not record it)");
  std::printf("  checks    %s\n",
              image.unit_checks_offset != 0 ? "of every unit" : "none");
  for (const cow::ResumePoint& point : image.labels) {
    std::printf("  label     %llu, after %llu ops\n", Ull(point.label),
                Ull(point.op_count));
  }
  std::printf("  scratch   %s\n", FormatBytes(header.buffer_size).c_str());
  std::printf("  merge     %llu of %u ops done, %s",
              Ull(image.progress.merged_ops), image.index.merge_count(),
              VerdictName(image.progress.verdict));
  if (!image.progress.scratch.empty()) {
    std::printf(" (%zu blocks)", image.progress.scratch.size());
  }
  std::printf("\n");
  if (!image.order_error.empty()) {
    std::printf("  order     cannot be merged: %s\n",
                image.order_error.c_str());
  }
}

constexpr uint32_t kMapCells = 64 * 16;

// What the map is drawn of: the target as far as the file tells its size.
uint64_t MapBlocks(const cow::Image& image) {
  return cow::TargetBytes(image, 0) / kBlockBytes;
}

void PrintMap(const cow::Image& image) {
  const uint64_t blocks = MapBlocks(image);
  const auto cells =
      static_cast<uint32_t>(std::min<uint64_t>(blocks, kMapCells));
  const std::string map = SpaceMap(image, blocks, cells);
  std::printf("map of %llu blocks: . base, C copy, X xor, Z zero, R replace\n",
              Ull(blocks));
  for (size_t at = 0; at < map.size(); at += 64) {
    std::printf("  %9llu %s\n", Ull(blocks * at / std::max<uint32_t>(cells, 1)),
                map.substr(at, 64).c_str());
  }
}

absl::Status InspectJson(const CowFile& cow, const Totals& totals) {
  Json json = ToJson(cow, totals);
  Json* list = nullptr;
  const auto add = [&list](uint32_t number, const cow::Op& op) {
    list->push_back(OpToJson(number, op));
    return absl::OkStatus();
  };
  if (absl::GetFlag(FLAGS_ops)) {
    list = &(json["ops"] = Json::array());
    absl::Status status = ForEachOp(cow, add);
    if (!status.ok()) return status;
  }
  if (absl::GetFlag(FLAGS_order)) {
    list = &(json["merge_order"] = Json::array());
    absl::Status status = ForEachInOrder(
        cow,
        [&](uint32_t number, const cow::Op& op) { (void)add(number, op); });
    if (!status.ok()) return status;
  }
  if (absl::GetFlag(FLAGS_map)) {
    json["map"] = SpaceMap(*cow.image, MapBlocks(*cow.image),
                           static_cast<uint32_t>(std::min<uint64_t>(
                               MapBlocks(*cow.image), kMapCells)));
  }
  // A path need not be UTF-8; JSON must be.
  std::printf("%s\n",
              json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
  return absl::OkStatus();
}

}  // namespace

absl::Status CowInspect(const std::vector<std::string>& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("cow inspect needs one COW file");
  }
  std::optional<uint64_t> label;
  if (absl::Status status = ParseLabelFlag(&label); !status.ok()) return status;
  const absl::StatusOr<CowFile> cow = OpenCowFile(arguments[0], label);
  if (!cow.ok()) return cow.status();
  const absl::StatusOr<Totals> totals = CountOps(*cow);
  if (!totals.ok()) return totals.status();
  if (absl::GetFlag(FLAGS_json)) return InspectJson(*cow, *totals);
  PrintText(*cow, *totals);
  if (absl::GetFlag(FLAGS_map)) PrintMap(*cow->image);
  absl::Status status;
  if (absl::GetFlag(FLAGS_ops)) {
    status = ForEachOp(*cow, [](uint32_t number, const cow::Op& op) {
      PrintOp(number, op);
      return absl::OkStatus();
    });
  }
  if (status.ok() && absl::GetFlag(FLAGS_order)) {
    std::printf("in merge order:\n");
    status = ForEachInOrder(*cow, PrintOp);
  }
  return status;
}

}  // namespace dmu::tools

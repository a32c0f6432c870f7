// SPDX-License-Identifier: Apache-2.0
//
// payload.cc - see payload.h.
#include "tools/payload.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/base/types.h"
#include "tools/blob_decoder.h"
#include "tools/sha256.h"

namespace dmu::tools {
namespace {

using proto::PayloadOperation;
using proto::PayloadPartition;

constexpr uint8_t kMagic[4] = {'C', 'r', 'A', 'U'};
constexpr uint64_t kVersion = 2;
constexpr uint64_t kHeaderBytes = 24;
constexpr uint64_t kManifestBytesMax = uint64_t{64} << 20;
constexpr uint32_t kBlockBytesMax = 1 << 20;

// Big-endian, unlike everything else.
uint64_t LoadBe(const uint8_t* bytes, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) value = value << 8 | bytes[i];
  return value;
}

uint32_t BlockBytes(const proto::PayloadManifest& manifest) {
  return manifest.block_size() == 0 ? 4096 : manifest.block_size();
}

// Data of one operation, block by block to where they belong.
class ExtentWriter {
 public:
  ExtentWriter(const PayloadOperation& operation, uint32_t block_bytes,
               const File& out)
      : operation_(operation), block_bytes_(block_bytes), out_(out) {}

  absl::Status Write(ConstByteSpan bytes) {
    while (!bytes.empty()) {
      if (extent_ == operation_.dst_extents_size()) {
        return absl::DataLossError("it has more data than blocks to fill");
      }
      const proto::PayloadExtent& extent = operation_.dst_extents(extent_);
      const uint64_t extent_bytes = extent.num_blocks() * block_bytes_;
      const size_t part =
          std::min<uint64_t>(bytes.size(), extent_bytes - done_);
      absl::Status status = out_.WriteAt(
          extent.start_block() * block_bytes_ + done_, bytes.first(part));
      if (!status.ok()) return status;
      bytes = bytes.subspan(part);
      done_ += part;
      if (done_ == extent_bytes) {
        ++extent_;
        done_ = 0;
      }
    }
    return absl::OkStatus();
  }

  // The last block may be filled in part; the rest of it is zeros.
  absl::Status Finish() const {
    uint64_t left = 0;
    for (int i = extent_; i < operation_.dst_extents_size(); ++i) {
      left += operation_.dst_extents(i).num_blocks() * block_bytes_;
    }
    left -= done_;
    if (left < block_bytes_) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("its data end ", left, " bytes before its blocks"));
  }

 private:
  const PayloadOperation& operation_;
  const uint32_t block_bytes_;
  const File& out_;
  int extent_ = 0;
  uint64_t done_ = 0;  // bytes of that extent
};

BlobDecoder::Format FormatOf(const PayloadOperation& operation) {
  switch (operation.type()) {
    case PayloadOperation::REPLACE_BZ:
      return BlobDecoder::Format::kBzip2;
    case PayloadOperation::REPLACE_XZ:
      return BlobDecoder::Format::kXz;
    default:
      return BlobDecoder::Format::kPlain;
  }
}

// The operation's data, from `offset` in the file on.
absl::Status Replace(const File& file, uint64_t offset,
                     const PayloadOperation& operation, ExtentWriter* writer) {
  const std::unique_ptr<BlobDecoder> decoder =
      BlobDecoder::Create(FormatOf(operation));
  if (decoder == nullptr) {
    return absl::ResourceExhaustedError("no memory for a decompressor");
  }
  const BlobDecoder::Sink sink = [writer](ConstByteSpan bytes) {
    return writer->Write(bytes);
  };
  Sha256 sum;
  std::vector<uint8_t> buffer(1 << 18);
  for (uint64_t done = 0; done < operation.data_length();) {
    const ByteSpan piece = ByteSpan(buffer).first(
        std::min<uint64_t>(buffer.size(), operation.data_length() - done));
    absl::Status status = file.ReadAt(offset + done, piece);
    if (!status.ok()) return status;
    sum.Update(piece);
    status = decoder->Add(piece, sink);
    if (!status.ok()) return status;
    done += piece.size();
  }
  const std::string expected =
      absl::BytesToHexString(operation.data_sha256_hash());
  const std::string found = sum.Finish();
  if (!expected.empty() && found != expected) {
    return absl::DataLossError(absl::StrCat("its data have the SHA-256 ", found,
                                            "; expected ", expected));
  }
  absl::Status status = decoder->Finish();
  return status.ok() ? writer->Finish() : status;
}

}  // namespace

absl::StatusOr<bool> Payload::IsPayload(const File& file) {
  uint8_t bytes[sizeof(kMagic)];
  if (file.is_block_device() || file.size_bytes() < sizeof(bytes)) return false;
  absl::Status status = file.ReadAt(0, bytes);
  if (!status.ok()) return status;
  return std::memcmp(bytes, kMagic, sizeof(kMagic)) == 0;
}

absl::StatusOr<Payload> Payload::Load(const File& file) {
  const auto bad = [&file](const std::string& what) {
    return absl::DataLossError(
        absl::StrCat(file.path(), " is a damaged payload: ", what));
  };
  uint8_t header[kHeaderBytes];
  if (file.size_bytes() < kHeaderBytes) {
    return bad(absl::StrCat("it has ", file.size_bytes(),
                            " bytes; its header alone has ", kHeaderBytes));
  }
  absl::Status status = file.ReadAt(0, header);
  if (!status.ok()) return status;
  const uint64_t version = LoadBe(header + 4, 8);
  if (version != kVersion) {
    return absl::UnimplementedError(
        absl::StrCat(file.path(), ": a payload of version ", version,
                     "; served is ", kVersion));
  }
  const uint64_t manifest_bytes = LoadBe(header + 12, 8);
  const uint64_t signature_bytes = LoadBe(header + 20, 4);
  const uint64_t room = file.size_bytes() - kHeaderBytes;
  if (manifest_bytes > room || signature_bytes > room - manifest_bytes) {
    return bad(absl::StrCat("its manifest and signature have ", manifest_bytes,
                            " and ", signature_bytes, " bytes; ", room,
                            " are left"));
  }
  if (manifest_bytes > kManifestBytesMax) {
    return absl::UnimplementedError(
        absl::StrCat(file.path(), ": its manifest has ", manifest_bytes,
                     " bytes; served are ", kManifestBytesMax));
  }
  std::vector<uint8_t> bytes(manifest_bytes);
  status = file.ReadAt(kHeaderBytes, bytes);
  if (!status.ok()) return status;
  Payload payload;
  if (!payload.manifest_.ParseFromArray(bytes.data(),
                                        static_cast<int>(bytes.size()))) {
    return bad("its manifest is no protobuf message");
  }
  payload.data_offset_ = kHeaderBytes + manifest_bytes + signature_bytes;
  payload.data_bytes_ = file.size_bytes() - payload.data_offset_;
  status = payload.Judge(file);
  if (!status.ok()) return status;
  return payload;
}

// Sizes alone, so that nothing that follows can overflow.
absl::Status Payload::Judge(const File& file) const {
  const uint64_t block_bytes = BlockBytes(manifest_);
  const auto bad = [&file](const std::string& what) {
    return absl::DataLossError(
        absl::StrCat(file.path(), " is a damaged payload: ", what));
  };
  if (block_bytes % kSectorBytes != 0 || block_bytes > kBlockBytesMax) {
    return bad(absl::StrCat("its blocks have ", block_bytes, " bytes"));
  }
  for (const PayloadPartition& partition : manifest_.partitions()) {
    const uint64_t bytes = partition.new_partition_info().size();
    if (bytes % block_bytes != 0 || bytes > INT64_MAX) {
      return bad(absl::StrCat(partition.partition_name(), " has ", bytes,
                              " bytes; expected whole blocks of ",
                              block_bytes));
    }
    for (int i = 0; i < partition.operations_size(); ++i) {
      const PayloadOperation& operation = partition.operations(i);
      const std::string where =
          absl::StrCat(partition.partition_name(), ", operation ", i);
      if (operation.data_length() > data_bytes_ ||
          operation.data_offset() > data_bytes_ - operation.data_length()) {
        return bad(absl::StrCat(
            where, ": its data are ", operation.data_length(), " bytes at ",
            operation.data_offset(), "; there are ", data_bytes_));
      }
      uint64_t blocks = 0;
      for (const proto::PayloadExtent& extent : operation.dst_extents()) {
        const uint64_t end = bytes / block_bytes;
        if (extent.num_blocks() == 0 || extent.num_blocks() > end ||
            extent.start_block() > end - extent.num_blocks() ||
            (blocks += extent.num_blocks()) > end) {
          return bad(absl::StrCat(where, ": it fills ", extent.num_blocks(),
                                  " blocks from ", extent.start_block(),
                                  " on; the image has ", end));
        }
      }
    }
  }
  return absl::OkStatus();
}

std::vector<std::string> Payload::PartitionNames() const {
  std::vector<std::string> names;
  for (const PayloadPartition& partition : manifest_.partitions()) {
    names.push_back(partition.partition_name());
  }
  return names;
}

absl::StatusOr<const PayloadPartition*> Payload::Find(
    const std::string& name) const {
  for (const PayloadPartition& partition : manifest_.partitions()) {
    if (partition.partition_name() == name) return &partition;
  }
  return absl::NotFoundError(
      absl::StrCat("there is no partition '", name, "'; there are ",
                   absl::StrJoin(PartitionNames(), ", ")));
}

absl::Status Payload::Extract(const File& file,
                              const PayloadPartition& partition,
                              const File& out,
                              const std::function<void(uint64_t)>& done) const {
  const std::string& name = partition.partition_name();
  const uint32_t block_bytes = BlockBytes(manifest_);
  if (partition.has_hash_tree_extent() || partition.has_fec_extent()) {
    return absl::UnimplementedError(absl::StrCat(
        file.path(), ": ", name,
        " leaves its hash tree or error correction to the device that is "
        "updated; only images that are whole in the file are served"));
  }
  for (int i = 0; i < partition.operations_size(); ++i) {
    const PayloadOperation& operation = partition.operations(i);
    absl::Status status;
    switch (operation.type()) {
      case PayloadOperation::REPLACE:
      case PayloadOperation::REPLACE_BZ:
      case PayloadOperation::REPLACE_XZ: {
        ExtentWriter writer(operation, block_bytes, out);
        status = Replace(file, data_offset_ + operation.data_offset(),
                         operation, &writer);
        break;
      }
      case PayloadOperation::ZERO:
      case PayloadOperation::DISCARD:
        break;
      default:
        status = absl::UnimplementedError(
            absl::StrCat("type ", static_cast<int>(operation.type()),
                         " needs the old image; only full updates are served"));
    }
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat(file.path(), ": ", name, ", operation ",
                                       i, ": ", status.message()));
    }
    for (const proto::PayloadExtent& extent : operation.dst_extents()) {
      done(extent.num_blocks() * block_bytes);
    }
  }
  const proto::PayloadPartitionInfo& info = partition.new_partition_info();
  const absl::StatusOr<std::string> found = Sha256OfFile(out, info.size());
  if (!found.ok()) return found.status();
  const std::string expected = absl::BytesToHexString(info.hash());
  if (*found == expected) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(file.path(), ": ", name, " comes to the SHA-256 ", *found,
                   "; expected ", expected.empty() ? "one" : expected));
}

}  // namespace dmu::tools

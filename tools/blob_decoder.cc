// SPDX-License-Identifier: Apache-2.0
//
// blob_decoder.cc - see blob_decoder.h.
#include "tools/blob_decoder.h"

#include <bzlib.h>
#include <lzma.h>

#include <vector>

#include "absl/strings/str_cat.h"

namespace dmu::tools {
namespace {

constexpr size_t kOutBytes = 1 << 20;
// What the largest dictionary needs that a full update is made with, and more.
constexpr uint64_t kXzMemoryBytes = uint64_t{256} << 20;

absl::Status Damaged(const char* format, int code) {
  return absl::DataLossError(
      absl::StrCat("its ", format, " data are damaged (", code, ")"));
}

absl::Status TooLong(const char* format) {
  return absl::DataLossError(
      absl::StrCat("something is behind the end of its ", format, " data"));
}

absl::Status TooShort(const char* format) {
  return absl::DataLossError(absl::StrCat("its ", format, " data are cut"));
}

class PlainDecoder : public BlobDecoder {
 public:
  absl::Status Add(ConstByteSpan stored, const Sink& sink) override {
    return sink(stored);
  }
  absl::Status Finish() override { return absl::OkStatus(); }
};

class Bzip2Decoder : public BlobDecoder {
 public:
  ~Bzip2Decoder() override { BZ2_bzDecompressEnd(&stream_); }
  bool Begin() { return BZ2_bzDecompressInit(&stream_, 0, 0) == BZ_OK; }

  absl::Status Add(ConstByteSpan stored, const Sink& sink) override {
    // The library does not write to it.
    stream_.next_in =
        reinterpret_cast<char*>(const_cast<uint8_t*>(stored.data()));
    stream_.avail_in = static_cast<unsigned>(stored.size());
    for (bool full = false; stream_.avail_in > 0 || full;) {
      if (at_end_) return TooLong("bzip2");
      stream_.next_out = reinterpret_cast<char*>(out_.data());
      stream_.avail_out = static_cast<unsigned>(out_.size());
      const int code = BZ2_bzDecompress(&stream_);
      if (code != BZ_OK && code != BZ_STREAM_END) return Damaged("bzip2", code);
      at_end_ = code == BZ_STREAM_END;
      full = stream_.avail_out == 0 && !at_end_;
      absl::Status status =
          sink(ConstByteSpan(out_.data(), out_.size() - stream_.avail_out));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  absl::Status Finish() override {
    return at_end_ ? absl::OkStatus() : TooShort("bzip2");
  }

 private:
  bz_stream stream_ = {};
  std::vector<uint8_t> out_ = std::vector<uint8_t>(kOutBytes);
  bool at_end_ = false;
};

class XzDecoder : public BlobDecoder {
 public:
  ~XzDecoder() override { lzma_end(&stream_); }
  bool Begin() {
    return lzma_stream_decoder(&stream_, kXzMemoryBytes, 0) == LZMA_OK;
  }

  absl::Status Add(ConstByteSpan stored, const Sink& sink) override {
    stream_.next_in = stored.data();
    stream_.avail_in = stored.size();
    for (bool full = false; stream_.avail_in > 0 || full;) {
      if (at_end_) return TooLong("xz");
      stream_.next_out = out_.data();
      stream_.avail_out = out_.size();
      const lzma_ret code = lzma_code(&stream_, LZMA_RUN);
      // With a full buffer the call that finds nothing more says so.
      const bool idle = code == LZMA_BUF_ERROR && stream_.avail_in == 0;
      if (code != LZMA_OK && code != LZMA_STREAM_END && !idle) {
        return Damaged("xz", code);
      }
      at_end_ = code == LZMA_STREAM_END;
      full = stream_.avail_out == 0 && !at_end_;
      absl::Status status =
          sink(ConstByteSpan(out_.data(), out_.size() - stream_.avail_out));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  absl::Status Finish() override {
    return at_end_ ? absl::OkStatus() : TooShort("xz");
  }

 private:
  lzma_stream stream_ = LZMA_STREAM_INIT;
  std::vector<uint8_t> out_ = std::vector<uint8_t>(kOutBytes);
  bool at_end_ = false;
};

template <typename Decoder>
std::unique_ptr<BlobDecoder> Begun() {
  auto decoder = std::make_unique<Decoder>();
  if (!decoder->Begin()) return nullptr;
  return decoder;
}

}  // namespace

std::unique_ptr<BlobDecoder> BlobDecoder::Create(Format format) {
  switch (format) {
    case Format::kBzip2:
      return Begun<Bzip2Decoder>();
    case Format::kXz:
      return Begun<XzDecoder>();
    case Format::kPlain:
      break;
  }
  return std::make_unique<PlainDecoder>();
}

}  // namespace dmu::tools

// SPDX-License-Identifier: Apache-2.0
//
// blob_decoder.h - data of one of payload.bin's operations, as it comes out.
#ifndef TOOLS_BLOB_DECODER_H_
#define TOOLS_BLOB_DECODER_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "daemon/base/types.h"

namespace dmu::tools {

class BlobDecoder {
 public:
  enum class Format : uint8_t { kPlain, kBzip2, kXz };
  using Sink = std::function<absl::Status(ConstByteSpan)>;

  // nullptr without memory.
  static std::unique_ptr<BlobDecoder> Create(Format format);
  virtual ~BlobDecoder() = default;

  // The next piece of the stored data, in order; what comes out of it goes to
  // `sink`, whose errors are returned. kDataLoss for what is damaged.
  virtual absl::Status Add(ConstByteSpan stored, const Sink& sink) = 0;
  // kDataLoss when the data should go on.
  virtual absl::Status Finish() = 0;
};

}  // namespace dmu::tools

#endif  // TOOLS_BLOB_DECODER_H_

// SPDX-License-Identifier: Apache-2.0
//
// payload.h - the images in Android's payload.bin, as far as it is a full
// update: one that needs no old image.
//
// The file is a header, a manifest (proto/payload.proto), its signature, and
// the data. Signatures are not checked; the manifest's SHA-256 of each image
// is.
#ifndef TOOLS_PAYLOAD_H_
#define TOOLS_PAYLOAD_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/payload.pb.h"
#include "tools/file_io.h"

namespace dmu::tools {

class Payload {
 public:
  // Whether the file begins as one does.
  static absl::StatusOr<bool> IsPayload(const File& file);

  // kDataLoss for what is cut or damaged, kUnimplemented for another version.
  // The manifest is kept in memory: 64 MiB at most.
  static absl::StatusOr<Payload> Load(const File& file);

  std::vector<std::string> PartitionNames() const;
  // kNotFound, with the names there are.
  absl::StatusOr<const proto::PayloadPartition*> Find(
      const std::string& name) const;

  // Writes the image to `out`, whose bytes are zeros and as many as the image
  // has, and compares its digest. done(bytes): so many of the image were
  // written. kDataLoss, with the operation's number; kUnimplemented for one
  // that needs the old image.
  absl::Status Extract(const File& file,
                       const proto::PayloadPartition& partition,
                       const File& out,
                       const std::function<void(uint64_t)>& done) const;

 private:
  absl::Status Judge(const File& file) const;

  proto::PayloadManifest manifest_;
  uint64_t data_offset_ = 0;
  uint64_t data_bytes_ = 0;
};

}  // namespace dmu::tools

#endif  // TOOLS_PAYLOAD_H_

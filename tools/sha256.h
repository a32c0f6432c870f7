// SPDX-License-Identifier: Apache-2.0
//
// sha256.h - SHA-256 of texts and files, by libcrypto.
#ifndef TOOLS_SHA256_H_
#define TOOLS_SHA256_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/base/types.h"
#include "tools/file_io.h"

namespace dmu::tools {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(ConstByteSpan bytes);
  // 64 digits, lower case; nothing may be added afterwards. "" when libcrypto
  // failed, which is no digest of anything.
  std::string Finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string Sha256OfText(const std::string& text);
// Of the first `bytes` of the file.
absl::StatusOr<std::string> Sha256OfFile(const File& file, uint64_t bytes);

}  // namespace dmu::tools

#endif  // TOOLS_SHA256_H_

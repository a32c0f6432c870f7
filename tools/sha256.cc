// SPDX-License-Identifier: Apache-2.0
//
// sha256.cc - see sha256.h.
#include "tools/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <vector>

#include "absl/strings/escaping.h"

namespace dmu::tools {

struct Sha256::Context {
  EVP_MD_CTX* evp = nullptr;
  bool failed = false;
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  context_->evp = EVP_MD_CTX_new();
  context_->failed =
      context_->evp == nullptr ||
      EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr) != 1;
}

Sha256::~Sha256() { EVP_MD_CTX_free(context_->evp); }

void Sha256::Update(ConstByteSpan bytes) {
  if (context_->failed) return;
  context_->failed =
      EVP_DigestUpdate(context_->evp, bytes.data(), bytes.size()) != 1;
}

std::string Sha256::Finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned bytes = 0;
  if (context_->failed ||
      EVP_DigestFinal_ex(context_->evp, digest, &bytes) != 1) {
    return "";
  }
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest), bytes));
}

std::string Sha256OfText(const std::string& text) {
  Sha256 sha;
  sha.Update(ConstByteSpan(reinterpret_cast<const uint8_t*>(text.data()),
                           text.size()));
  return sha.Finish();
}

absl::StatusOr<std::string> Sha256OfFile(const File& file, uint64_t bytes) {
  std::vector<uint8_t> buffer(1 << 20);
  Sha256 sha;
  for (uint64_t at = 0; at < bytes;) {
    const ByteSpan part =
        ByteSpan(buffer).first(std::min<uint64_t>(buffer.size(), bytes - at));
    absl::Status status = file.ReadAt(at, part);
    if (!status.ok()) return status;
    sha.Update(part);
    at += part.size();
  }
  return sha.Finish();
}

}  // namespace dmu::tools

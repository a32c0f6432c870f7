// SPDX-License-Identifier: Apache-2.0
//
// cow_verify.h - is this COW file whole, can it be merged, does it lead from
// this base to its target? Reads everything, changes nothing.
#ifndef TOOLS_COW_VERIFY_H_
#define TOOLS_COW_VERIFY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/file_io.h"

namespace dmu::tools {

struct VerifyOptions {
  const File* base = nullptr;  // nullptr: the file alone
  unsigned threads = 1;
  bool progress = false;  // draw a bar
};

// Something that is wrong.
struct Finding {
  // "structure", "tables", "unit", "order", "base", "target": stable.
  std::string kind;
  std::string message;  // one line: what, where, expected, found
  int64_t op = -1;      // -1: not about one
  int64_t block = -1;   // of the target, or of the base
  int64_t offset = -1;  // in the COW file, bytes
};

enum class Verdict { kGood, kCorrupt, kWrongBase };

struct VerifyReport {
  static constexpr size_t kFindingsMax = 100;

  Verdict verdict = Verdict::kGood;
  std::vector<Finding> findings;  // the first kFindingsMax
  uint64_t finding_count = 0;
  // What is no damage, but will be in somebody's way.
  std::vector<std::string> warnings;
  uint64_t ops = 0;
  uint64_t units = 0;       // that were checked
  uint64_t unit_bytes = 0;  // of the blocks they give
  bool has_checks = false;  // the file has checks of its own for them
  bool base_checked = false;
  bool target_checked = false;  // all of it, against the file's digests
};

// Findings are in the order of the file, and the same for any number of
// threads. A file that cannot be loaded has one, the loader's sentence. Only
// storage that fails is an error here: kInternal, or kResourceExhausted without
// memory.
absl::StatusOr<VerifyReport> VerifyCow(const File& file,
                                       const VerifyOptions& options);

// "good", "corrupt", "wrong base".
const char* VerdictName(Verdict verdict);

}  // namespace dmu::tools

#endif  // TOOLS_COW_VERIFY_H_

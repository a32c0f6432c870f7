// SPDX-License-Identifier: Apache-2.0
//
// undo_log.h - undo logs as files and block devices.
#ifndef TOOLS_UNDO_LOG_H_
#define TOOLS_UNDO_LOG_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/cow/image.h"
#include "daemon/merge/undo_loader.h"
#include "tools/file_io.h"

namespace dmu::tools {

struct UndoLog {
  File file;
  merge::UndoTail tail;
  merge::UndoSuperblock super;
  uint64_t limit_bytes = 0;  // the log may grow to this
};

// Opens the log of this merge to go on with it, or begins one: in a file that
// is made if there is none, or on a block device that begins with zeros. A new
// one is durable when this returns. base_bytes: size of the base before the
// merge. Codes: as UndoLoader::Feed; kInternal when there is not enough room.
absl::StatusOr<UndoLog> OpenUndoLog(const std::string& path,
                                    const cow::Image& image,
                                    uint64_t base_bytes);

// Reads and checks a whole log, to undo the merge with it. `image` must outlive
// the loader. `progress`: draw a bar.
absl::StatusOr<std::unique_ptr<merge::UndoLoader>> LoadUndoLog(
    const File& file, const cow::Image& image, bool progress);

// Appends what the base has behind target_bytes, durably, and notes that. The
// log ends at `tail`; all of M is in it.
absl::Status SaveTail(const UndoLog& log, const File& base,
                      uint64_t target_bytes, merge::UndoTail tail);

}  // namespace dmu::tools

#endif  // TOOLS_UNDO_LOG_H_

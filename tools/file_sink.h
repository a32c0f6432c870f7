// SPDX-License-Identifier: Apache-2.0
//
// file_sink.h - a COW writer's sink and source over an open file or device.
#ifndef TOOLS_FILE_SINK_H_
#define TOOLS_FILE_SINK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/types.h"
#include "daemon/cow/sink.h"
#include "tools/file_io.h"

namespace dmu::tools {

// `file` must outlive it. On a block device what does not fit is refused before
// it is written.
class FileSink : public cow::Sink {
 public:
  explicit FileSink(const File& file) : file_(file) {}

  absl::Status WriteAt(uint64_t offset, ConstByteSpan bytes) override {
    if (file_.is_block_device() &&
        (offset > file_.size_bytes() ||
         bytes.size() > file_.size_bytes() - offset)) {
      return absl::ResourceExhaustedError(
          absl::StrCat(file_.path(), " has ", file_.size_bytes(),
                       " bytes, the COW file "
                       "needs ",
                       offset + bytes.size(), " or more; use a larger device"));
    }
    return file_.WriteAt(offset, bytes);
  }
  absl::Status Sync() override { return file_.Sync(); }
  absl::Status SetEnd(uint64_t bytes) override {
    if (file_.is_block_device()) return absl::OkStatus();
    return file_.Truncate(bytes);
  }

 private:
  const File& file_;
};

}  // namespace dmu::tools

#endif  // TOOLS_FILE_SINK_H_

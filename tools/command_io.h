// SPDX-License-Identifier: Apache-2.0
//
// command_io.h - carries out the commands of the merge and undo engines on
// files and block devices, one after the other.
#ifndef TOOLS_COMMAND_IO_H_
#define TOOLS_COMMAND_IO_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "daemon/cow/codec.h"
#include "daemon/cow/image.h"
#include "daemon/merge/command.h"
#include "tools/file_io.h"

namespace dmu::tools {

class CommandIo {
 public:
  struct Files {
    const cow::Image* image = nullptr;
    const File* cow = nullptr;
    const File* base = nullptr;
    const File* undo = nullptr;  // nullptr: no command is for it
    bool dry_run = false;        // write and flush nothing
  };
  struct Work {
    uint64_t base_bytes = 0;  // written, or it would have been
    uint64_t cow_bytes = 0;
    uint64_t undo_bytes = 0;
    uint64_t windows = 0;
    uint64_t scratch_windows = 0;
    uint64_t flushes = 0;
  };

  // All files must outlive it.
  explicit CommandIo(const Files& files);
  // False without memory.
  bool valid() const { return codec_ != nullptr; }

  IoStatus Execute(const merge::Command& command);
  const Work& work() const { return work_; }
  // The first I/O error there was, in the file's words; OK if none.
  const absl::Status& error() const { return error_; }

 private:
  IoStatus LoadUnit(const merge::Command& command);
  IoStatus Write(const File& file, uint64_t offset, ConstByteSpan bytes);
  IoStatus Flush(const File& file);
  IoStatus Note(absl::Status status);

  const Files files_;
  std::unique_ptr<cow::Codec> codec_;
  std::vector<uint8_t> stored_;  // a unit as it is in the file
  std::vector<uint8_t> block_;   // what is xored
  const std::vector<uint8_t> zeros_;
  Work work_;
  absl::Status error_;
};

}  // namespace dmu::tools

#endif  // TOOLS_COMMAND_IO_H_

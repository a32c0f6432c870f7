// SPDX-License-Identifier: Apache-2.0
//
// usertab.cc - see usertab.h.
#include "tools/dmuserctl/usertab.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tools/file_io.h"
#include "tools/protobuf_text.h"

namespace dmu::tools {

absl::StatusOr<proto::UserTab> ReadUserTab(const std::string& path) {
  absl::StatusOr<File> file = File::OpenForRead(path);
  if (!file.ok()) return file.status();
  std::string text(file->size_bytes(), '\0');
  absl::Status status = file->ReadAt(
      0, ByteSpan(reinterpret_cast<uint8_t*>(text.data()), text.size()));
  if (!status.ok()) return status;
  proto::UserTab table;
  status = ParseText(text, path, &table);
  if (!status.ok()) return status;
  for (const proto::UserDevice& device : table.device()) {
    const auto same = [&device](const proto::UserDevice& other) {
      return other.name() == device.name();
    };
    if (std::count_if(table.device().begin(), table.device().end(), same) > 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": the device '", device.name(), "' stands there twice"));
    }
  }
  return table;
}

}  // namespace dmu::tools

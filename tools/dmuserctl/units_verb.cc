// SPDX-License-Identifier: Apache-2.0
//
// units_verb.cc - units: what systemd's generator makes of /etc/dm-usertab. For
// each device a link that starts its dm-user@NAME.service at boot, and what
// must be there before it: the mounts and the block devices of its paths.
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/dmuserctl/device_verbs.h"
#include "tools/dmuserctl/usertab.h"
#include "tools/file_io.h"

ABSL_DECLARE_FLAG(std::string, table);

namespace dmu::tools {
namespace {

// As systemd-escape does: what is left is a part of a unit's name.
std::string Escape(const std::string& text) {
  std::string escaped;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                       (c >= 'A' && c <= 'Z') || c == ':' || c == '_' ||
                       (c == '.' && at > 0);
    if (plain) {
      escaped += c;
    } else if (c == '/') {
      escaped += '-';
    } else {
      absl::StrAppendFormat(&escaped, "\\x%02x", static_cast<uint8_t>(c));
    }
  }
  return escaped;
}

// A value of a unit file: '%' begins a specifier there, and what is quoted may
// have blanks.
std::string Quote(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '%') quoted += '%';
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

std::vector<std::string> Paths(const proto::UserDevice& device) {
  std::vector<std::string> paths;
  const auto add = [&paths](const std::string& path) {
    if (!path.empty()) paths.push_back(path);
  };
  if (device.has_file()) add(device.file().path());
  if (device.has_snapshot()) {
    add(device.snapshot().cow_path());
    add(device.snapshot().base_path());
    add(device.snapshot().source_path());
  }
  add(device.undo_log_path());
  return paths;
}

std::string DropIn(const proto::UserDevice& device, const std::string& table) {
  std::string text = absl::StrCat("# From ", table, "\n[Unit]\n");
  for (const std::string& path : Paths(device)) {
    if (absl::StartsWith(path, "/dev/")) {
      const std::string unit = Escape(path.substr(1)) + ".device";
      absl::StrAppend(&text, "Wants=", unit, "\nAfter=", unit, "\n");
    } else if (absl::StartsWith(path, "/")) {
      absl::StrAppend(&text, "RequiresMountsFor=", Quote(path), "\n");
    }
  }
  return text;
}

absl::Status MakeFolder(const std::string& path) {
  if (mkdir(path.c_str(), 0755) == 0 || errno == EEXIST) {
    return absl::OkStatus();
  }
  return ErrnoStatus(errno, path);
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  FILE* file = fopen(path.c_str(), "we");
  if (file == nullptr) return ErrnoStatus(errno, path);
  const bool written = fputs(text.c_str(), file) >= 0;
  if (fclose(file) == 0 && written) return absl::OkStatus();
  return ErrnoStatus(errno, path);
}

absl::Status WriteUnits(const proto::UserDevice& device,
                        const std::string& table, const std::string& folder) {
  const std::string unit =
      absl::StrCat("dm-user@", Escape(device.name()), ".service");
  const std::string drop_in = absl::StrCat(folder, "/", unit, ".d");
  absl::Status status = MakeFolder(drop_in);
  if (!status.ok()) return status;
  status = WriteFile(drop_in + "/50-usertab.conf", DropIn(device, table));
  if (!status.ok()) return status;
  const std::string wants = folder + "/local-fs.target.wants";
  status = MakeFolder(wants);
  if (!status.ok()) return status;
  const std::string link = absl::StrCat(wants, "/", unit);
  // Where the template is, systemd knows: the name alone counts.
  if (symlink("../dm-user@.service", link.c_str()) == 0 || errno == EEXIST) {
    return absl::OkStatus();
  }
  return ErrnoStatus(errno, link);
}

}  // namespace

absl::Status Units(const Arguments& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError(
        "units needs the folder to write to, and nothing else");
  }
  const std::string path = absl::GetFlag(FLAGS_table);
  absl::StatusOr<proto::UserTab> table = ReadUserTab(path);
  if (!table.ok()) return table.status();
  for (const proto::UserDevice& device : table->device()) {
    absl::Status status = WriteUnits(device, path, arguments[0]);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace dmu::tools

// SPDX-License-Identifier: Apache-2.0
//
// store.cc - see store.h.
#include "tools/ota/store.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"
#include "tools/ota/machine.h"
#include "tools/protobuf_text.h"
#include "tools/sha256.h"

namespace dmu::ota {
namespace {

using tools::File;

constexpr char kDigestLine[] = "# sha256 ";
constexpr uint64_t kTextBytesMax = 1 << 20;

}  // namespace

absl::StatusOr<std::string> ReadText(const std::string& path) {
  absl::StatusOr<File> file = File::OpenForRead(path);
  if (!file.ok()) return file.status();
  if (file->size_bytes() > kTextBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", file->size_bytes(), " bytes; a text of at ",
                     "most ", kTextBytesMax, " is expected"));
  }
  std::string text(file->size_bytes(), '\0');
  absl::Status status = file->ReadAt(
      0, ByteSpan(reinterpret_cast<uint8_t*>(text.data()), text.size()));
  if (!status.ok()) return status;
  return text;
}

namespace {

std::string Absolute(const std::string& folder) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::absolute(folder, error);
  return error ? folder : path.lexically_normal().string();
}

}  // namespace

Store::Store(const std::string& folder) : folder_(Absolute(folder)) {}

absl::Status Store::Lock() {
  const std::string path = folder_ + "/ota.lock";
  absl::StatusOr<File> made = File::CreateForWrite(path);
  if (absl::IsAlreadyExists(made.status())) made = File::OpenForWrite(path);
  if (made.ok()) {
    lock_ = *std::move(made);
    return absl::OkStatus();
  }
  if (!absl::IsAborted(made.status())) return made.status();
  return absl::AbortedError(
      absl::StrCat("another command is at work on the update in ", folder_,
                   "; wait for its end, or stop it"));
}

absl::StatusOr<proto::OtaState> Store::Load() const {
  absl::StatusOr<std::string> text = ReadText(Path());
  if (absl::IsNotFound(text.status())) return proto::OtaState();
  if (!text.ok()) return text.status();
  const size_t at = text->rfind(kDigestLine);
  std::string digest = at == std::string::npos ? "" : text->substr(at);
  const std::string body = text->substr(0, at);
  if (digest != absl::StrCat(kDigestLine, tools::Sha256OfText(body), "\n")) {
    return absl::DataLossError(absl::StrCat(
        Path(),
        " is damaged, or was changed by hand: its last line is not the SHA-256 "
        "of the lines before; restore the file, nothing else says whether the "
        "machine's images are whole"));
  }
  proto::OtaState state;
  absl::Status parsed = tools::ParseText(body, Path(), &state);
  if (!parsed.ok()) return absl::DataLossError(parsed.message());
  if (state.version() > kStateVersion) {
    return absl::UnimplementedError(
        absl::StrCat(Path(), " is of version ", state.version(),
                     "; this dmuserctl knows version ", kStateVersion));
  }
  return state;
}

absl::Status Store::Save(const proto::OtaState& state) const {
  std::string text;
  if (!google::protobuf::TextFormat::PrintToString(state, &text)) {
    return absl::InternalError("the state cannot be written as text");
  }
  text = absl::StrCat("# Written by dmuserctl; proto/ota.proto.\n", text);
  text = absl::StrCat(text, kDigestLine, tools::Sha256OfText(text), "\n");
  const std::string beside = Path() + ".new";
  if (unlink(beside.c_str()) != 0 && errno != ENOENT) {
    return tools::ErrnoStatus(errno, absl::StrCat("remove ", beside));
  }
  absl::StatusOr<File> file = File::CreateForWrite(beside);
  if (!file.ok()) return file.status();
  absl::Status status = file->WriteAt(
      0, ConstByteSpan(reinterpret_cast<const uint8_t*>(text.data()),
                       text.size()));
  if (status.ok()) status = file->Sync();
  if (!status.ok()) return status;
  if (rename(beside.c_str(), Path().c_str()) != 0) {
    return tools::ErrnoStatus(errno,
                              absl::StrCat("rename ", beside, " to ", Path()));
  }
  absl::StatusOr<File> renamed = File::OpenForRead(Path());
  return renamed.ok() ? renamed->SyncWithName() : renamed.status();
}

std::string Store::Resolve(const std::string& path) const {
  return absl::StartsWith(path, "/") ? path : absl::StrCat(folder_, "/", path);
}

}  // namespace dmu::ota

// SPDX-License-Identifier: Apache-2.0
//
// manifest.cc - see manifest.h.
#include "tools/ota/manifest.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tools/file_io.h"
#include "tools/ota/machine.h"
#include "tools/protobuf_text.h"
#include "tools/sha256.h"

namespace dmu::ota {
namespace {

using tools::File;

constexpr int kImagesMax = 64;
constexpr uint32_t kBootsMaxMax = 100;

std::string Beside(const std::string& manifest, const std::string& path) {
  const size_t slash = manifest.rfind('/');
  if (absl::StartsWith(path, "/") || slash == std::string::npos) return path;
  return absl::StrCat(manifest.substr(0, slash + 1), path);
}

bool IsDigest(const std::string& text) {
  return text.size() == 64 &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isxdigit(c) != 0; });
}

// A device-mapper name that is a file name, too.
bool IsName(const std::string& name) {
  return !name.empty() && name.size() < 64 && name[0] != '.' &&
         name[0] != '-' &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
         });
}

class Judge {
 public:
  Judge(const std::string& path, const Store& store)
      : path_(path), store_(store) {}

  absl::Status Take(const proto::OtaManifestImage& image, Manifest* manifest) {
    if (!IsName(image.name())) {
      return Bad(image, "name", "letters, digits, '-', '_' and '.'");
    }
    if (image.base().empty()) return Bad(image, "base", "a device or file");
    if (image.cow().empty()) return Bad(image, "cow", "a COW file");
    if (!IsDigest(image.cow_sha256())) {
      return Bad(image, "cow_sha256", "64 hexadecimal digits");
    }
    const std::string source = Beside(path_, image.cow());
    absl::StatusOr<File> cow = File::OpenForRead(source);
    if (!cow.ok()) return cow.status();

    proto::OtaImage* out = manifest->wanted.add_image();
    out->set_name(image.name());
    out->set_base(image.base());
    out->set_cow(image.place().empty() ? absl::StrCat(image.name(), ".cow")
                                       : image.place());
    out->set_cow_sha256(absl::AsciiStrToLower(image.cow_sha256()));
    out->set_cow_bytes(cow->size_bytes());
    out->set_undo_log(image.undo_log());
    absl::Status status = TakeDigests(image, out);
    if (!status.ok()) return status;
    out->set_is_copy(!cow->IsAt(store_.Resolve(out->cow())));
    manifest->sources.push_back(source);
    status = Claim(image, "name", image.name());
    if (status.ok() && image.has_verity()) {
      status = Claim(image, "verity", DeviceName(*out));
    }
    if (status.ok()) status = Claim(image, "base", store_.Resolve(out->base()));
    if (status.ok()) status = Claim(image, "cow", source);
    if (status.ok() && out->is_copy()) {
      status = Claim(image, "place", store_.Resolve(out->cow()));
    }
    if (status.ok() && !out->undo_log().empty()) {
      status = Claim(image, "undo_log", store_.Resolve(out->undo_log()));
    }
    return status;
  }

  // When all images are taken: what they say of each other.
  absl::Status TakeTrees(const proto::OtaManifest& message) {
    for (const proto::OtaManifestImage& image : message.image()) {
      const std::string& wanted = image.verity().hash_image();
      if (wanted.empty()) continue;
      const bool is_there = std::any_of(
          message.image().begin(), message.image().end(),
          [&](const auto& other) { return other.name() == wanted; });
      if (!is_there) {
        return Bad(
            image, "verity.hash_image",
            absl::StrCat("the name of an image; there is no '", wanted, "'"));
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::Status TakeDigests(const proto::OtaManifestImage& image,
                           proto::OtaImage* out) {
    if (!image.target_sha256().empty() && !IsDigest(image.target_sha256())) {
      return Bad(image, "target_sha256", "64 hexadecimal digits");
    }
    out->set_target_sha256(absl::AsciiStrToLower(image.target_sha256()));
    out->set_target_bytes(image.target_bytes());
    if (!image.has_verity()) return absl::OkStatus();
    if (!IsDigest(image.verity().root_hash())) {
      return Bad(image, "verity.root_hash", "64 hexadecimal digits");
    }
    *out->mutable_verity() = image.verity();
    out->mutable_verity()->set_root_hash(
        absl::AsciiStrToLower(image.verity().root_hash()));
    return absl::OkStatus();
  }

  absl::Status Bad(const proto::OtaManifestImage& image,
                   const std::string& field, const std::string& expected) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": image '", image.name(), "', field ", field,
                     ": expected ", expected));
  }

  // One thing for one purpose.
  absl::Status Claim(const proto::OtaManifestImage& image,
                     const std::string& field, const std::string& what) {
    const auto [at, is_new] =
        claimed_.emplace(what, absl::StrCat(image.name(), ".", field));
    if (is_new) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", what, " is used twice, as ", at->second,
                     " and as ", image.name(), ".", field));
  }

  const std::string path_;
  const Store& store_;
  std::map<std::string, std::string> claimed_;
};

}  // namespace

absl::StatusOr<Manifest> ReadManifest(const std::string& path,
                                      const std::string& sha256,
                                      const Store& store) {
  absl::StatusOr<std::string> text = ReadText(path);
  if (!text.ok()) return text.status();
  const std::string digest = tools::Sha256OfText(*text);
  if (!sha256.empty() && absl::AsciiStrToLower(sha256) != digest) {
    return absl::DataLossError(
        absl::StrCat(path, " has the SHA-256 ", digest, "; expected ", sha256));
  }
  proto::OtaManifest message;
  absl::Status status = tools::ParseText(*text, path, &message);
  if (!status.ok()) return status;
  if (message.image_size() == 0 || message.image_size() > kImagesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": it has ", message.image_size(),
                     " images; expected 1 to ", kImagesMax));
  }
  if (message.boots_max() > kBootsMaxMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": boots_max is ", message.boots_max(),
                     "; expected 1 to ", kBootsMaxMax));
  }
  Manifest manifest;
  OtaState& wanted = manifest.wanted;
  wanted.set_version(kStateVersion);
  wanted.set_phase(OtaState::STAGING);
  wanted.set_update(message.update());
  wanted.set_manifest_sha256(digest);
  wanted.set_boots_max(message.boots_max() == 0 ? kBootsMaxDefault
                                                : message.boots_max());
  Judge judge(path, store);
  int logs = 0;
  for (const proto::OtaManifestImage& image : message.image()) {
    status = judge.Take(image, &manifest);
    if (!status.ok()) return status;
    logs += !image.undo_log().empty();
  }
  status = judge.TakeTrees(message);
  if (!status.ok()) return status;
  if (logs != 0 && logs != message.image_size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": ", logs, " of ", message.image_size(),
        " images have an undo_log; a system is undone whole or not at all, "
        "give one to all or to none"));
  }
  return manifest;
}

}  // namespace dmu::ota

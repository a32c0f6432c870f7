// SPDX-License-Identifier: Apache-2.0
//
// file_world.cc - see file_world.h.
#include "tools/ota/file_world.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/merge/undo_format.h"
#include "tools/base_identity.h"
#include "tools/cow_file.h"
#include "tools/cow_merge.h"
#include "tools/cow_undo.h"
#include "tools/cow_verify.h"
#include "tools/file_io.h"
#include "tools/ota/placing.h"
#include "tools/ota/verity.h"
#include "tools/parallel.h"
#include "tools/progress_bar.h"
#include "tools/sha256.h"
#include "tools/target_reader.h"
#include "tools/undo_log.h"

namespace dmu::ota {
namespace {

using Presence = Devices::Presence;
using tools::CowFile;
using tools::File;

absl::Status Interrupted(const OtaImage& image, const std::string& what,
                         uint64_t merged_ops, uint64_t total_ops) {
  return absl::CancelledError(
      absl::StrCat(image.name(), ": ", what, " paused, ", merged_ops, " of ",
                   total_ops, " ops are merged; the same command goes on"));
}

absl::Status Named(const OtaImage& image, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(image.name(), ": ", status.message()));
}

constexpr char kMapperFolder[] = "/dev/mapper/";

// The one that has the hash tree; the manifest's judge has seen that it is
// there.
const OtaImage& HashImage(const OtaImage& image, const OtaState& state) {
  for (const OtaImage& other : state.image()) {
    if (other.name() == image.verity().hash_image()) return other;
  }
  return image;
}

// The new image, read from COW file and base.
class Target {
 public:
  static absl::StatusOr<Target> Open(const OtaImage& image,
                                     const Store& store) {
    absl::StatusOr<CowFile> cow =
        tools::OpenCowFile(store.Resolve(image.cow()));
    if (!cow.ok()) return cow.status();
    absl::StatusOr<File> base = File::OpenOnDisk(store.Resolve(image.base()));
    if (!base.ok()) return base.status();
    auto parts = std::make_unique<Parts>(
        Parts{*std::move(cow), *std::move(base), std::nullopt, {}});
    absl::StatusOr<tools::TargetReader> reader =
        tools::TargetReader::Create(parts->cow, parts->base);
    if (!reader.ok()) return reader.status();
    parts->reader.emplace(*std::move(reader));
    parts->image = {.name = image.name(),
                    .bytes = parts->reader->target_bytes(),
                    .read = [at = parts.get()](uint64_t offset, ByteSpan out) {
                      return at->reader->ReadAt(offset, out);
                    }};
    return Target(std::move(parts));
  }

  const ReadableImage& image() const { return parts_->image; }

 private:
  // They refer to each other, so they stay where they are.
  struct Parts {
    CowFile cow;
    File base;
    std::optional<tools::TargetReader> reader;
    ReadableImage image;
  };
  explicit Target(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
  std::unique_ptr<Parts> parts_;
};

}  // namespace

absl::Status FileWorld::Take(const Step& step, const OtaState& state) {
  if (step.kind == Step::Kind::kCheckSpace) return CheckSpace(state);
  const OtaImage& image = state.image(step.image);
  const auto at = static_cast<size_t>(step.image);
  const std::string source =
      at < options_.sources.size() ? options_.sources[at] : "";
  switch (step.kind) {
    case Step::Kind::kCheckSource:
      return CheckSource(image, source);
    case Step::Kind::kPlace:
      return Place(image, source);
    case Step::Kind::kVerify:
      return Verify(image);
    case Step::Kind::kCheckTree:
      return CheckTree(image, state);
    case Step::Kind::kCheckBase:
      return CheckBase(image);
    case Step::Kind::kCheckMapped: {
      absl::StatusOr<Presence> presence = devices_.Look(SnapshotOf(image));
      if (!presence.ok()) return presence.status();
      if (*presence == Presence::kServed) return absl::OkStatus();
      return absl::NotFoundError(absl::StrCat(
          image.name(), ": no device shows the new image; reboot first"));
    }
    case Step::Kind::kCheckVerified:
      return devices_.CheckVerity(DeviceName(image));
    case Step::Kind::kCheckMergeable:
      return CheckMergeable(image);
    case Step::Kind::kCheckIdle:
      return CheckIdle(image);
    case Step::Kind::kCheckUnused:
      return CheckUnused(image);
    case Step::Kind::kPrepareUndoLog:
      return PrepareUndoLog(image);
    case Step::Kind::kMerge:
      return Merge(image, /*keep_log=*/!state.forward_only());
    case Step::Kind::kFinish: {
      absl::StatusOr<Presence> presence = devices_.Look(SnapshotOf(image));
      if (!presence.ok()) return presence.status();
      if (*presence != Presence::kServed) return absl::OkStatus();
      return devices_.Finish(image.name());
    }
    case Step::Kind::kPauseMerge: {
      absl::StatusOr<Presence> presence = devices_.Look(SnapshotOf(image));
      if (!presence.ok()) return presence.status();
      if (*presence != Presence::kServed) return absl::OkStatus();
      return devices_.PauseMerge(image.name());
    }
    case Step::Kind::kUndo:
      return Undo(image);
    case Step::Kind::kMap:
      return devices_.Map(SnapshotOf(image));
    case Step::Kind::kMapVerity:
      // Only a boot that is counted may be ended by a block that does not fit.
      return devices_.MapVerity(
          {.name = DeviceName(image),
           .data_device = absl::StrCat(kMapperFolder, image.name()),
           .hash_device =
               absl::StrCat(kMapperFolder, HashImage(image, state).name()),
           .hash_offset_bytes = image.verity().hash_offset_bytes(),
           .root_hash = image.verity().root_hash(),
           .restarts = state.phase() == OtaState::TRIAL});
    case Step::Kind::kUnmapVerity:
      return devices_.UnmapVerity(DeviceName(image));
    case Step::Kind::kUnmap:
      return devices_.Unmap(image.name());
    case Step::Kind::kRemove: {
      absl::Status status;
      if (image.is_copy()) status = RemoveCow(store_.Resolve(image.cow()));
      if (status.ok() && !image.undo_log().empty()) {
        status = RemoveUndoLog(store_.Resolve(image.undo_log()));
      }
      return status;
    }
    case Step::Kind::kSave:
    case Step::Kind::kCheckSpace:
      break;
  }
  return absl::OkStatus();
}

bool FileWorld::IsAnyMapped(const OtaState& state) const {
  for (const OtaImage& image : state.image()) {
    const absl::StatusOr<Presence> presence = devices_.Look(SnapshotOf(image));
    if (!presence.ok() || *presence != Presence::kNone) return true;
  }
  return false;
}

Devices::Snapshot FileWorld::SnapshotOf(const OtaImage& image) const {
  return {.name = image.name(),
          .cow = store_.Resolve(image.cow()),
          .base = store_.Resolve(image.base())};
}

absl::Status FileWorld::CheckSource(const OtaImage& image,
                                    const std::string& source) {
  absl::StatusOr<bool> is_it =
      HasDigest(source, image.cow_bytes(), image.cow_sha256());
  if (!is_it.ok()) return is_it.status();
  if (!*is_it) {
    return absl::DataLossError(
        absl::StrCat(source,
                     " is not the COW file of the manifest: its "
                     "SHA-256 is another; get it again"));
  }
  absl::StatusOr<CowFile> cow = tools::OpenCowFile(source);
  if (!cow.ok()) return cow.status();
  absl::StatusOr<File> base = File::OpenOnDisk(store_.Resolve(image.base()));
  if (!base.ok()) return base.status();
  return tools::CheckBaseIdentity(*cow, *base);
}

absl::Status FileWorld::CheckSpace(const OtaState& state) {
  SpaceCheck check;
  for (int i = 0; i < state.image_size(); ++i) {
    const OtaImage& image = state.image(i);
    const std::string place = store_.Resolve(image.cow());
    absl::StatusOr<bool> is_there =
        HasDigest(place, image.cow_bytes(), image.cow_sha256());
    if (!is_there.ok()) return is_there.status();
    absl::Status status;
    if (!*is_there) status = check.Add(place, image.cow_bytes());
    if (status.ok() && !image.undo_log().empty()) {
      absl::StatusOr<CowFile> cow =
          tools::OpenCowFile(options_.sources[static_cast<size_t>(i)]);
      if (!cow.ok()) return cow.status();
      status = check.Add(store_.Resolve(image.undo_log()),
                         merge::UndoLogBytes(*cow->image));
    }
    if (!status.ok()) return status;
  }
  return check.Judge();
}

absl::Status FileWorld::Place(const OtaImage& image,
                              const std::string& source) {
  const std::string place = store_.Resolve(image.cow());
  absl::StatusOr<bool> is_there =
      HasDigest(place, image.cow_bytes(), image.cow_sha256());
  if (!is_there.ok()) return is_there.status();
  if (*is_there || !image.is_copy()) return absl::OkStatus();
  absl::StatusOr<File> other = File::OpenForRead(place);
  if (other.ok() && !other->is_block_device()) {
    return absl::AlreadyExistsError(absl::StrCat(
        place,
        " is there and is not the COW file of the manifest; remove it, "
        "or name another place"));
  }
  return CopyTo(source, place, image.cow_bytes(), image.cow_sha256());
}

absl::Status FileWorld::Verify(const OtaImage& image) {
  absl::StatusOr<File> cow = File::OpenForRead(store_.Resolve(image.cow()));
  if (!cow.ok()) return cow.status();
  absl::StatusOr<File> base = File::OpenOnDisk(store_.Resolve(image.base()));
  if (!base.ok()) return base.status();
  tools::VerifyOptions options;
  options.base = &*base;
  options.threads = tools::DefaultThreads();
  options.progress = options_.progress;
  absl::StatusOr<tools::VerifyReport> report = tools::VerifyCow(*cow, options);
  if (!report.ok()) return report.status();
  switch (report->verdict) {
    case tools::Verdict::kGood:
      return CheckTarget(image);
    case tools::Verdict::kCorrupt:
      return absl::DataLossError(absl::StrCat(
          cow->path(), " is corrupt: ", report->findings[0].message));
    case tools::Verdict::kWrongBase:
      break;
  }
  return absl::FailedPreconditionError(absl::StrCat(
      image.name(), ": wrong base: ", report->findings[0].message));
}

absl::Status FileWorld::CheckTarget(const OtaImage& image) {
  if (image.target_sha256().empty()) return absl::OkStatus();
  absl::StatusOr<Target> target = Target::Open(image, store_);
  if (!target.ok()) return target.status();
  const uint64_t bytes =
      image.target_bytes() != 0 ? image.target_bytes() : target->image().bytes;
  if (bytes > target->image().bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(image.name(), ": wrong base: the new image has ",
                     target->image().bytes, " bytes on it; expected ", bytes));
  }
  tools::ProgressBar bar("digesting  ", options_.progress, bytes);
  tools::Sha256 sum;
  std::vector<uint8_t> buffer(1 << 20);
  for (uint64_t at = 0; at < bytes;) {
    const ByteSpan part =
        ByteSpan(buffer).first(std::min<uint64_t>(buffer.size(), bytes - at));
    absl::Status status = target->image().read(at, part);
    if (!status.ok()) return status;
    sum.Update(part);
    at += part.size();
    bar.Add(part.size());
  }
  const std::string found = sum.Finish();
  if (found == image.target_sha256()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(image.name(), ": wrong base: the new image has the SHA-256 ",
                   found, " on it; expected ", image.target_sha256()));
}

absl::Status FileWorld::CheckTree(const OtaImage& image,
                                  const OtaState& state) {
  const OtaImage& hashes = HashImage(image, state);
  absl::StatusOr<Target> data = Target::Open(image, store_);
  if (!data.ok()) return data.status();
  absl::StatusOr<Target> other;
  if (&hashes != &image) other = Target::Open(hashes, store_);
  if (&hashes != &image && !other.ok()) return other.status();
  return ReadVerityTree(
             data->image(), &hashes == &image ? data->image() : other->image(),
             image.verity().hash_offset_bytes(), image.verity().root_hash())
      .status();
}

absl::Status FileWorld::CheckBase(const OtaImage& image) {
  absl::StatusOr<CowFile> cow = tools::OpenCowFile(store_.Resolve(image.cow()));
  if (!cow.ok()) return cow.status();
  absl::StatusOr<File> base = File::OpenOnDisk(store_.Resolve(image.base()));
  if (!base.ok()) return base.status();
  return tools::CheckBaseIdentity(*cow, *base);
}

absl::Status FileWorld::CheckIdle(const OtaImage& image) {
  absl::StatusOr<Presence> presence = devices_.Look(SnapshotOf(image));
  if (!presence.ok()) return presence.status();
  if (*presence != Presence::kNone) {
    return absl::AbortedError(absl::StrCat(
        "/dev/mapper/", image.name(),
        " is there and needs the COW file; reboot, or unmap it first"));
  }
  for (const std::string& path : {image.cow(), image.undo_log()}) {
    if (path.empty()) continue;
    const absl::Status status =
        File::OpenForWrite(store_.Resolve(path)).status();
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

absl::Status FileWorld::CheckUnused(const OtaImage& image) {
  absl::Status status = CheckIdle(image);
  if (!status.ok()) return status;
  return File::OpenForWrite(store_.Resolve(image.base())).status();
}

absl::Status FileWorld::CheckMergeable(const OtaImage& image) {
  absl::StatusOr<Presence> presence = devices_.Look(SnapshotOf(image));
  if (!presence.ok()) return presence.status();
  if (*presence == Presence::kServed) return absl::OkStatus();
  return CheckUnused(image);
}

absl::Status FileWorld::PrepareUndoLog(const OtaImage& image) {
  absl::StatusOr<CowFile> cow = tools::OpenCowFile(store_.Resolve(image.cow()));
  if (!cow.ok()) return cow.status();
  absl::StatusOr<File> base = File::OpenOnDisk(store_.Resolve(image.base()));
  if (!base.ok()) return base.status();
  return tools::OpenUndoLog(store_.Resolve(image.undo_log()), *cow->image,
                            base->size_bytes())
      .status();
}

absl::Status FileWorld::Merge(const OtaImage& image, bool keep_log) {
  const Devices::Snapshot snapshot = SnapshotOf(image);
  const std::string log = keep_log && !image.undo_log().empty()
                              ? store_.Resolve(image.undo_log())
                              : "";
  absl::StatusOr<Presence> presence = devices_.Look(snapshot);
  if (!presence.ok()) return presence.status();
  if (*presence == Presence::kServed) {
    return devices_.Merge(snapshot, log, options_.stop);
  }
  if (*presence == Presence::kOrphan) {
    return absl::AbortedError(absl::StrCat(
        "/dev/mapper/", image.name(),
        " is not served; start the daemon, or unmap it to merge without"));
  }
  tools::MergeOptions options;
  options.cow_path = snapshot.cow;
  options.base_path = snapshot.base;
  options.undo_log_path = log;
  options.progress = options_.progress;
  options.stop = options_.stop;
  options.windows_max = options_.windows_max;
  absl::StatusOr<tools::MergeSummary> summary = tools::MergeOffline(options);
  if (!summary.ok()) return Named(image, summary.status());
  if (summary->finished) return absl::OkStatus();
  return Interrupted(image, "merge", summary->merged_ops, summary->total_ops);
}

absl::Status FileWorld::Undo(const OtaImage& image) {
  absl::Status status = CheckIdle(image);
  if (!status.ok()) return status;
  tools::UndoOptions options;
  options.cow_path = store_.Resolve(image.cow());
  options.base_path = store_.Resolve(image.base());
  options.log_path = store_.Resolve(image.undo_log());
  options.progress = options_.progress;
  options.stop = options_.stop;
  options.steps_max = options_.windows_max;
  absl::StatusOr<tools::UndoSummary> summary = tools::UndoOffline(options);
  if (!summary.ok()) return Named(image, summary.status());
  if (summary->finished) return absl::OkStatus();
  return Interrupted(image, "undo", summary->merged_ops, summary->total_ops);
}

}  // namespace dmu::ota

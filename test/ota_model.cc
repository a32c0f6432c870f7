// SPDX-License-Identifier: Apache-2.0
//
// ota_model.cc - see ota_model.h.
#include "test/ota_model.h"

#include "absl/strings/str_cat.h"

namespace dmu::test {
namespace {

using Base = ModelImage::Base;
using Cow = ModelImage::Cow;
using Kind = ota::Step::Kind;
using ota::OtaState;

absl::Status Cut() { return absl::CancelledError("no power"); }

bool MayMap(ota::Phase phase) {
  return phase == OtaState::TRIAL || phase == OtaState::GOOD ||
         phase == OtaState::MERGING || phase == OtaState::UNDOING;
}

}  // namespace

void Model::PowerOff(Runs into) {
  for (ModelImage& image : images) image.mapped = image.verified = false;
  if (!state.boot_id().empty()) state.set_boot_id("past");
  runs = into;
  tried = false;
}

Model::System Model::OnBases() const {
  for (const ModelImage& image : images) {
    if (image.base == Base::kMixed || image.base != images[0].base) {
      return System::kNone;
    }
  }
  return images[0].base == Base::kOld ? System::kOld : System::kNew;
}

bool Model::AllMapped() const {
  for (const ModelImage& image : images) {
    if (!image.mapped || image.cow != Cow::kWhole) return false;
  }
  return images[0].verified;
}

bool Model::AnyMapped() const {
  for (const ModelImage& image : images) {
    if (image.mapped || image.verified) return true;
  }
  return false;
}

std::string Model::Breach() const {
  const ota::Phase phase = state.phase();
  for (const ModelImage& image : images) {
    if (phase == OtaState::NONE &&
        (image.cow != Cow::kAbsent || image.log || image.mapped)) {
      return "something of the update is left";
    }
    if (phase != OtaState::NONE && phase != OtaState::STAGING &&
        phase != OtaState::CLEANING && image.cow != Cow::kWhole) {
      return "a COW file is not whole";
    }
    if (image.verified && !image.mapped) return "a hash tree over nothing";
    if (image.mapped && image.cow != Cow::kWhole) {
      return "a mapped COW file is not whole";
    }
  }
  if (phase != OtaState::MERGING && phase != OtaState::UNDOING &&
      OnBases() == System::kNone) {
    return "the bases are no system";
  }
  const bool before_merge =
      phase == OtaState::STAGING || phase == OtaState::STAGED ||
      phase == OtaState::TRIAL || phase == OtaState::GOOD ||
      phase == OtaState::REJECTED;
  if (before_merge && OnBases() != System::kOld) {
    return "the bases are not the old system";
  }
  if (phase == OtaState::MERGED && OnBases() != System::kNew) {
    return "the bases are not the new system";
  }
  if (runs == Runs::kPlain && OnBases() == System::kNone) {
    return "the bases change under the system that runs on them";
  }
  if (runs == Runs::kPlain && AnyMapped()) {
    return "a system runs on bases that are served, too";
  }
  if (runs == Runs::kMapped && !AllMapped()) {
    return "the running system lost a device";
  }
  if (tries > kModelBootsMax) return "more boots tried than may be";
  return "";
}

std::string Model::Key() const {
  std::string key =
      absl::StrCat(state.phase(), ",", state.boots(), ",", state.boot_id(), ",",
                   static_cast<int>(runs), ",", tried, ",", tries);
  for (const ModelImage& image : images) {
    absl::StrAppend(&key, ";", static_cast<int>(image.base), ",",
                    static_cast<int>(image.cow), ",", image.log, ",",
                    image.mapped, ",", image.verified);
  }
  return key;
}

OtaState ModelWanted(bool undo_logs) {
  OtaState wanted;
  wanted.set_version(ota::kStateVersion);
  wanted.set_phase(OtaState::STAGING);
  wanted.set_update("u");
  wanted.set_manifest_sha256("m");
  wanted.set_boots_max(kModelBootsMax);
  for (int i = 0; i < kModelImages; ++i) {
    ota::OtaImage* image = wanted.add_image();
    image->set_name(absl::StrCat("image", i));
    image->set_is_copy(true);
    if (undo_logs) image->set_undo_log("log");
    if (i == 0) image->mutable_verity()->set_root_hash("root");
  }
  return wanted;
}

ota::Facts ModelFacts(const Model& model, bool undo_logs) {
  return {.boot_id = "now",
          .wanted = ModelWanted(undo_logs),
          .is_mapped = model.AnyMapped()};
}

void ModelWorld::Expect(bool holds, const std::string& rule) {
  if (!holds && !is_cut_) breaches_.push_back(rule);
}

bool ModelWorld::Effect() {
  if (effects_++ == faults_.cut_before) is_cut_ = true;
  return !is_cut_;
}

absl::Status ModelWorld::Save(const OtaState& state) {
  if (!Effect()) return Cut();
  const int nth = saves_++;
  const absl::Status failure = absl::InternalError("the state's disk");
  absl::Status status;
  switch (faults_.save) {
    case SaveFault::kNone:
      break;
    case SaveFault::kFails:
      return failure;
    case SaveFault::kLies:
      status = failure;
      break;
    case SaveFault::kLiesThenFails:
      if (nth > 0) return failure;
      status = failure;
      break;
    case SaveFault::kLiesLater:
      if (nth > 1) return failure;
      if (nth == 1) status = failure;
      break;
    case SaveFault::kFailsLater:
      if (nth > 0) return failure;
      break;
  }
  const ota::Phase from = model_->state.phase();
  const ota::Phase to = state.phase();
  if (to == OtaState::MERGING) {
    Expect(from == OtaState::GOOD || from == OtaState::UNDOING ||
               from == OtaState::MERGING,
           absl::StrCat("merging after ", ota::PhaseName(from)));
  }
  if (to == OtaState::TRIAL && from != OtaState::TRIAL) model_->tries = 0;
  model_->state = state;
  return status;
}

bool ModelWorld::IsMounted(const ModelImage& image) const {
  return model_->runs == Model::Runs::kPlain &&
         &image == &model_->images[kModelImages - 1];
}

absl::Status ModelWorld::CheckInUse(const ModelImage& image, bool base_too) {
  if (image.mapped || (base_too && IsMounted(image))) {
    return absl::AbortedError("in use");
  }
  return absl::OkStatus();
}

absl::Status ModelWorld::Write(ModelImage* image, Base to, bool fails) {
  if (image->base == to) return absl::OkStatus();
  if (!Effect()) return Cut();
  Expect(!IsMounted(*image), "a mounted base is written");
  image->base = Base::kMixed;
  if (fails) return absl::InternalError("a base's disk");
  if (!Effect()) return Cut();
  image->base = to;
  return absl::OkStatus();
}

absl::Status ModelWorld::Take(const ota::Step& step, const OtaState& state) {
  if (is_cut_) return Cut();
  if (step.image < 0) return absl::OkStatus();  // room for all
  const bool staging = model_->state.phase() == OtaState::NONE;
  Expect(staging || state.phase() == model_->state.phase() ||
             faults_.save != SaveFault::kNone,
         "a step was taken for another phase");
  return TakeOn(step.kind, state.image(step.image),
                &model_->images[step.image]);
}

absl::Status ModelWorld::TakeOn(Kind kind, const ota::OtaImage& record,
                                ModelImage* image) {
  const ota::Phase phase = model_->state.phase();
  const absl::Status broken = absl::InternalError("a disk");
  switch (kind) {
    case Kind::kPlace:
      Expect(phase == OtaState::STAGING, "a COW file comes unannounced");
      if (image->cow == Cow::kWhole) return absl::OkStatus();
      if (!Effect()) return Cut();
      image->cow = Cow::kTorn;
      if (faults_.other) return broken;
      if (!Effect()) return Cut();
      image->cow = Cow::kWhole;
      return absl::OkStatus();
    case Kind::kVerify:
    case Kind::kCheckTree:
    case Kind::kCheckBase:
      Expect(image->cow == Cow::kWhole && image->base == Base::kOld,
             "a COW file does not fit");
      return faults_.other ? absl::DataLossError("rotten") : absl::OkStatus();
    case Kind::kCheckMapped:
      return image->mapped ? absl::OkStatus()
                           : absl::NotFoundError("not mapped");
    case Kind::kCheckVerified:
      return image->verified ? absl::OkStatus()
                             : absl::NotFoundError("no hash tree");
    case Kind::kCheckMergeable:
      return image->mapped ? absl::OkStatus() : CheckInUse(*image, true);
    case Kind::kCheckIdle:
      return CheckInUse(*image, false);
    case Kind::kCheckUnused:
      return CheckInUse(*image, true);
    case Kind::kPrepareUndoLog:
      Expect(image->base == Base::kOld, "the undo log is late");
      if (faults_.other) return broken;
      if (!Effect()) return Cut();
      image->log = true;
      return absl::OkStatus();
    case Kind::kMerge: {
      absl::Status busy =
          image->mapped ? absl::OkStatus() : CheckInUse(*image, true);
      if (!busy.ok()) return busy;
      Expect(phase == OtaState::MERGING, "a merge in another phase");
      Expect(image->cow == Cow::kWhole, "a merge of no COW file");
      Expect(image->log || record.undo_log().empty() ||
                 model_->state.forward_only(),
             "no undo log is kept");
      return Write(image, Base::kNew, faults_.merge);
    }
    case Kind::kFinish:
      Expect(phase == OtaState::MERGED, "finished in another phase");
      Expect(image->base == Base::kNew, "finished on a base that is not new");
      if (faults_.other) return broken;
      // The device stays, but for whom it is of no matter.
      return Effect() ? absl::OkStatus() : Cut();
    case Kind::kPauseMerge:
      return faults_.other ? broken : absl::OkStatus();
    case Kind::kUndo: {
      absl::Status busy = CheckInUse(*image, true);
      if (!busy.ok()) return busy;
      Expect(phase == OtaState::UNDOING, "an undo in another phase");
      Expect(image->cow == Cow::kWhole && image->log, "an undo without a log");
      return Write(image, Base::kOld, faults_.undo);
    }
    case Kind::kMap:
      if (image->mapped) return absl::OkStatus();
      Expect(MayMap(phase), "mapped in another phase");
      Expect(image->cow == Cow::kWhole, "mapped without a COW file");
      if (!Effect()) return Cut();
      if (phase == OtaState::TRIAL && !model_->tried) {
        model_->tried = true;
        ++model_->tries;
        Expect(model_->tries <= model_->state.boots(), "tried, not counted");
      }
      if (faults_.map) return absl::UnavailableError("no module");
      image->mapped = true;
      if (faults_.map_lies) return absl::DeadlineExceededError("no answer");
      return absl::OkStatus();
    case Kind::kMapVerity:
      if (image->verified) return absl::OkStatus();
      Expect(record.has_verity() && image->mapped, "a hash tree over nothing");
      if (!Effect()) return Cut();
      if (faults_.verity) return absl::DataLossError("no hash fits");
      image->verified = true;
      return absl::OkStatus();
    case Kind::kUnmapVerity:
      if (!image->verified) return absl::OkStatus();
      if (faults_.other) return broken;
      if (!Effect()) return Cut();
      image->verified = false;
      return absl::OkStatus();
    case Kind::kUnmap:
      if (!image->mapped) return absl::OkStatus();
      if (image->verified) return absl::AbortedError("held by verity");
      if (faults_.other) return broken;
      if (!Effect()) return Cut();
      image->mapped = false;
      return absl::OkStatus();
    case Kind::kRemove:
      Expect(phase == OtaState::CLEANING, "removed in another phase");
      Expect(!image->mapped, "removed while mapped");
      if (image->cow == Cow::kAbsent && !image->log) return absl::OkStatus();
      if (!Effect()) return Cut();
      image->cow = Cow::kTorn;
      if (faults_.other) return broken;
      if (!Effect()) return Cut();
      image->cow = Cow::kAbsent;
      if (!Effect()) return Cut();
      image->log = false;
      return absl::OkStatus();
    case Kind::kSave:
    case Kind::kCheckSource:
    case Kind::kCheckSpace:
      break;
  }
  return absl::OkStatus();
}

}  // namespace dmu::test

// SPDX-License-Identifier: Apache-2.0
//
// ota_model.h - a machine with an update, reduced to what decides whether it
// boots: its images, its durable state, what it runs. Power may be cut before
// any of its effects, and kinds of steps may fail.
//
// Whatever breaks a rule (machine.h) is put down in `breaches` at once.
#ifndef TEST_OTA_MODEL_H_
#define TEST_OTA_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tools/ota/executor.h"
#include "tools/ota/machine.h"

namespace dmu::test {

inline constexpr int kModelImages = 2;
inline constexpr uint32_t kModelBootsMax = 2;

struct ModelImage {
  enum class Base : uint8_t { kOld, kMixed, kNew };
  enum class Cow : uint8_t { kAbsent, kTorn, kWhole };
  Base base = Base::kOld;
  Cow cow = Cow::kAbsent;
  bool log = false;
  bool mapped = false;
  bool verified = false;  // through its hash tree, which the first image has
};

// Everything that is so at a moment.
struct Model {
  enum class Runs : uint8_t {
    kInitramfs,  // nothing is mounted yet
    kPlain,      // a system on the bases; it mounted the last, and reads all
    kMapped,     // the new system, on mapped devices
    kRescue,     // something else, which uses none of it
  };
  // Which system is there, whole.
  enum class System : uint8_t { kNone, kOld, kNew };

  ota::OtaState state;
  ModelImage images[kModelImages];
  Runs runs = Runs::kPlain;
  bool tried = false;  // this boot mapped something in phase TRIAL
  uint32_t tries = 0;  // such boots since the update was activated

  void PowerOff(Runs into);
  // What the bases are without the COW files.
  System OnBases() const;
  bool AllMapped() const;
  bool AnyMapped() const;
  // What holds whenever nobody is at work. "" or what does not.
  std::string Breach() const;
  // Two models with the same key go on in the same way.
  std::string Key() const;
};

// The state that the model's manifest asks for.
ota::OtaState ModelWanted(bool undo_logs);
// Those of the running system: it booted "now", all else was in the "past".
ota::Facts ModelFacts(const Model& model, bool undo_logs);

enum class SaveFault : uint8_t {
  kNone,
  kFails,          // nothing changed
  kLies,           // it was done, and is said to have failed
  kLiesThenFails,  // the first lies, the others fail
  kLiesLater,      // the first goes well, the second lies, the others fail
  kFailsLater,     // the first goes well, the others fail
};
inline constexpr SaveFault kSaveFaults[] = {
    SaveFault::kNone,          SaveFault::kFails,     SaveFault::kLies,
    SaveFault::kLiesThenFails, SaveFault::kLiesLater, SaveFault::kFailsLater};

class ModelWorld : public ota::World {
 public:
  struct Faults {
    SaveFault save = SaveFault::kNone;
    bool map = false;
    bool map_lies = false;  // the device is there, and said not to be
    bool verity = false;
    bool merge = false;
    bool undo = false;
    bool other = false;  // all else that changes something
    // Power is cut before this effect; -1: it stays.
    int cut_before = -1;
  };

  ModelWorld(Model* model, const Faults& faults)
      : model_(model), faults_(faults) {}

  absl::StatusOr<ota::OtaState> Load() override { return model_->state; }
  absl::Status Save(const ota::OtaState& state) override;
  absl::Status Take(const ota::Step& step, const ota::OtaState& state) override;

  int effects() const { return effects_; }
  bool is_cut() const { return is_cut_; }
  const std::vector<std::string>& breaches() const { return breaches_; }

 private:
  // Before each effect; false when there is no power.
  bool Effect();
  bool IsMounted(const ModelImage& image) const;
  absl::Status CheckInUse(const ModelImage& image, bool base_too);
  absl::Status Write(ModelImage* image, ModelImage::Base to, bool fails);
  absl::Status TakeOn(ota::Step::Kind kind, const ota::OtaImage& record,
                      ModelImage* image);
  void Expect(bool holds, const std::string& rule);

  Model* model_;
  const Faults faults_;
  int effects_ = 0;
  int saves_ = 0;
  bool is_cut_ = false;
  std::vector<std::string> breaches_;
};

}  // namespace dmu::test

#endif  // TEST_OTA_MODEL_H_

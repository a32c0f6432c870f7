// SPDX-License-Identifier: Apache-2.0
//
// executor.h - takes the steps of a plan in a world: files and devices, or a
// test's model of them.
//
// Owns nothing that lasts: the process may end between any two calls of the
// world, and inside any.
#ifndef TOOLS_OTA_EXECUTOR_H_
#define TOOLS_OTA_EXECUTOR_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/ota/machine.h"

namespace dmu::ota {

class World {
 public:
  virtual ~World() = default;

  // The durable state; default-constructed when there is none. kDataLoss when
  // it is damaged.
  virtual absl::StatusOr<OtaState> Load() = 0;
  // Makes `state` the durable one: after an error, or a power cut inside, it is
  // this one or the one before, whole.
  virtual absl::Status Save(const OtaState& state) = 0;
  // Any other step, of an update with this durable state (for kStage before the
  // first save: the one to be). kAborted: something is in use.
  virtual absl::Status Take(const Step& step, const OtaState& state) = 0;
};

struct Outcome {
  OtaState state;  // durable when the command ended
  Boot boot = Boot::kPlain;
  bool changed = false;  // a step was taken
  // What is to be known beside that it is done; may be empty.
  std::string sentence;
  // Steps that failed and did not matter, or were got around.
  std::vector<std::string> warnings;
};

// kOutOfRange: the phase does not allow the command, the sentence says what
// does. Other errors are a step's; the command may then be given again.
absl::StatusOr<Outcome> RunCommand(World* world, Command command,
                                   const Facts& facts);

}  // namespace dmu::ota

#endif  // TOOLS_OTA_EXECUTOR_H_

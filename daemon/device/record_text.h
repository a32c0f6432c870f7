// SPDX-License-Identifier: Apache-2.0
//
// record_text.h - a device record as protobuf text.
//
// What a daemon keeps for the next one can be read, and in need written, by a
// person. Protobuf's own printer and parser need descriptors, which the daemon
// does without (libprotobuf-lite; the full library is a few hundred KiB of
// private memory), so the fields of proto/state.proto are named here once more.
// What is printed here TextFormat parses, and what it prints is parsed here;
// of the language of text formats everything is known but extensions, Any,
// and the hexadecimal and octal forms of numbers.
#ifndef DAEMON_DEVICE_RECORD_TEXT_H_
#define DAEMON_DEVICE_RECORD_TEXT_H_

#include <string>

#include "absl/status/status.h"
#include "proto/state.pb.h"

namespace dmu {

// Fields with their default value are left out.
std::string PrintRecord(const proto::DeviceRecord& record);

// kInvalidArgument: a sentence with the line, what was expected and what was
// found; `record` is then anything. A field that is not known, or there twice,
// is an error: it may be what matters.
absl::Status ParseRecord(const std::string& text, proto::DeviceRecord* record);

}  // namespace dmu

#endif  // DAEMON_DEVICE_RECORD_TEXT_H_

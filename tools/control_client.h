// SPDX-License-Identifier: Apache-2.0
//
// control_client.h - dmuserctl's side of the control socket; blocking.
#ifndef TOOLS_CONTROL_CLIENT_H_
#define TOOLS_CONTROL_CLIENT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/io/unique_fd.h"
#include "proto/control.pb.h"

namespace dmu::tools {

class ControlClient {
 public:
  // kDeadlineExceeded stands for "no daemon" throughout the tools: no socket,
  // nobody listening, or the daemon ended while an answer was awaited.
  static absl::StatusOr<ControlClient> Connect(const std::string& path);

  // Sends one request, waits for its (first) response. An error the daemon
  // answers with comes back as the status.
  absl::StatusOr<proto::Response> Call(proto::Request request);

  // The status of a device, or of all when name is empty.
  absl::StatusOr<proto::Response> Status(const std::string& name);
  // With latencies: asks for one device after the other, as all of them need
  // not fit into one answer. A device that goes meanwhile is left out.
  absl::StatusOr<proto::Response> StatusWithLatency(const std::string& name);

  // The next response to the last Call, for verbs that stream events.
  absl::StatusOr<proto::Response> Next();

 private:
  ControlClient(std::string path, UniqueFd fd)
      : path_(std::move(path)), fd_(std::move(fd)) {}

  absl::Status ReadAll(void* to, size_t bytes);

  std::string path_;
  UniqueFd fd_;
  uint64_t last_id_ = 0;
};

}  // namespace dmu::tools

#endif  // TOOLS_CONTROL_CLIENT_H_

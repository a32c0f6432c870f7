// SPDX-License-Identifier: Apache-2.0
//
// metrics_verb.cc - metrics: the daemon's status for Prometheus.
#include <stdio.h>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "tools/client/control_client.h"
#include "tools/dmuserctl/device_verbs.h"
#include "tools/file_io.h"
#include "tools/metrics_text.h"

ABSL_DECLARE_FLAG(std::string, control);
ABSL_DECLARE_FLAG(std::string, o);

namespace dmu::tools {
namespace {

// Whoever reads the file sees the old text or the new one.
absl::Status WriteFile(const std::string& path, const std::string& text) {
  absl::StatusOr<OutputFile> output = OutputFile::Create(path, /*force=*/true);
  if (!output.ok()) return output.status();
  absl::Status status = output->file().WriteAt(
      0, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  if (!status.ok()) return status;
  return output->Commit();
}

absl::StatusOr<std::string> Ask() {
  auto client = ControlClient::Connect({.path = absl::GetFlag(FLAGS_control)});
  if (!client.ok()) return client.status();
  auto status = client->StatusWithLatency();
  if (!status.ok()) return status.status();
  proto::Response all;
  *all.mutable_daemon() = std::move(status->daemon);
  for (proto::DeviceStatus& device : status->devices) {
    *all.add_devices() = std::move(device);
  }
  return MetricsText(all);
}

}  // namespace

absl::Status Metrics(const Arguments& arguments) {
  if (!arguments.empty()) {
    return absl::InvalidArgumentError("metrics takes no argument");
  }
  const std::string path = absl::GetFlag(FLAGS_o);
  RemoveTemporariesOnSignal();
  const absl::StatusOr<std::string> text = Ask();
  // That the daemon does not answer is a figure, too, and the old ones must not
  // stand in the file for ever.
  const bool down = absl::IsDeadlineExceeded(text.status());
  if (!text.ok() && !down) return text.status();
  const std::string& out = down ? MetricsTextDown() : *text;
  absl::Status written;
  if (path.empty()) {
    fwrite(out.data(), 1, out.size(), stdout);
  } else {
    written = WriteFile(path, out);
  }
  return written.ok() ? text.status() : written;
}

}  // namespace dmu::tools

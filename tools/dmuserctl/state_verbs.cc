// SPDX-License-Identifier: Apache-2.0
//
// state_verbs.cc - merge, status, list: what the daemon knows and does.
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tools/client/control_client.h"
#include "tools/cow_file.h"
#include "tools/dm.h"
#include "tools/dmuserctl/device_verbs.h"
#include "tools/dmuserctl/status_text.h"
#include "tools/file_io.h"
#include "tools/progress_bar.h"
#include "tools/undo_log.h"

ABSL_DECLARE_FLAG(std::string, control);
ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(bool, quiet);
ABSL_DECLARE_FLAG(std::string, undo_log);

ABSL_FLAG(bool, wait, false, "merge: wait until it is done");
ABSL_FLAG(bool, pause, false, "merge: stop after the window at hand");
ABSL_FLAG(std::string, rate, "",
          "at most so many bytes per second, as 500K, 20M or 1G; none: as fast "
          "as it goes");
ABSL_FLAG(std::string, pressure, "",
          "hold merges while other tasks wait for I/O or memory more than this "
          "percentage of the time; none: never");
ABSL_FLAG(std::string, merges, "",
          "merges that go on at once; the others wait in turn");
ABSL_FLAG(bool, follow, false,
          "status --watch: go on when the merge has ended");
ABSL_FLAG(bool, watch, false, "status: go on at every change");
ABSL_FLAG(
    bool, latency, false,
    "status: how long requests took in the daemon: the times that 50, 90, "
    "99 and 99.9 % of them did not exceed, and the longest");

namespace dmu::tools {

namespace {

void PrintEvent(const proto::DeviceStatus& device) {
  if (absl::GetFlag(FLAGS_json)) {
    printf("%s\n", StatusJson(device).dump().c_str());
  } else {
    PrintDevice(device);
  }
  fflush(stdout);
}

absl::Status MergeResult(const proto::DeviceStatus& device) {
  if (device.merge().state() != proto::MergeStatus::FAILED) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat(
      device.name(), ": the merge stopped: ", device.merge().error(),
      "; the device still reads right. Mend the cause and start "
      "the merge again"));
}

absl::Status WaitForMerge(ControlClient* client, const std::string& name) {
  ProgressBar bar("merging", /*enabled=*/!absl::GetFlag(FLAGS_quiet));
  auto last = client->Watch(name, [&bar](const proto::DeviceStatus& device) {
    bar.Update(device.merge().merged_bytes(), device.merge().total_bytes());
    return true;
  });
  if (!last.ok()) return last.status();
  bar.Finish();
  return MergeResult(*last);
}

absl::Status Watch(ControlClient* client, const std::string& name) {
  return client
      ->Watch(
          name,
          [](const proto::DeviceStatus& device) {
            PrintEvent(device);
            return true;
          },
          /*past_merge=*/absl::GetFlag(FLAGS_follow))
      .status();
}

}  // namespace

// A number with K, M or G (of 1024); "none" is 0.
absl::Status ParseBytes(const std::string& flag, const std::string& text,
                        uint64_t* value) {
  *value = 0;
  if (text == "none") return absl::OkStatus();
  static constexpr char kUnits[] = "KMG";
  std::string digits = text;
  uint64_t unit = 1;
  const char* at =
      text.empty() ? nullptr : std::strchr(kUnits, std::toupper(text.back()));
  if (at != nullptr && *at != '\0') {
    unit = uint64_t{1024} << 10 * (at - kUnits);
    digits.pop_back();
  }
  if (absl::SimpleAtoi(digits, value) && *value > 0 &&
      *value <= UINT64_MAX / unit) {
    *value *= unit;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", text, "\" is no value for --", flag,
      ": a number above 0, of bytes per second with K, M or G, or none"));
}

absl::Status ParseCount(const std::string& flag, const std::string& text,
                        uint32_t* value) {
  if (text == "none" && flag == "pressure") {
    *value = 0;
    return absl::OkStatus();
  }
  if (absl::SimpleAtoi(text, value)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is no value for --", flag, ": a number"));
}

void PrintThrottle(const proto::Throttle& throttle) {
  printf("all merges together: %s; held %s; %u at once\n",
         throttle.rate_bytes_per_s() == 0
             ? "as fast as it goes"
             : absl::StrCat(FormatBytes(throttle.rate_bytes_per_s()), "/s")
                   .c_str(),
         throttle.pressure_percent() == 0
             ? "never"
             : absl::StrCat("above ", throttle.pressure_percent(),
                            " % pressure of others")
                   .c_str(),
         throttle.merges_max());
}

// Makes the undo log of the device's merge, or finds that it is one.
absl::Status PrepareUndoLog(ControlClient* client, const std::string& name,
                            const std::string& path) {
  auto status = client->Status(name);
  if (!status.ok()) return status.status();
  if (status->devices.empty() || status->devices[0].kind() != "snapshot") {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": has nothing to merge: it is no snapshot"));
  }
  const proto::DeviceStatus& device = status->devices[0];
  absl::StatusOr<CowFile> cow = OpenCowFile(device.cow_path());
  if (!cow.ok()) return cow.status();
  absl::StatusOr<File> base = File::OpenForRead(device.base_path());
  if (!base.ok()) return base.status();
  if (base->IsAt(path) || cow->file.IsAt(path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the undo log ", path, " is the base or COW file"));
  }
  return OpenUndoLog(path, *cow->image, base->size_bytes()).status();
}

absl::Status StartMergeBy(ControlClient* client, const std::string& name,
                          ControlClient::MergeOptions options) {
  if (const std::string log = options.undo_log_path; !log.empty()) {
    std::error_code error;
    const std::string path = std::filesystem::absolute(log, error);
    if (error) {
      return absl::InternalError(absl::StrCat(log, ": ", error.message()));
    }
    absl::Status prepared = PrepareUndoLog(client, name, path);
    // In use: the daemon goes on with it.
    if (!prepared.ok() && !absl::IsAborted(prepared)) return prepared;
    options.undo_log_path = path;
  }
  return client->StartMerge(name, options);
}

absl::Status StartMerge(const std::string& name, const std::string& undo_log,
                        uint64_t rate_bytes_per_s) {
  auto client = ControlClient::Connect({.path = absl::GetFlag(FLAGS_control)});
  if (!client.ok()) return client.status();
  ControlClient::MergeOptions options = {.undo_log_path = undo_log};
  if (rate_bytes_per_s > 0) options.rate_bytes_per_s = rate_bytes_per_s;
  return StartMergeBy(&*client, name, std::move(options));
}

absl::Status Merge(const Arguments& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError(
        "merge needs the name of the device, and nothing else");
  }
  const bool pause = absl::GetFlag(FLAGS_pause);
  const std::string log = absl::GetFlag(FLAGS_undo_log);
  if (pause && (absl::GetFlag(FLAGS_wait) || !log.empty())) {
    return absl::InvalidArgumentError(
        "--pause and --wait or --undo-log exclude each other");
  }
  auto client = ControlClient::Connect({.path = absl::GetFlag(FLAGS_control)});
  if (!client.ok()) return client.status();
  if (pause) return client->PauseMerge(arguments[0]);
  ControlClient::MergeOptions options = {.undo_log_path = log};
  if (const std::string rate = absl::GetFlag(FLAGS_rate); !rate.empty()) {
    uint64_t bytes = 0;
    absl::Status parsed = ParseBytes("rate", rate, &bytes);
    if (!parsed.ok()) return parsed;
    options.rate_bytes_per_s = bytes;
  }
  absl::Status started =
      StartMergeBy(&*client, arguments[0], std::move(options));
  if (!started.ok() || !absl::GetFlag(FLAGS_wait)) return started;
  return WaitForMerge(&*client, arguments[0]);
}

absl::Status Throttle(const Arguments& arguments) {
  if (!arguments.empty()) {
    return absl::InvalidArgumentError("throttle takes flags only");
  }
  proto::Throttle limits;
  absl::Status status;
  if (const std::string rate = absl::GetFlag(FLAGS_rate); !rate.empty()) {
    uint64_t bytes = 0;
    status.Update(ParseBytes("rate", rate, &bytes));
    limits.set_rate_bytes_per_s(bytes);
  }
  if (const std::string pressure = absl::GetFlag(FLAGS_pressure);
      !pressure.empty()) {
    uint32_t percent = 0;
    status.Update(ParseCount("pressure", pressure, &percent));
    limits.set_pressure_percent(percent);
  }
  if (const std::string merges = absl::GetFlag(FLAGS_merges); !merges.empty()) {
    uint32_t count = 0;
    status.Update(ParseCount("merges", merges, &count));
    limits.set_merges_max(count);
  }
  if (!status.ok()) return status;
  auto client = ControlClient::Connect({.path = absl::GetFlag(FLAGS_control)});
  if (!client.ok()) return client.status();
  auto in_force = client->Throttle(limits);
  if (!in_force.ok()) return in_force.status();
  if (!absl::GetFlag(FLAGS_quiet)) PrintThrottle(*in_force);
  return absl::OkStatus();
}

absl::Status Status(const Arguments& arguments) {
  if (arguments.size() > 1) {
    return absl::InvalidArgumentError("status takes one device name, or none");
  }
  const std::string name = arguments.empty() ? "" : arguments[0];
  if (absl::GetFlag(FLAGS_watch) && name.empty()) {
    return absl::InvalidArgumentError("status --watch needs a device name");
  }
  if (absl::GetFlag(FLAGS_follow) && !absl::GetFlag(FLAGS_watch)) {
    return absl::InvalidArgumentError("--follow goes with --watch");
  }
  if (absl::GetFlag(FLAGS_watch) && absl::GetFlag(FLAGS_latency)) {
    return absl::InvalidArgumentError(
        "--watch and --latency exclude each other");
  }
  auto client = ControlClient::Connect({.path = absl::GetFlag(FLAGS_control)});
  if (!client.ok()) return client.status();
  if (absl::GetFlag(FLAGS_watch)) return Watch(&*client, name);
  const bool latency = absl::GetFlag(FLAGS_latency);
  auto status =
      latency ? client->StatusWithLatency(name) : client->Status(name);
  if (!status.ok()) return status.status();
  if (absl::GetFlag(FLAGS_json)) {
    nlohmann::ordered_json json;
    json["daemon"] = StatusJson(status->daemon);
    json["devices"] = nlohmann::ordered_json::array();
    for (const proto::DeviceStatus& device : status->devices) {
      json["devices"].push_back(StatusJson(device));
    }
    printf("%s\n", json.dump(2).c_str());
    return absl::OkStatus();
  }
  PrintDaemon(status->daemon, static_cast<int>(status->devices.size()));
  for (const proto::DeviceStatus& device : status->devices) {
    PrintDevice(device);
    if (latency) PrintLatencies(device);
  }
  return absl::OkStatus();
}

// Devices of the kernel, with or without a daemon: what is mapped is there even
// when nobody serves it.
absl::Status List(const Arguments& arguments) {
  if (!arguments.empty()) {
    return absl::InvalidArgumentError("list takes no argument");
  }
  absl::Status mapper = CheckDeviceMapper();
  if (!mapper.ok()) return mapper;
  auto names = ListUserDevices();
  if (!names.ok()) return names.status();
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const std::string& name : *names) {
    auto status = UserDeviceStatus(name);
    if (!status.ok()) continue;  // removed since it was listed
    if (absl::GetFlag(FLAGS_json)) {
      json.push_back({{"name", name}, {"kernel_status", *status}});
    } else {
      printf("%s\t%s\n", name.c_str(), status->c_str());
    }
  }
  if (absl::GetFlag(FLAGS_json)) printf("%s\n", json.dump(2).c_str());
  return absl::OkStatus();
}

}  // namespace dmu::tools

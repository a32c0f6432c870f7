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
ABSL_FLAG(bool, watch, false, "status: go on at every change");

namespace dmu::tools {

namespace {

const char* MergeStateName(proto::MergeStatus::State state) {
  switch (state) {
    case proto::MergeStatus::IDLE:
      return "idle";
    case proto::MergeStatus::RUNNING:
      return "running";
    case proto::MergeStatus::DONE:
      return "done";
    case proto::MergeStatus::FAILED:
      return "failed";
    default:
      return "unknown";
  }
}

const char* DeviceStateName(proto::DeviceStatus::State state) {
  switch (state) {
    case proto::DeviceStatus::ATTACHING:
      return "attaching";
    case proto::DeviceStatus::SERVING:
      return "serving";
    case proto::DeviceStatus::DETACHING:
      return "detaching";
    case proto::DeviceStatus::PREPARED:
      return "prepared";
    default:
      return "unknown";
  }
}

uint64_t SecondsLeft(const proto::MergeStatus& merge) {
  const uint64_t left =
      merge.total_bytes() - std::min(merge.total_bytes(), merge.merged_bytes());
  return left / std::max<uint64_t>(merge.rate_bytes_per_s(), 1);
}

nlohmann::ordered_json ToJson(const proto::DeviceStatus& device) {
  nlohmann::ordered_json json;
  json["name"] = device.name();
  json["state"] = DeviceStateName(device.state());
  json["kind"] = device.kind();
  json["size_bytes"] = device.size_bytes();
  json["read_only"] = device.read_only();
  if (!device.cow_path().empty()) json["cow"] = device.cow_path();
  if (!device.base_path().empty()) json["base"] = device.base_path();
  if (!device.source_path().empty()) json["source"] = device.source_path();
  json["reads"] = device.reads();
  json["read_bytes"] = device.read_bytes();
  json["writes"] = device.writes();
  json["write_bytes"] = device.write_bytes();
  json["other_requests"] = device.other_requests();
  json["errors"] = device.errors();
  if (device.has_merge()) {
    const proto::MergeStatus& merge = device.merge();
    nlohmann::ordered_json& to = json["merge"];
    to["state"] = MergeStateName(merge.state());
    to["merged_ops"] = merge.merged_ops();
    to["total_ops"] = merge.total_ops();
    to["merged_bytes"] = merge.merged_bytes();
    to["total_bytes"] = merge.total_bytes();
    if (!merge.error().empty()) to["error"] = merge.error();
    if (merge.state() == proto::MergeStatus::RUNNING) {
      to["rate_bytes_per_s"] = merge.rate_bytes_per_s();
      if (merge.rate_bytes_per_s() > 0) to["eta_s"] = SecondsLeft(merge);
      if (!merge.held().empty()) to["waits_for"] = merge.held();
    }
    if (!merge.undo_log_path().empty()) {
      to["undo_log_path"] = merge.undo_log_path();
      to["undo_log_bytes"] = merge.undo_log_bytes();
    }
  }
  return json;
}

nlohmann::ordered_json ToJson(const proto::DaemonStatus& daemon) {
  nlohmann::ordered_json json;
  json["version"] = daemon.version();
  json["pid"] = daemon.pid();
  json["anonymous_bytes"] = daemon.anonymous_bytes();
  json["threads"] = daemon.threads();
  json["pool_bytes"] = daemon.pool_bytes();
  json["pool_used_bytes"] = daemon.pool_used_bytes();
  json["merge_rate_bytes_per_s"] = daemon.throttle().rate_bytes_per_s();
  json["merge_pressure_percent"] = daemon.throttle().pressure_percent();
  json["merges_max"] = daemon.throttle().merges_max();
  json["knows_pressure"] = daemon.knows_pressure();
  return json;
}

void PrintDevice(const proto::DeviceStatus& device) {
  printf("%s: %s, %s, %.1f MiB%s\n", device.name().c_str(),
         DeviceStateName(device.state()), device.kind().c_str(),
         static_cast<double>(device.size_bytes()) / (1 << 20),
         device.read_only() ? ", read-only" : "");
  if (!device.cow_path().empty()) {
    printf("  cow   %s\n", device.cow_path().c_str());
  }
  if (!device.base_path().empty()) {
    printf("  base  %s\n", device.base_path().c_str());
  }
  if (!device.source_path().empty()) {
    printf("  source %s\n", device.source_path().c_str());
  }
  printf(
      "  io    %llu reads (%.1f MiB), %llu writes (%.1f MiB), %llu others, "
      "%llu errors\n",
      static_cast<unsigned long long>(device.reads()),
      static_cast<double>(device.read_bytes()) / (1 << 20),
      static_cast<unsigned long long>(device.writes()),
      static_cast<double>(device.write_bytes()) / (1 << 20),
      static_cast<unsigned long long>(device.other_requests()),
      static_cast<unsigned long long>(device.errors()));
  if (!device.has_merge()) return;
  const proto::MergeStatus& merge = device.merge();
  const double percent = merge.total_bytes() == 0
                             ? 100.0
                             : 100.0 *
                                   static_cast<double>(merge.merged_bytes()) /
                                   static_cast<double>(merge.total_bytes());
  printf("  merge %s, %llu of %llu ops, %.1f of %.1f MiB (%.1f %%)%s%s\n",
         MergeStateName(merge.state()),
         static_cast<unsigned long long>(merge.merged_ops()),
         static_cast<unsigned long long>(merge.total_ops()),
         static_cast<double>(merge.merged_bytes()) / (1 << 20),
         static_cast<double>(merge.total_bytes()) / (1 << 20), percent,
         merge.error().empty() ? "" : ": ", merge.error().c_str());
  if (merge.state() == proto::MergeStatus::RUNNING &&
      merge.rate_bytes_per_s() > 0) {
    printf("  %.1f MB/s, %llu s left%s%s\n",
           static_cast<double>(merge.rate_bytes_per_s()) / 1e6,
           static_cast<unsigned long long>(SecondsLeft(merge)),
           merge.held().empty() ? "" : "; waits for ", merge.held().c_str());
  } else if (!merge.held().empty()) {
    printf("  waits for %s\n", merge.held().c_str());
  }
  if (merge.undo_log_path().empty()) return;
  printf("  undo log %s, %.1f MiB\n", merge.undo_log_path().c_str(),
         static_cast<double>(merge.undo_log_bytes()) / (1 << 20));
}

void PrintEvent(const proto::DeviceStatus& device) {
  if (absl::GetFlag(FLAGS_json)) {
    printf("%s\n", ToJson(device).dump().c_str());
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
      ->Watch(name,
              [](const proto::DeviceStatus& device) {
                PrintEvent(device);
                return true;
              })
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
  auto client = ControlClient::Connect({.path = absl::GetFlag(FLAGS_control)});
  if (!client.ok()) return client.status();
  if (absl::GetFlag(FLAGS_watch)) return Watch(&*client, name);
  auto status = client->Status(name);
  if (!status.ok()) return status.status();
  if (absl::GetFlag(FLAGS_json)) {
    nlohmann::ordered_json json;
    json["daemon"] = ToJson(status->daemon);
    json["devices"] = nlohmann::ordered_json::array();
    for (const proto::DeviceStatus& device : status->devices) {
      json["devices"].push_back(ToJson(device));
    }
    printf("%s\n", json.dump(2).c_str());
    return absl::OkStatus();
  }
  const proto::DaemonStatus& daemon = status->daemon;
  printf("dmuserd %s, pid %u, %u thread%s, %llu KiB anonymous, %zu device%s\n",
         daemon.version().c_str(), daemon.pid(), daemon.threads(),
         daemon.threads() == 1 ? "" : "s",
         static_cast<unsigned long long>(daemon.anonymous_bytes() / 1024),
         status->devices.size(), status->devices.size() == 1 ? "" : "s");
  for (const proto::DeviceStatus& device : status->devices) {
    PrintDevice(device);
  }
  return absl::OkStatus();
}

// Devices of the kernel, with or without a daemon: what is mapped is there even
// when nobody serves it.
absl::Status List(const Arguments& arguments) {
  if (!arguments.empty()) {
    return absl::InvalidArgumentError("list takes no argument");
  }
  absl::Status kernel = CheckKernelSupport();
  if (!kernel.ok()) return kernel;
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

// SPDX-License-Identifier: Apache-2.0
//
// status_text.cc - see status_text.h.
#include "tools/dmuserctl/status_text.h"

#include <stdio.h>
#include <time.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/dm.h"
#include "tools/latency.h"

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
    case proto::DeviceStatus::WAITING:
      return "waiting";
    default:
      return "unknown";
  }
}

uint64_t SecondsLeft(const proto::MergeStatus& merge) {
  const uint64_t left =
      merge.total_bytes() - std::min(merge.total_bytes(), merge.merged_bytes());
  return left / std::max<uint64_t>(merge.rate_bytes_per_s(), 1);
}

// Local time, as people write it.
std::string TimeText(uint64_t unix_ms) {
  const auto seconds = static_cast<time_t>(unix_ms / 1000);
  tm local = {};
  char text[32] = "";
  if (localtime_r(&seconds, &local) == nullptr ||
      strftime(text, sizeof(text), "%F %T", &local) == 0) {
    return absl::StrCat(unix_ms / 1000);
  }
  return text;
}

std::string UsText(uint64_t us) {
  if (us < 1000) return absl::StrCat(us, " us");
  if (us < 1'000'000) {
    return absl::StrFormat("%.1f ms", static_cast<double>(us) / 1e3);
  }
  return absl::StrFormat("%.1f s", static_cast<double>(us) / 1e6);
}

constexpr struct {
  const char* name;  // in JSON, with _us
  const char* title;
  double part;
} kPercentiles[] = {
    {"p50_us", "p50", 0.5},
    {"p90_us", "p90", 0.9},
    {"p99_us", "p99", 0.99},
    {"p99_9_us", "p99.9", 0.999},
};

nlohmann::ordered_json LatencyJson(const proto::Latency& latency) {
  nlohmann::ordered_json json;
  json["op"] = LatencyOpName(latency.op());
  json["count"] = latency.count();
  json["sum_us"] = latency.sum_us();
  for (const auto& percentile : kPercentiles) {
    json[percentile.name] = PercentileUs(latency, percentile.part);
  }
  json["max_us"] = latency.max_us();
  json["buckets"] = nlohmann::ordered_json::array();
  for (const proto::Latency::Bucket& bucket : latency.buckets()) {
    nlohmann::ordered_json to;
    // null: as long as it may be.
    to["below_us"] = nullptr;
    if (bucket.below_us() != 0) to["below_us"] = bucket.below_us();
    to["count"] = bucket.count();
    json["buckets"].push_back(to);
  }
  return json;
}

void AddErrors(const proto::DeviceStatus& device,
               nlohmann::ordered_json* json) {
  if (device.errors_by_class_size() > 0) {
    for (const proto::ErrorCount& error : device.errors_by_class()) {
      (*json)["errors_by_class"][error.error_class()] = error.count();
    }
  }
  if (!device.has_last_error()) return;
  const proto::LastError& last = device.last_error();
  nlohmann::ordered_json& to = (*json)["last_error"];
  to["text"] = last.text();
  to["class"] = last.error_class();
  to["unix_ms"] = last.unix_ms();
  to["op"] = last.op();
  to["sector"] = last.sector();
  if (last.error_number() != 0) to["errno"] = last.error_number();
}

void PrintErrors(const proto::DeviceStatus& device) {
  if (!device.has_last_error()) return;
  std::string classes;
  for (const proto::ErrorCount& error : device.errors_by_class()) {
    absl::StrAppend(&classes, classes.empty() ? "" : ", ", error.count(), " ",
                    error.error_class());
  }
  printf("  error %s: %s (%s)\n",
         TimeText(device.last_error().unix_ms()).c_str(),
         device.last_error().text().c_str(), classes.c_str());
}

}  // namespace

nlohmann::ordered_json StatusJson(const proto::DeviceStatus& device) {
  nlohmann::ordered_json json;
  json["name"] = device.name();
  json["state"] = DeviceStateName(device.state());
  if (!device.waits_for().empty()) json["waits_for"] = device.waits_for();
  json["kind"] = device.kind();
  json["size_bytes"] = device.size_bytes();
  json["read_only"] = device.read_only();
  if (!device.cow_path().empty()) json["cow"] = device.cow_path();
  if (!device.base_path().empty()) json["base"] = device.base_path();
  if (device.kind() == "file") {
    json["direct_io"] = device.direct_io();
    json["remap"] = device.remap();
  }
  json["transport"] =
      device.transport() == proto::TRANSPORT_UBLK ? "ublk" : "dm-user";
  if (!device.channel().empty()) json["channel"] = device.channel();
  if (!device.block_path().empty()) json["block"] = device.block_path();
  if (!device.source_path().empty()) json["source"] = device.source_path();
  json["reads"] = device.reads();
  json["read_bytes"] = device.read_bytes();
  json["writes"] = device.writes();
  json["write_bytes"] = device.write_bytes();
  json["other_requests"] = device.other_requests();
  json["flushes"] = device.flushes();
  json["in_flight"] = device.in_flight();
  json["errors"] = device.errors();
  AddErrors(device, &json);
  if (const auto redirect = UserDeviceRedirect(device.name())) {
    json["redirected_bios"] = redirect->bios;
    json["redirect_extents"] = redirect->extents;
  }
  if (device.kind() == "snapshot") {
    json["cache_hits"] = device.cache_hits();
    json["cache_misses"] = device.cache_misses();
  }
  for (const proto::Latency& latency : device.latency()) {
    json["latency"].push_back(LatencyJson(latency));
  }
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

nlohmann::ordered_json StatusJson(const proto::DaemonStatus& daemon) {
  nlohmann::ordered_json json;
  json["version"] = daemon.version();
  json["pid"] = daemon.pid();
  json["anonymous_bytes"] = daemon.anonymous_bytes();
  json["peak_anonymous_bytes"] = daemon.peak_anonymous_bytes();
  json["private_bytes"] = daemon.private_bytes();
  json["peak_resident_bytes"] = daemon.peak_resident_bytes();
  json["threads"] = daemon.threads();
  json["pool_bytes"] = daemon.pool_bytes();
  json["pool_used_bytes"] = daemon.pool_used_bytes();
  json["merge_rate_bytes_per_s"] = daemon.throttle().rate_bytes_per_s();
  json["merge_pressure_percent"] = daemon.throttle().pressure_percent();
  json["merges_max"] = daemon.throttle().merges_max();
  json["knows_pressure"] = daemon.knows_pressure();
  json["turns"] = daemon.turns();
  json["log_lines_lost"] = daemon.log_lines_lost();
  json["started_unix_ms"] = daemon.started_unix_ms();
  json["cpu_us"] = daemon.cpu_us();
  return json;
}

void PrintDevice(const proto::DeviceStatus& device) {
  printf("%s: %s, %s, %.1f MiB%s%s%s\n", device.name().c_str(),
         DeviceStateName(device.state()), device.kind().c_str(),
         static_cast<double>(device.size_bytes()) / (1 << 20),
         device.read_only() ? ", read-only" : "",
         device.channel().empty() ? "" : ", channel ",
         device.channel().c_str());
  if (!device.waits_for().empty()) {
    printf("  waits %s\n", device.waits_for().c_str());
  }
  if (!device.cow_path().empty()) {
    printf("  cow   %s\n", device.cow_path().c_str());
  }
  if (!device.base_path().empty()) {
    printf("  base  %s\n", device.base_path().c_str());
  }
  if (!device.block_path().empty()) {
    printf("  ublk  %s\n", device.block_path().c_str());
  }
  if (!device.source_path().empty()) {
    printf("  source %s\n", device.source_path().c_str());
  }
  printf(
      "  io    %llu reads (%.1f MiB), %llu writes (%.1f MiB), %llu others, "
      "%llu errors, %llu in flight\n",
      static_cast<unsigned long long>(device.reads()),
      static_cast<double>(device.read_bytes()) / (1 << 20),
      static_cast<unsigned long long>(device.writes()),
      static_cast<double>(device.write_bytes()) / (1 << 20),
      static_cast<unsigned long long>(device.other_requests()),
      static_cast<unsigned long long>(device.errors()),
      static_cast<unsigned long long>(device.in_flight()));
  const auto redirect = UserDeviceRedirect(device.name());
  if (redirect.has_value() && redirect->extents > 0) {
    printf("  kernel %llu more reads went straight to the base; %llu extents\n",
           static_cast<unsigned long long>(redirect->bios),
           static_cast<unsigned long long>(redirect->extents));
  }
  PrintErrors(device);
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

void PrintDaemon(const proto::DaemonStatus& daemon, int devices) {
  const auto kib = [](uint64_t bytes) {
    return static_cast<unsigned long long>(bytes / 1024);
  };
  printf(
      "dmuserd %s, pid %u, %u thread%s, %d device%s\n"
      "  memory %llu KiB anonymous (peak %llu), %llu KiB private, %llu KiB "
      "resident at the peak\n",
      daemon.version().c_str(), daemon.pid(), daemon.threads(),
      daemon.threads() == 1 ? "" : "s", devices, devices == 1 ? "" : "s",
      kib(daemon.anonymous_bytes()), kib(daemon.peak_anonymous_bytes()),
      kib(daemon.private_bytes()), kib(daemon.peak_resident_bytes()));
  if (daemon.log_lines_lost() > 0) {
    printf("  %llu lines of its log are lost: nobody took them in time\n",
           static_cast<unsigned long long>(daemon.log_lines_lost()));
  }
}

void PrintLatencies(const proto::DeviceStatus& device) {
  if (device.latency_size() == 0) {
    printf("  no request has been timed\n");
    return;
  }
  printf("  latency %12s", "count");
  for (const auto& percentile : kPercentiles) printf(" %10s", percentile.title);
  printf(" %10s\n", "max");
  for (const proto::Latency& latency : device.latency()) {
    printf("  %-7s %12llu", LatencyOpName(latency.op()),
           static_cast<unsigned long long>(latency.count()));
    for (const auto& percentile : kPercentiles) {
      printf(" %10s", UsText(PercentileUs(latency, percentile.part)).c_str());
    }
    printf(" %10s\n", UsText(latency.max_us()).c_str());
  }
}

}  // namespace dmu::tools

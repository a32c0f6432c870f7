// SPDX-License-Identifier: Apache-2.0
//
// metrics_text.cc - see metrics_text.h.
#include "tools/metrics_text.h"

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/latency.h"

namespace dmu::tools {
namespace {

using Labels = std::vector<std::pair<const char*, std::string>>;

std::string Escaped(const std::string& value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? "\\n" : std::string(1, c);
  }
  return out;
}

std::string LabelText(const Labels& labels) {
  std::string out;
  for (const auto& [name, value] : labels) {
    absl::StrAppend(&out, out.empty() ? "{" : ",", name, "=\"", Escaped(value),
                    "\"");
  }
  if (!out.empty()) out += "}";
  return out;
}

std::string Seconds(double seconds) { return absl::StrFormat("%.9g", seconds); }

std::string FromUs(uint64_t us) {
  return Seconds(static_cast<double>(us) / 1e6);
}

// Writes families; samples follow the family they belong to.
class Writer {
 public:
  void Family(const char* name, const char* type, const char* help) {
    name_ = name;
    absl::StrAppend(&out_, "# HELP ", name, " ", help, "\n# TYPE ", name, " ",
                    type, "\n");
  }
  void Sample(const Labels& labels, const std::string& value,
              const char* suffix = "") {
    absl::StrAppend(&out_, name_, suffix, LabelText(labels), " ", value, "\n");
  }
  void Sample(const Labels& labels, uint64_t value, const char* suffix = "") {
    Sample(labels, absl::StrCat(value), suffix);
  }
  std::string Take() { return std::move(out_); }

 private:
  const char* name_ = "";
  std::string out_;
};

void AddUp(bool up, Writer* to) {
  to->Family("dmuserd_up", "gauge", "Whether the daemon answers.");
  to->Sample({}, up ? 1 : 0);
}

void AddDaemon(const proto::DaemonStatus& daemon, Writer* to) {
  to->Family("dmuserd_build_info", "gauge", "The daemon's version.");
  to->Sample({{"version", daemon.version()}}, 1);
  const struct {
    const char* name;
    const char* type;
    const char* help;
    uint64_t value;
  } figures[] = {
      {"dmuserd_threads", "gauge", "Threads of the daemon.", daemon.threads()},
      {"dmuserd_anonymous_memory_bytes", "gauge",
       "Anonymous memory of the daemon.", daemon.anonymous_bytes()},
      {"dmuserd_private_memory_bytes", "gauge",
       "Memory that would be free if the daemon ended.",
       daemon.private_bytes()},
      {"dmuserd_peak_resident_memory_bytes", "gauge",
       "Most memory that was resident at a time, pages of files included.",
       daemon.peak_resident_bytes()},
      {"dmuserd_peak_anonymous_memory_bytes", "gauge",
       "Most anonymous memory that was seen at a time.",
       daemon.peak_anonymous_bytes()},
      {"dmuserd_buffer_pool_bytes", "gauge", "Payload buffers.",
       daemon.pool_bytes()},
      {"dmuserd_buffer_pool_used_bytes", "gauge",
       "Payload buffers that hold a request.", daemon.pool_used_bytes()},
      {"dmuserd_loop_turns_total", "counter",
       "Turns of the event loop; of an idle daemon, its wake-ups.",
       daemon.turns()},
      {"dmuserd_log_lines_lost_total", "counter",
       "Lines of the log that nobody took in time.", daemon.log_lines_lost()},
  };
  for (const auto& figure : figures) {
    to->Family(figure.name, figure.type, figure.help);
    to->Sample({}, figure.value);
  }
  to->Family("dmuserd_cpu_seconds_total", "counter",
             "Processor time, in user and kernel mode.");
  to->Sample({}, FromUs(daemon.cpu_us()));
  to->Family("dmuserd_start_time_seconds", "gauge",
             "When the daemon was started, in seconds since 1970.");
  to->Sample({}, absl::StrFormat("%d.%03d", daemon.started_unix_ms() / 1000,
                                 daemon.started_unix_ms() % 1000));
}

using Devices = google::protobuf::RepeatedPtrField<proto::DeviceStatus>;

// A sample for each device.
void AddEach(const Devices& devices, const char* name, const char* type,
             const char* help,
             const std::function<uint64_t(const proto::DeviceStatus&)>& value,
             Writer* to) {
  if (devices.empty()) return;
  to->Family(name, type, help);
  for (const proto::DeviceStatus& device : devices) {
    to->Sample({{"device", device.name()}}, value(device));
  }
}

void AddRequests(const Devices& devices, Writer* to) {
  if (devices.empty()) return;
  to->Family("dmuserd_device_requests_total", "counter",
             "Requests, those of more than 64 KiB counted in pieces.");
  for (const proto::DeviceStatus& device : devices) {
    const std::pair<const char*, uint64_t> ops[] = {
        {"read", device.reads()},
        {"write", device.writes()},
        {"flush", device.flushes()},
        {"other", device.other_requests() - device.flushes()}};
    for (const auto& [op, count] : ops) {
      to->Sample({{"device", device.name()}, {"op", op}}, count);
    }
  }
  AddEach(
      devices, "dmuserd_device_read_bytes_total", "counter", "Bytes read.",
      [](const auto& device) { return device.read_bytes(); }, to);
  AddEach(
      devices, "dmuserd_device_written_bytes_total", "counter",
      "Bytes written.", [](const auto& device) { return device.write_bytes(); },
      to);
  AddEach(
      devices, "dmuserd_device_requests_in_flight", "gauge",
      "Requests the daemon works on.",
      [](const auto& device) { return device.in_flight(); }, to);
}

void AddErrors(const Devices& devices, Writer* to) {
  if (devices.empty()) return;
  static constexpr const char* kClasses[] = {"io",   "no_space", "corrupt",
                                             "gone", "short",    "unsupported"};
  to->Family("dmuserd_device_errors_total", "counter",
             "Requests that were answered with an error.");
  for (const proto::DeviceStatus& device : devices) {
    // All of them, so that the first error is an increase.
    for (const char* known : kClasses) {
      uint64_t count = 0;
      for (const proto::ErrorCount& error : device.errors_by_class()) {
        if (error.error_class() == known) count = error.count();
      }
      to->Sample({{"device", device.name()}, {"class", known}}, count);
    }
  }
}

// Limits that grow fourfold, each the limit of a bucket of the daemon's: of
// its own, which are four times as many, a file would be mostly zeros.
void AddLatencies(const Devices& devices, Writer* to) {
  constexpr uint64_t kFirstUs = 4;
  constexpr uint64_t kLastUs = uint64_t{1} << 22;
  bool any = false;
  for (const proto::DeviceStatus& device : devices) {
    any = any || device.latency_size() > 0;
  }
  if (!any) return;
  to->Family("dmuserd_device_request_duration_seconds", "histogram",
             "Time a request was in the daemon.");
  for (const proto::DeviceStatus& device : devices) {
    for (const proto::Latency& latency : device.latency()) {
      Labels labels = {{"device", device.name()},
                       {"op", LatencyOpName(latency.op())}};
      labels.emplace_back("le", "");
      for (uint64_t us = kFirstUs; us <= kLastUs; us *= 4) {
        labels.back().second = FromUs(us);
        to->Sample(labels, CountBelow(latency, us), "_bucket");
      }
      labels.back().second = "+Inf";
      to->Sample(labels, latency.count(), "_bucket");
      labels.pop_back();
      to->Sample(labels, FromUs(latency.sum_us()), "_sum");
      to->Sample(labels, latency.count(), "_count");
    }
  }
}

void AddMerges(const Devices& all, Writer* to) {
  Devices devices;
  for (const proto::DeviceStatus& device : all) {
    if (device.has_merge()) *devices.Add() = device;
  }
  if (devices.empty()) return;
  static constexpr std::pair<const char*, proto::MergeStatus::State> kStates[] =
      {{"idle", proto::MergeStatus::IDLE},
       {"running", proto::MergeStatus::RUNNING},
       {"done", proto::MergeStatus::DONE},
       {"failed", proto::MergeStatus::FAILED}};
  to->Family("dmuserd_merge_state", "gauge",
             "1 for the state the merge is in, 0 for the others.");
  for (const proto::DeviceStatus& device : devices) {
    for (const auto& [name, state] : kStates) {
      to->Sample({{"device", device.name()}, {"state", name}},
                 device.merge().state() == state ? 1 : 0);
    }
  }
  AddEach(
      devices, "dmuserd_merge_merged_bytes", "gauge",
      "Bytes of the base that are merged.",
      [](const auto& device) { return device.merge().merged_bytes(); }, to);
  AddEach(
      devices, "dmuserd_merge_size_bytes", "gauge",
      "Bytes of the base that the whole merge writes.",
      [](const auto& device) { return device.merge().total_bytes(); }, to);
  AddEach(
      devices, "dmuserd_merge_undo_log_bytes", "gauge",
      "Length of the merge's undo log.",
      [](const auto& device) { return device.merge().undo_log_bytes(); }, to);
  AddEach(
      devices, "dmuserd_device_cache_hits_total", "counter",
      "Lookups in a snapshot's caches that found something.",
      [](const auto& device) { return device.cache_hits(); }, to);
  AddEach(
      devices, "dmuserd_device_cache_misses_total", "counter",
      "Lookups in a snapshot's caches that had to read.",
      [](const auto& device) { return device.cache_misses(); }, to);
}

}  // namespace

std::string MetricsText(const proto::Response& status) {
  Writer to;
  AddUp(true, &to);
  AddDaemon(status.daemon(), &to);
  const Devices& devices = status.devices();
  if (!devices.empty()) {
    to.Family("dmuserd_device_info", "gauge",
              "What a device is served from; always 1.");
    for (const proto::DeviceStatus& device : devices) {
      to.Sample({{"device", device.name()}, {"kind", device.kind()}}, 1);
    }
  }
  AddEach(
      devices, "dmuserd_device_serving", "gauge",
      "Whether the device is served, neither coming nor going.",
      [](const auto& device) -> uint64_t {
        return device.state() == proto::DeviceStatus::SERVING ? 1 : 0;
      },
      &to);
  AddEach(
      devices, "dmuserd_device_size_bytes", "gauge", "Size of the device.",
      [](const auto& device) { return device.size_bytes(); }, &to);
  AddRequests(devices, &to);
  AddErrors(devices, &to);
  AddLatencies(devices, &to);
  AddMerges(devices, &to);
  return to.Take();
}

std::string MetricsTextDown() {
  Writer to;
  AddUp(false, &to);
  return to.Take();
}

}  // namespace dmu::tools

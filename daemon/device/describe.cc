// SPDX-License-Identifier: Apache-2.0
#include "daemon/device/describe.h"

namespace dmu {

namespace {

proto::MergeStatus::State ToProto(MergeStatus::State state) {
  switch (state) {
    case MergeStatus::State::kIdle:
      return proto::MergeStatus::IDLE;
    case MergeStatus::State::kRunning:
      return proto::MergeStatus::RUNNING;
    case MergeStatus::State::kDone:
      return proto::MergeStatus::DONE;
    case MergeStatus::State::kFailed:
      return proto::MergeStatus::FAILED;
  }
  return proto::MergeStatus::IDLE;
}

// As scripts and metrics name it.
const char* ClassName(IoStatus status) {
  switch (status) {
    case IoStatus::kOk:
      break;
    case IoStatus::kIoError:
      return "io";
    case IoStatus::kNoSpace:
      return "no_space";
    case IoStatus::kCorrupt:
      return "corrupt";
    case IoStatus::kUnsupported:
      return "unsupported";
    case IoStatus::kGone:
      return "gone";
    case IoStatus::kShort:
      return "short";
  }
  return "unknown";
}

void DescribeErrors(const ErrorRecord& errors, proto::DeviceStatus* out) {
  out->set_errors(errors.all());
  for (int i = 0; i < kIoStatusCount; ++i) {
    const auto status = static_cast<IoStatus>(i);
    if (errors.count(status) == 0) continue;
    proto::ErrorCount* count = out->add_errors_by_class();
    count->set_error_class(ClassName(status));
    count->set_count(errors.count(status));
  }
  if (errors.last_text()[0] == '\0') return;
  proto::LastError* last = out->mutable_last_error();
  last->set_text(errors.last_text());
  last->set_error_class(ClassName(errors.last_status()));
  last->set_unix_ms(errors.last_unix_ms());
  last->set_op(OpName(errors.last_op()));
  last->set_sector(errors.last_sector());
  last->set_error_number(errors.last_error());
}

proto::Latency::Op ToProto(Device::OpClass of) {
  switch (of) {
    case Device::OpClass::kRead:
      return proto::Latency::READ;
    case Device::OpClass::kWrite:
      return proto::Latency::WRITE;
    case Device::OpClass::kFlush:
      return proto::Latency::FLUSH;
    case Device::OpClass::kOther:
      break;
  }
  return proto::Latency::OTHER;
}

}  // namespace

void DescribeAttach(const proto::Attach& attach, proto::DeviceStatus* out) {
  switch (attach.backend_case()) {
    case proto::Attach::kNull:
      out->set_kind("null");
      break;
    case proto::Attach::kFile:
      out->set_kind("file");
      out->set_base_path(attach.file().path());
      break;
    case proto::Attach::kSnapshot:
      out->set_kind("snapshot");
      out->set_cow_path(attach.snapshot().cow_path());
      out->set_base_path(attach.snapshot().base_path());
      out->set_source_path(attach.snapshot().source_path());
      break;
    default:
      break;
  }
}

void DescribeDevice(const Device& device, proto::DeviceStatus* out) {
  out->set_block_path(device.device_path());
  out->set_channel(device.channel_way());
  const Device::Counters& counters = device.counters();
  out->set_reads(counters.reads);
  out->set_read_bytes(counters.read_bytes);
  out->set_writes(counters.writes);
  out->set_write_bytes(counters.write_bytes);
  out->set_other_requests(counters.other_requests);
  out->set_flushes(counters.flushes);
  out->set_in_flight(counters.in_flight);
  DescribeErrors(device.errors(), out);
}

void DescribeBackend(Backend& backend, proto::DeviceStatus* out) {
  const Geometry geometry = backend.geometry();
  out->set_size_bytes(geometry.size_bytes);
  out->set_read_only(geometry.read_only);
  out->set_direct_io(geometry.direct_io);
  out->set_remap(geometry.remap);
  const Backend::CacheCounters cache = backend.cache_counters();
  out->set_cache_hits(cache.hits);
  out->set_cache_misses(cache.misses);
  MergeControl* merge = backend.merge();
  if (merge == nullptr) return;
  const MergeStatus status = merge->status();
  proto::MergeStatus* to = out->mutable_merge();
  to->set_state(ToProto(status.state));
  to->set_merged_ops(status.merged_ops);
  to->set_total_ops(status.total_ops);
  to->set_merged_bytes(status.merged_bytes);
  to->set_total_bytes(status.total_bytes);
  to->set_error(status.error);
  to->set_undo_log_bytes(status.undo_log_bytes);
  if (status.state == MergeStatus::State::kRunning) {
    to->set_rate_bytes_per_s(status.rate_bytes_per_s);
    to->set_held(status.held);
  }
}

void DescribeLatency(const Device& device, proto::DeviceStatus* out) {
  for (int i = 0; i < Device::kOpClasses; ++i) {
    const auto of = static_cast<Device::OpClass>(i);
    const LatencyHistogram& from = device.latency(of);
    uint64_t all = 0;
    for (int j = 0; j < LatencyHistogram::kBuckets; ++j) all += from.count(j);
    if (all == 0) continue;
    proto::Latency* to = out->add_latency();
    to->set_op(ToProto(of));
    to->set_count(all);
    to->set_sum_us(from.sum_us());
    to->set_max_us(from.max_us());
    for (int j = 0; j < LatencyHistogram::kBuckets; ++j) {
      if (from.count(j) == 0) continue;
      proto::Latency::Bucket* bucket = to->add_buckets();
      const uint64_t limit_us = LatencyHistogram::LimitUs(j);
      bucket->set_below_us(limit_us == UINT64_MAX ? 0 : limit_us);
      bucket->set_count(from.count(j));
    }
  }
}

}  // namespace dmu

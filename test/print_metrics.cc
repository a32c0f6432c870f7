// SPDX-License-Identifier: Apache-2.0
//
// print_metrics.cc - metrics of a status that has everything in it, for
// metrics_test.sh to have them parsed.
#include <stdio.h>

#include <string>

#include "tools/metrics_text.h"

namespace {

void AddBucket(dmu::proto::Latency* latency, uint64_t below_us,
               uint64_t count) {
  auto* bucket = latency->add_buckets();
  bucket->set_below_us(below_us);
  bucket->set_count(count);
}

}  // namespace

int main() {
  dmu::proto::Response status;
  auto* daemon = status.mutable_daemon();
  daemon->set_version("0.1.0");
  daemon->set_threads(1);
  daemon->set_anonymous_bytes(98'304);
  daemon->set_started_unix_ms(1'700'000'000'007);
  daemon->set_cpu_us(1'234'567);
  daemon->set_turns(UINT64_MAX);

  // A name that has to be escaped.
  auto* odd = status.add_devices();
  odd->set_name("a\"b\\c\nd");
  odd->set_kind("snapshot");
  odd->set_state(dmu::proto::DeviceStatus::SERVING);
  odd->set_reads(10);
  odd->set_flushes(2);
  odd->set_other_requests(3);
  odd->mutable_merge()->set_state(dmu::proto::MergeStatus::RUNNING);
  auto* error = odd->add_errors_by_class();
  error->set_error_class("no_space");
  error->set_count(4);
  auto* latency = odd->add_latency();
  latency->set_op(dmu::proto::Latency::READ);
  latency->set_count(10);
  latency->set_sum_us(9'000'060);
  latency->set_max_us(9'000'000);
  AddBucket(latency, 2, 1);
  AddBucket(latency, 4, 2);
  AddBucket(latency, 6, 3);
  AddBucket(latency, 1 << 20, 3);
  AddBucket(latency, 0, 1);

  auto* plain = status.add_devices();
  plain->set_name("plain");
  plain->set_kind("null");
  fputs(dmu::tools::MetricsText(status).c_str(), stdout);
  return fflush(stdout) == 0 ? 0 : 1;
}

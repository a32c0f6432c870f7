// SPDX-License-Identifier: Apache-2.0
//
// metrics_text.h - a daemon's status in the text format of Prometheus, version
// 0.0.4, as its node_exporter takes it from a file.
//
// Families come one after the other, each with HELP and TYPE, no sample has a
// time of its own. Names begin with dmuserd_ and end with their unit, which is
// a base unit (bytes, seconds); what only grows ends with _total. A device is
// the label "device". Names and labels are promised to stay.
#ifndef TOOLS_METRICS_TEXT_H_
#define TOOLS_METRICS_TEXT_H_

#include <string>

#include "proto/control.pb.h"

namespace dmu::tools {

// `status`: of all devices, with latencies.
std::string MetricsText(const proto::Response& status);

// When no daemon answers: dmuserd_up is 0, and there is nothing else.
std::string MetricsTextDown();

}  // namespace dmu::tools

#endif  // TOOLS_METRICS_TEXT_H_

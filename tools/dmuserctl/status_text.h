// SPDX-License-Identifier: Apache-2.0
//
// status_text.h - what a daemon says of itself and its devices, for people and
// as JSON.
//
// Names in JSON are promised to stay; units are in them.
#ifndef TOOLS_DMUSERCTL_STATUS_TEXT_H_
#define TOOLS_DMUSERCTL_STATUS_TEXT_H_

#include "nlohmann/json.hpp"
#include "proto/control.pb.h"

namespace dmu::tools {

nlohmann::ordered_json StatusJson(const proto::DeviceStatus& device);
nlohmann::ordered_json StatusJson(const proto::DaemonStatus& daemon);

// To standard output.
void PrintDaemon(const proto::DaemonStatus& daemon, int devices);
void PrintDevice(const proto::DeviceStatus& device);
// As a table; part of PrintDevice's paragraph.
void PrintLatencies(const proto::DeviceStatus& device);

}  // namespace dmu::tools

#endif  // TOOLS_DMUSERCTL_STATUS_TEXT_H_

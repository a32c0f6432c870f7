// SPDX-License-Identifier: Apache-2.0
//
// describe.h - a device's figures as the control protocol tells them.
#ifndef DAEMON_DEVICE_DESCRIBE_H_
#define DAEMON_DEVICE_DESCRIBE_H_

#include "daemon/device/device.h"
#include "proto/control.pb.h"

namespace dmu {

// What kind of back end was asked for, and where its data is.
void DescribeAttach(const proto::Attach& attach, proto::DeviceStatus* out);

// Size, cache, merge.
void DescribeBackend(Backend& backend, proto::DeviceStatus* out);

// Counters, errors.
void DescribeDevice(const Device& device, proto::DeviceStatus* out);

// The histograms, which are large.
void DescribeLatency(const Device& device, proto::DeviceStatus* out);

}  // namespace dmu

#endif  // DAEMON_DEVICE_DESCRIBE_H_

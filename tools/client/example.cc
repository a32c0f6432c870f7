// SPDX-License-Identifier: Apache-2.0
//
// example.cc - lists what the daemon serves; with the name of a device, starts
// its merge and follows it.
//
// usage: example SOCKET [NAME]
#include <cstdio>
#include <string>

#include "tools/client/control_client.h"

namespace {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}

int List(dmu::ControlClient* client) {
  const auto status = client->Status();
  if (!status.ok()) return Fail(status.status());
  std::printf("dmuserd %s: %zu devices\n", status->daemon.version().c_str(),
              status->devices.size());
  for (const dmu::proto::DeviceStatus& device : status->devices) {
    std::printf("%s: %s\n", device.name().c_str(), device.kind().c_str());
  }
  return 0;
}

int Merge(dmu::ControlClient* client, const std::string& name) {
  // At most 20 MB of the disk per second.
  const absl::Status started =
      client->StartMerge(name, {.rate_bytes_per_s = 20'000'000});
  if (!started.ok()) return Fail(started);
  const auto last =
      client->Watch(name, [](const dmu::proto::DeviceStatus& device) {
        std::printf(
            "%llu of %llu bytes\n",
            static_cast<unsigned long long>(device.merge().merged_bytes()),
            static_cast<unsigned long long>(device.merge().total_bytes()));
        return true;  // until the merge ends
      });
  return last.ok() ? 0 : Fail(last.status());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  auto client =
      dmu::ControlClient::Connect({.path = argv[1], .timeout_ms = 10'000});
  if (!client.ok()) return Fail(client.status());
  return argc > 2 ? Merge(&*client, argv[2]) : List(&*client);
}

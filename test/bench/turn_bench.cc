// SPDX-License-Identifier: Apache-2.0
//
// turn_bench.cc - how long the loop is away while a COW file is attached, in
// the processor's time of its thread: what other devices wait for at the most.
//
// usage: turn_bench FILE.cow BASE [LIMIT_US]
// Prints the longest turns; status 1 when one is above the limit.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "daemon/backend/merge_governor.h"
#include "daemon/backend/pressure.h"
#include "daemon/backend/snapshot.h"
#include "daemon/io/disk_file.h"
#include "daemon/io/loop_epoll.h"

namespace dmu {
namespace {

uint64_t ThreadUs() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000 +
         static_cast<uint64_t>(now.tv_nsec) / 1000;
}

int Run(const char* cow_path, const char* base_path, uint64_t limit_us) {
  auto loop = EpollLoop::Create();
  auto cow = FileDisk::Open(cow_path, {.writable = true}, loop.get());
  auto base = FileDisk::Open(base_path, {.writable = true}, loop.get());
  if (!cow.ok() || !base.ok()) {
    fprintf(stderr, "turn_bench: cannot open %s or %s\n", cow_path, base_path);
    return 2;
  }
  ProcPressure pressure;
  MergeGovernor governor(loop.get(), &pressure);
  bool done = false;
  std::unique_ptr<Backend> backend;
  OpenSnapshotBackend(
      std::move(*base), std::move(*cow), nullptr, loop.get(), &governor,
      [&](absl::StatusOr<std::unique_ptr<Backend>> result) {
        done = true;
        if (result.ok()) {
          backend = std::move(*result);
        } else {
          fprintf(stderr, "turn_bench: %s\n",
                  std::string(result.status().message()).c_str());
        }
      });
  std::vector<uint64_t> turns_us;
  while (!done) {
    const uint64_t begin_us = ThreadUs();
    loop->Turn(/*wait=*/false);
    turns_us.push_back(ThreadUs() - begin_us);
  }
  if (backend == nullptr) return 2;
  const size_t turns = turns_us.size();
  std::vector<std::pair<uint64_t, size_t>> longest;
  for (size_t i = 0; i < turns; ++i) longest.emplace_back(turns_us[i], i);
  std::sort(longest.rbegin(), longest.rend());
  printf("%zu turns; the longest, in us (and which it was):", turns);
  for (size_t i = 0; i < std::min<size_t>(8, turns); ++i) {
    printf(" %llu (%zu)", static_cast<unsigned long long>(longest[i].first),
           longest[i].second);
  }
  printf("\n");
  const bool good = longest[0].first <= limit_us;
  Task drained([](void* context) { *static_cast<bool*>(context) = true; },
               &done);
  done = false;
  backend->Drain(&drained);
  while (!done) loop->Turn(/*wait=*/false);
  return good ? 0 : 1;
}

}  // namespace
}  // namespace dmu

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    fprintf(stderr, "usage: %s FILE.cow BASE [LIMIT_US]\n", argv[0]);
    return 2;
  }
  return dmu::Run(argv[1], argv[2],
                  argc > 3 ? strtoull(argv[3], nullptr, 10) : UINT64_MAX);
}

// SPDX-License-Identifier: Apache-2.0
//
// image_target.cc - see image_target.h.
#include "test/fuzz/image_target.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "daemon/base/check.h"
#include "tools/image_source.h"

namespace dmu {
namespace {

void CheckReads(const tools::ImageSource& image) {
  constexpr uint64_t kWholeMax = 1 << 20;
  std::mt19937_64 random(image.size_bytes());
  for (int i = 0; i < 8; ++i) {
    const uint64_t offset = random() % image.size_bytes();
    const size_t bytes = std::min<uint64_t>(1 + random() % kWholeMax,
                                            image.size_bytes() - offset);
    std::vector<uint8_t> whole(bytes);
    DMU_CHECK(image.ReadAt(offset, whole).ok());
    const size_t skip = random() % bytes;
    std::vector<uint8_t> piece(1 + random() % (bytes - skip));
    DMU_CHECK(image.ReadAt(offset + skip, piece).ok());
    DMU_CHECK(std::memcmp(piece.data(), whole.data() + skip, piece.size()) ==
              0);
    const uint64_t zeros = image.ZerosAt(offset);
    DMU_CHECK(zeros <= image.size_bytes() - offset);
    for (size_t at = 0; at < std::min<uint64_t>(zeros, bytes); ++at) {
      DMU_CHECK(whole[at] == 0);
    }
  }
}

}  // namespace

bool RunImage(const uint8_t* data, size_t size) {
  const int fd = memfd_create("image", MFD_CLOEXEC);
  DMU_CHECK(fd >= 0);
  DMU_CHECK(write(fd, data, size) == static_cast<ssize_t>(size));
  bool taken = false;
  {
    const auto image =
        tools::ImageSource::Open("/proc/self/fd/" + std::to_string(fd));
    if (image.ok()) {
      taken = image->is_sparse();
      if (image->size_bytes() > 0) CheckReads(*image);
    } else {
      DMU_CHECK(!image.status().message().empty());
    }
  }
  close(fd);
  return taken;
}

}  // namespace dmu

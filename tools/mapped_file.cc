// SPDX-License-Identifier: Apache-2.0
//
// mapped_file.cc - see mapped_file.h.
#include "tools/mapped_file.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dmu::tools {
namespace {

// Where this thread's copy returns to when it faults; nullptr outside of one.
thread_local sigjmp_buf* g_return_point = nullptr;
struct sigaction g_previous;

void OnBusError(int signal_number) {
  if (g_return_point != nullptr) siglongjmp(*g_return_point, 1);
  // Not ours: as it would have been.
  sigaction(signal_number, &g_previous, nullptr);
}

void InstallHandler() {
  static const bool installed = [] {
    struct sigaction action;
    std::memset(&action, 0, sizeof(action));
    action.sa_handler = OnBusError;
    // Left by a jump, which does not restore the mask.
    action.sa_flags = SA_NODEFER;
    return sigaction(SIGBUS, &action, &g_previous) == 0;
  }();
  (void)installed;
}

// False when the bytes cannot be read.
bool CopyGuarded(const uint8_t* from, size_t bytes, uint8_t* to) {
  sigjmp_buf here;
  if (sigsetjmp(here, /*savemask=*/0) != 0) {
    g_return_point = nullptr;
    return false;
  }
  g_return_point = &here;
  // The compiler must not move the copy out from between.
  asm volatile("" ::: "memory");
  std::memcpy(to, from, bytes);
  asm volatile("" ::: "memory");
  g_return_point = nullptr;
  return true;
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Map(const File& file) {
  InstallHandler();
  if (file.size_bytes() == 0) return MappedFile(file, nullptr, 0);
  void* at =
      mmap(nullptr, file.size_bytes(), PROT_READ, MAP_SHARED, file.fd(), 0);
  if (at == MAP_FAILED) {
    return ErrnoStatus(errno, absl::StrCat("map ", file.path()));
  }
  return MappedFile(file, static_cast<const uint8_t*>(at), file.size_bytes());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : file_(other.file_),
      begin_(std::exchange(other.begin_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(begin_, other.begin_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (begin_ != nullptr) munmap(const_cast<uint8_t*>(begin_), bytes_);
}

absl::Status MappedFile::ReadAt(uint64_t offset, ByteSpan out) const {
  if (offset > bytes_ || out.size() > bytes_ - offset) {
    return absl::InternalError(absl::StrCat("read ", out.size(), " bytes at ",
                                            offset, " of ", file_->path(),
                                            ": it has ", bytes_, " bytes"));
  }
  if (!out.empty() && !CopyGuarded(begin_ + offset, out.size(), out.data())) {
    return absl::InternalError(absl::StrCat(
        "read ", out.size(), " bytes at ", offset, " of ", file_->path(),
        ": the storage cannot give them, or the file was cut"));
  }
  return absl::OkStatus();
}

}  // namespace dmu::tools

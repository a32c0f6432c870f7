// SPDX-License-Identifier: Apache-2.0
//
// See dm.h.
#include "test/vm/dm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

namespace dmu {
namespace {

constexpr size_t kCommandBytes = 16384;

// From then on no buffer is freed: an I/O may still use it.
std::atomic<bool> g_io_hung{false};

int ControlFd() {
  static const int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    perror("/dev/mapper/control");
    abort();
  }
  return fd;
}

// Runs `call` with the device open in a new thread. The thread is detached, so
// that a test that fails with the I/O waiting can go on to remove the device,
// which ends the I/O.
template <typename Call>
Io Start(const MappedDevice& device, int flags, Call call) {
  std::packaged_task<IoResult()> task(
      [path = device.block_path(), flags, call] {
        const int fd = open(path.c_str(), flags | O_CLOEXEC);
        if (fd < 0) {
          return IoResult{-1, errno};
        }
        const int64_t result = call(fd);
        const int error = result < 0 ? errno : 0;
        close(fd);
        return IoResult{result, error};
      });
  Io io = task.get_future();
  std::thread(std::move(task)).detach();
  return io;
}

}  // namespace

struct MappedDevice::Command {
  alignas(8) char bytes[kCommandBytes] = {};
  dm_ioctl* header() { return reinterpret_cast<dm_ioctl*>(bytes); }
  char* data() { return bytes + sizeof(dm_ioctl); }
};

MappedDevice::MappedDevice(std::string name) : name_(std::move(name)) {}

MappedDevice::~MappedDevice() {
  if (exists_) {
    RemoveForced();
  }
}

int MappedDevice::Run(unsigned long request, Command* command) {
  dm_ioctl* h = command->header();
  h->version[0] = DM_VERSION_MAJOR;
  h->data_size = kCommandBytes;
  h->data_start = sizeof(dm_ioctl);
  snprintf(h->name, sizeof(h->name), "%s", name_.c_str());
  return ioctl(ControlFd(), request, command->bytes) < 0 ? errno : 0;
}

int MappedDevice::CreateEmpty() {
  Command command;
  const int error = Run(DM_DEV_CREATE, &command);
  if (error == 0) {
    exists_ = true;
    minor_ = minor(command.header()->dev);
  }
  return error;
}

int MappedDevice::Load(const std::vector<TableLine>& lines, bool read_only) {
  Command command;
  if (read_only) command.header()->flags = DM_READONLY_FLAG;
  command.header()->target_count = static_cast<uint32_t>(lines.size());
  char* at = command.data();
  for (const TableLine& line : lines) {
    auto* spec = reinterpret_cast<dm_target_spec*>(at);
    spec->sector_start = line.start_sector;
    spec->length = line.sectors;
    snprintf(spec->target_type, sizeof(spec->target_type), "%s",
             line.target.c_str());
    memcpy(at + sizeof(*spec), line.params.c_str(), line.params.size() + 1);
    const size_t bytes = sizeof(*spec) + (line.params.size() + 8) / 8 * 8;
    spec->next = static_cast<uint32_t>(bytes);
    at += bytes;
  }
  return Run(DM_TABLE_LOAD, &command);
}

int MappedDevice::Clear() {
  Command command;
  return Run(DM_TABLE_CLEAR, &command);
}

int MappedDevice::Suspend(bool noflush) {
  Command command;
  command.header()->flags =
      DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG | (noflush ? DM_NOFLUSH_FLAG : 0);
  return Run(DM_DEV_SUSPEND, &command);
}

int MappedDevice::Resume() {
  Command command;
  return Run(DM_DEV_SUSPEND, &command);
}

int MappedDevice::Remove(bool deferred) {
  Command command;
  if (deferred) {
    command.header()->flags = DM_DEFERRED_REMOVE;
  }
  const int error = Run(DM_DEV_REMOVE, &command);
  if (error == 0) {
    exists_ = false;
  }
  return error;
}

int MappedDevice::RemoveForced() {
  Clear();
  int error = Load({{0, kDeviceSectors, "error", ""}});
  if (error == 0) {
    Suspend(/*noflush=*/true);
    error = Resume();
  }
  // Somebody who opened it may need a moment to let go.
  for (int i = 0; i < 1000; ++i) {
    error = Remove();
    if (error != EBUSY) {
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return error;
}

int MappedDevice::Rename(const std::string& to) {
  Command command;
  memcpy(command.data(), to.c_str(), to.size() + 1);
  const int error = Run(DM_DEV_RENAME, &command);
  if (error == 0) {
    name_ = to;
  }
  return error;
}

int MappedDevice::Message(const std::string& words) {
  Command command;
  auto* message = reinterpret_cast<dm_target_msg*>(command.data());
  message->sector = 0;
  memcpy(message->message, words.c_str(), words.size() + 1);
  return Run(DM_TARGET_MSG, &command);
}

int MappedDevice::Create(const std::vector<TableLine>& lines) {
  int error = CreateEmpty();
  if (error != 0) {
    return error;
  }
  error = Load(lines);
  if (error == 0) {
    error = Resume();
  }
  if (error != 0) {
    Remove();
  }
  return error;
}

int MappedDevice::CreateUser(const std::string& features) {
  return Create({UserLine(name_, features)});
}

std::string MappedDevice::Status() {
  Command command;
  command.header()->flags = DM_NOFLUSH_FLAG;
  if (Run(DM_TABLE_STATUS, &command) != 0 ||
      command.header()->target_count == 0) {
    return "";
  }
  return command.bytes + command.header()->data_start + sizeof(dm_target_spec);
}

std::string MappedDevice::Table() {
  Command command;
  command.header()->flags = DM_STATUS_TABLE_FLAG | DM_NOFLUSH_FLAG;
  if (Run(DM_TABLE_STATUS, &command) != 0 ||
      command.header()->target_count == 0) {
    return "";
  }
  return command.bytes + command.header()->data_start + sizeof(dm_target_spec);
}

std::string MappedDevice::StatusField(size_t index) {
  const std::vector<std::string> fields = Split(Status());
  return index < fields.size() ? fields[index] : "";
}

uint64_t MappedDevice::StatusNumber(size_t index) {
  return strtoull(StatusField(index).c_str(), nullptr, 10);
}

bool MappedDevice::AwaitStatus(size_t index, const std::string& value) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (StatusField(index) != value) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    // The kernel offers no event for these counters.
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

uint32_t MappedDevice::EventNumber() {
  Command command;
  return Run(DM_DEV_STATUS, &command) == 0 ? command.header()->event_nr : 0;
}

std::string MappedDevice::block_path() const {
  return "/dev/dm-" + std::to_string(minor_);
}

std::string MappedDevice::QueueLimit(const std::string& file) const {
  std::ifstream in("/sys/block/dm-" + std::to_string(minor_) + "/queue/" +
                   file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::vector<std::string> Split(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) {
    words.push_back(word);
  }
  return words;
}

TableLine UserLine(const std::string& name, const std::string& features) {
  return {0, kDeviceSectors, "user",
          "0 " + std::to_string(kDeviceSectors) + " " + name +
              (features.empty() ? "" : " " + features)};
}

Buffer::Buffer(size_t bytes, uint8_t fill)
    : bytes_(bytes),
      data_(static_cast<uint8_t*>(
          aligned_alloc(4096, (bytes + 4095) / 4096 * 4096))) {
  memset(data_, fill, bytes_);
}

Buffer::~Buffer() {
  if (!g_io_hung) {
    free(data_);
  }
}

void Buffer::FillPattern(uint32_t seed) {
  const std::vector<uint8_t> pattern = Pattern(bytes_, seed);
  memcpy(data_, pattern.data(), bytes_);
}

std::vector<uint8_t> Buffer::Copy() const { return {data_, data_ + bytes_}; }

std::vector<uint8_t> Pattern(size_t bytes, uint32_t seed) {
  std::vector<uint8_t> out(bytes);
  uint32_t x = seed * 2654435761u + 1;
  for (size_t i = 0; i < bytes; ++i) {
    x = x * 1664525u + 1013904223u;
    out[i] = static_cast<uint8_t>(x >> 24);
  }
  return out;
}

Io StartRead(const MappedDevice& device, uint64_t offset_bytes, Buffer* to) {
  return Start(device, O_RDONLY | O_DIRECT, [=](int fd) -> int64_t {
    return pread(fd, to->data(), to->size(), static_cast<off_t>(offset_bytes));
  });
}

Io StartWrite(const MappedDevice& device, uint64_t offset_bytes, Buffer* from,
              bool dsync) {
  return Start(device, O_RDWR | O_DIRECT | (dsync ? O_DSYNC : 0),
               [=](int fd) -> int64_t {
                 return pwrite(fd, from->data(), from->size(),
                               static_cast<off_t>(offset_bytes));
               });
}

Io StartFsync(const MappedDevice& device) {
  return Start(device, O_RDWR, [](int fd) -> int64_t { return fsync(fd); });
}

Io StartRangeIoctl(const MappedDevice& device, unsigned long request,
                   uint64_t offset_bytes, uint64_t bytes) {
  return Start(device, O_RDWR, [=](int fd) -> int64_t {
    uint64_t range[2] = {offset_bytes, bytes};
    return ioctl(fd, request, range);
  });
}

IoResult Await(Io* io) {
  if (io->wait_for(std::chrono::seconds(15)) != std::future_status::ready) {
    g_io_hung = true;
    return {-1, ETIME};
  }
  return io->get();
}

bool IsReady(Io* io) {
  return io->wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

}  // namespace dmu

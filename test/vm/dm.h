// SPDX-License-Identifier: Apache-2.0
//
// Mapped devices for the kernel tests: a thin layer over the device-mapper's
// ioctls, and blocking I/O in threads of its own.
//
// The ioctls are used raw, without libdevmapper, so that every errno reaches
// the test and nothing waits for udev, which the test machine does not have.
// Needs root and /dev/mapper/control.
#ifndef TEST_VM_DM_H_
#define TEST_VM_DM_H_

#include <cstdint>
#include <future>
#include <string>
#include <vector>

namespace dmu {

constexpr uint64_t kDeviceSectors = 16384;  // 8 MiB

// One line of a table.
struct TableLine {
  uint64_t start_sector;
  uint64_t sectors;
  std::string target;
  std::string params;
};

// A mapped device. The destructor removes it whatever state it is in: with an
// error table in place of the live one, so that nothing can be waiting. All
// calls return 0 or the errno of the ioctl.
class MappedDevice {
 public:
  explicit MappedDevice(std::string name);
  MappedDevice(const MappedDevice&) = delete;
  MappedDevice& operator=(const MappedDevice&) = delete;
  ~MappedDevice();

  // Creates the device, loads the lines and resumes; on failure nothing is
  // left behind.
  int Create(const std::vector<TableLine>& lines);
  // The same with one line of target "user" of kDeviceSectors whose control
  // node has the device's name; `features` is what follows the name.
  int CreateUser(const std::string& features = "");

  int CreateEmpty();
  int Load(const std::vector<TableLine>& lines, bool read_only = false);
  int Clear();  // drops the inactive table
  int Suspend(bool noflush);
  int Resume();
  int Remove(bool deferred = false);
  int RemoveForced();
  int Rename(const std::string& to);
  int Message(const std::string& words);

  // Status line of the first target, or its table line; "" on failure.
  std::string Status();
  std::string Table();
  // Field of the status line, counted from 0.
  std::string StatusField(size_t index);
  uint64_t StatusNumber(size_t index);
  // Waits until a field of the status line has a value; false after 10 s.
  bool AwaitStatus(size_t index, const std::string& value);
  uint32_t EventNumber();

  const std::string& name() const { return name_; }
  std::string block_path() const;
  // Content of a file of the queue's directory in sysfs, without the newline.
  std::string QueueLimit(const std::string& file) const;

 private:
  struct Command;
  int Run(unsigned long request, Command* command);

  std::string name_;
  unsigned minor_ = 0;
  bool exists_ = false;
};

// Fields of the status line of target "user".
enum StatusIndex : size_t {
  kName,
  kState,
  kChannels,
  kServers,
  kQueued,
  kDelivered,
  kHeld,
  kOldestMs,
  kServed,
  kErrors,
  kGivenBack,
  kExpired,
  kPushedBack,
  kCoalesced,
  kRedirected,
  kExtents,
  kRemapped,
};

std::vector<std::string> Split(const std::string& line);
TableLine UserLine(const std::string& name, const std::string& features = "");

// Memory for O_DIRECT.
class Buffer {
 public:
  explicit Buffer(size_t bytes, uint8_t fill = 0);
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();
  uint8_t* data() { return data_; }
  size_t size() const { return bytes_; }
  void FillPattern(uint32_t seed);
  std::vector<uint8_t> Copy() const;

 private:
  size_t bytes_;
  uint8_t* data_;
};

std::vector<uint8_t> Pattern(size_t bytes, uint32_t seed);

// What a blocking call gave: its result, and errno if that is negative.
struct IoResult {
  int64_t result;
  int error;
};
using Io = std::future<IoResult>;

// One operation on a block device, in a thread of its own; each opens the
// device itself. Buffers must live until the future is ready.
Io StartRead(const MappedDevice& device, uint64_t offset_bytes, Buffer* to);
Io StartWrite(const MappedDevice& device, uint64_t offset_bytes, Buffer* from,
              bool dsync = false);
Io StartFsync(const MappedDevice& device);
// `request` is BLKDISCARD, BLKSECDISCARD or BLKZEROOUT.
Io StartRangeIoctl(const MappedDevice& device, unsigned long request,
                   uint64_t offset_bytes, uint64_t bytes);

// The result once there is one; after 15 s -1 and ETIME, which no I/O gives.
IoResult Await(Io* io);
bool IsReady(Io* io);

}  // namespace dmu

#endif  // TEST_VM_DM_H_

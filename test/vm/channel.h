// SPDX-License-Identifier: Apache-2.0
//
// The daemon's end of a control node, for the kernel tests: the wire format by
// hand, one system call per method where a test needs that.
#ifndef TEST_VM_CHANNEL_H_
#define TEST_VM_CHANNEL_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "dm-user/uapi/dm-user.h"
#include "test/vm/uring.h"

namespace dmu {

// The 40 bytes without the flexible array, which C++ does not have.
struct WireHeader {
  uint64_t seq;
  uint64_t type;
  uint64_t flags;
  uint64_t sector;
  uint64_t len;
};
static_assert(sizeof(WireHeader) == sizeof(dm_user_message));

struct WireRequest {
  WireHeader header;
  std::vector<uint8_t> payload;  // of a WRITE
};

// One open file of /dev/dm-user/<name>.
class Channel {
 public:
  // What Read and Write are. kUring: commands of an io_uring, in batch mode,
  // each waited for.
  enum class Kind { kCalls, kUring };
  // Of all channels; a program sets it before it makes the first.
  static Kind kind;

  // Opens the node; ok() tells whether that worked.
  explicit Channel(const std::string& name, int flags = 0);
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  ~Channel();

  bool ok() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  void Close();

  // ioctl, 0 or errno.
  int SetFlags(uint64_t flags, uint64_t coalesce_bytes = 0);
  int Info(dm_user_info* info);

  // One read() or write(): bytes, or minus errno. With kUring also EINVAL when
  // all that was taken is one refused header, as in the stream.
  ssize_t Read(void* to, size_t bytes);
  ssize_t Write(const void* from, size_t bytes);

  // poll() for input: the events that came, 0 after `timeout_ms`.
  short Poll(int timeout_ms);

  // Reads a header only, or a whole request. They wait up to 10 s, and return
  // false on failure or when the call gives anything but whole parts.
  bool NextHeader(WireHeader* header);
  bool Next(WireRequest* request);

  // Answers in one writev(); true if all of it was taken.
  bool Reply(uint64_t seq, const std::vector<uint8_t>& payload = {});
  // Writes a header alone: bytes, or minus errno.
  ssize_t ReplyType(uint64_t seq, uint64_t type);

 private:
  Uring* Ring();
  ssize_t UringRead(void* to, size_t bytes);
  ssize_t UringWrite(const void* from, size_t bytes);

  int fd_;
  int flags_;
  uint64_t modes_ = 0;  // as the kernel has them
  std::unique_ptr<Uring> uring_;
  pid_t uring_owner_ = 0;  // a child makes its own
};

// Batch mode: a reply, and its data behind it.
void AppendReply(std::vector<uint8_t>* out, uint64_t seq, uint64_t type,
                 const std::vector<uint8_t>& data = {});

// A small RAM disk behind a control node, served by one thread until it is
// destroyed or the target is removed.
class RamServer {
 public:
  // `initial` is what is on the disk; zeroes without.
  RamServer(const std::string& name, size_t bytes,
            const uint8_t* initial = nullptr);
  ~RamServer();
  bool ok() const { return channel_.ok(); }
  uint8_t* data() { return data_.data(); }
  uint64_t flags_seen() const { return flags_seen_; }

 private:
  void Run();

  Channel channel_;
  std::vector<uint8_t> data_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> flags_seen_{0};
  std::thread thread_;
};

// Serves reads and writes of `disk` by blocking reads and synchronous copies
// until the target is gone. Takes a handful of requests before it answers them,
// newest first, so that a kill finds some in its hands. Passes over what a
// suspend takes away. False if the stream broke.
bool ServeRam(Channel* channel, uint8_t* disk, size_t bytes);

}  // namespace dmu

#endif  // TEST_VM_CHANNEL_H_

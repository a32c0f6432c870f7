// SPDX-License-Identifier: Apache-2.0
//
// fake_call.h - a batch call on a file that only knows read, write and poll:
// one end of a fake kernel's socket pair.
#ifndef TEST_FAKE_CALL_H_
#define TEST_FAKE_CALL_H_

#include <errno.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "daemon/base/check.h"
#include "daemon/channel/batch_call.h"
#include "daemon/io/loop.h"
#include "daemon/io/unique_fd.h"

namespace dmu {

class FakeCall : public BatchCall {
 public:
  explicit FakeCall(Loop* loop)
      : loop_(loop), make_(OnMake, this), end_(OnEnd, this) {
    watch_.ready = OnReadable;
    watch_.context = this;
    watch_.events = EPOLLIN;
  }
  ~FakeCall() override { DMU_CHECK(state_ == State::kIdle); }

  void Begin(int fd, uint8_t* requests, uint32_t requests_bytes,
             User* user) override {
    DMU_CHECK(state_ == State::kIdle);
    state_ = State::kBegun;
    // The channel may poll its file for room.
    poll_fd_.reset(dup(fd));
    watch_.fd = poll_fd_.get();
    requests_ = requests;
    requests_bytes_ = requests_bytes;
    user_ = user;
    result_ = 0;
    ++begun_;
    if (!held_) loop_->PostLast(&make_);
  }

  void Cancel() override {
    if (state_ == State::kIdle) return;
    result_ = -ESHUTDOWN;
    if (watching_) End(result_);
  }

  // Keeps calls from being made, as a ring that is full does.
  void Hold(bool held) {
    held_ = held;
    if (held) loop_->Cancel(&make_);
    if (!held && state_ == State::kBegun) loop_->PostLast(&make_);
  }
  // The call that waits ends so.
  void End(int result) {
    DMU_CHECK(watching_);
    loop_->Unwatch(&watch_);
    watching_ = false;
    result_ = result;
    loop_->Post(&end_);
  }
  int begun() const { return begun_; }
  uint64_t taken_bytes() const { return taken_bytes_; }

 private:
  static void OnMake(void* context) { static_cast<FakeCall*>(context)->Make(); }
  static void OnEnd(void* context) {
    auto* self = static_cast<FakeCall*>(context);
    self->Give(self->result_);
  }
  static void OnReadable(void* context, uint32_t) {
    auto* self = static_cast<FakeCall*>(context);
    const ssize_t got =
        read(self->watch_.fd, self->requests_, self->requests_bytes_);
    if (got < 0 && errno == EAGAIN) return;
    self->loop_->Unwatch(&self->watch_);
    self->watching_ = false;
    self->Give(got > 0 ? static_cast<int32_t>(got) : -ENOTBLK);
  }
  void Give(int32_t result) {
    poll_fd_.reset();
    state_ = State::kIdle;
    user_->OnGiven(result);
  }

  void Make() {
    constexpr int kPartsMax = 32;
    iovec parts[kPartsMax];
    const int count = user_->Gather(parts, kPartsMax);
    state_ = State::kMade;
    size_t all = 0;
    for (int i = 0; i < count; ++i) all += parts[i].iov_len;
    const ssize_t put = count > 0 ? writev(watch_.fd, parts, count) : 0;
    const size_t taken = put > 0 ? static_cast<size_t>(put) : 0;
    taken_bytes_ += taken;
    state_ = State::kWaiting;
    user_->OnTaken(taken);
    if (result_ != 0 || taken < all) {
      loop_->Post(&end_);
      return;
    }
    DMU_CHECK(loop_->AddWatch(&watch_) == 0);
    watching_ = true;
  }

  Loop* const loop_;
  Task make_;
  Task end_;
  Watch watch_;
  UniqueFd poll_fd_;
  User* user_ = nullptr;
  uint8_t* requests_ = nullptr;
  uint32_t requests_bytes_ = 0;
  int32_t result_ = 0;
  bool watching_ = false;
  bool held_ = false;
  int begun_ = 0;
  uint64_t taken_bytes_ = 0;
};

}  // namespace dmu

#endif  // TEST_FAKE_CALL_H_

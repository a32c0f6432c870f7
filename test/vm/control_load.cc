// SPDX-License-Identifier: Apache-2.0
//
// A load for the daemon's control socket: many clients that send random
// messages at a given rate, half of them in order, half of them not: frames
// that are cut, far too long, empty or of random bytes, verbs nobody knows,
// halves of messages that are ended later or never, answers that nobody reads,
// clients that go away in the midst of it all.
//
// usage: control_load [--hold] SOCKET CLIENTS RATE SECONDS SEED [DEVICE]
//
// One thread. RATE is messages a second of all clients together. Asks for the
// status of DEVICE, and watches it. Ends with 0 when every message in order was
// answered in its session, and every frame that is too long ended its session
// and nothing else did; with 1 and a line that says what was not so. Prints how
// much there was, and how long the answers took.
//
// --hold: only connects CLIENTS times, prints how many of them are answered,
// and keeps them until standard input ends.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/bytes.h"
#include "daemon/control/frame.h"
#include "daemon/io/unique_fd.h"
#include "proto/control.pb.h"
#include "test/sim/rng.h"

namespace dmu {
namespace {

// How long an answer may take before it counts as missing.
constexpr uint64_t kPatienceUs = 60'000'000;
// Clients at a time that do not read.
constexpr size_t kDeafMax = 4;

uint64_t NowUs() {
  using std::chrono::duration_cast;
  return static_cast<uint64_t>(
      duration_cast<std::chrono::microseconds>(
          std::chrono::steady_clock::now().time_since_epoch())
          .count());
}

[[noreturn]] void Die(const std::string& what) {
  fprintf(stderr, "control_load: %s\n", what.c_str());
  exit(1);
}

int Connect(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) Die(path + ": too long");
  memcpy(address.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address),
                        sizeof(address)) != 0) {
    Die(path + ": cannot connect: " + strerror(errno));
  }
  if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0) Die("fcntl");
  return fd;
}

std::string FrameOf(const std::string& message) {
  std::string frame;
  AppendFrame(message, &frame);
  return frame;
}

// One connection and what is expected of it.
struct Client {
  UniqueFd fd;
  std::string in;
  std::map<uint64_t, uint64_t> asked_us;  // by id, what has no answer yet
  size_t garbled = 0;                     // answers that carry no id of ours
  std::string rest;                       // of a message that was sent in half
  bool ends = false;                      // the daemon is to end it
  bool reads = true;
};

struct Counts {
  uint64_t sent = 0, in_order = 0, garbage = 0, ended = 0, left = 0;
  std::vector<uint64_t> answers_us;
};

class Load {
 public:
  Load(std::string path, size_t clients, uint64_t seed, std::string device)
      : path_(std::move(path)), device_(std::move(device)), rng_(seed) {
    for (size_t i = 0; i < clients; ++i) {
      clients_.push_back(std::make_unique<Client>());
      Renew(clients_.back().get());
    }
  }

  void Run(uint64_t rate, uint64_t seconds) {
    const uint64_t begin_us = NowUs();
    const uint64_t end_us = begin_us + seconds * 1'000'000;
    uint64_t due = 0;
    for (uint64_t now_us = begin_us; now_us < end_us; now_us = NowUs()) {
      const uint64_t sent_by_now = (now_us - begin_us) * rate / 1'000'000;
      // What could not be sent in time is not made up for.
      due = std::max(due, sent_by_now < 100 ? 0 : sent_by_now - 100);
      for (; due <= sent_by_now; ++due) Act();
      Receive(1);
    }
    const double took_s = static_cast<double>(NowUs() - begin_us) / 1e6;
    Drain();
    Print(took_s);
  }

 private:
  Client* Any() { return clients_[rng_.Below(clients_.size())].get(); }

  void Renew(Client* client) {
    *client = Client();
    client->fd.reset(Connect(path_));
  }

  void Send(Client* client, const std::string& bytes) {
    const ssize_t put =
        send(client->fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (put == static_cast<ssize_t>(bytes.size())) return;
    // The daemon has ended it, or has not read for long; both only where that
    // was asked for.
    if (client->reads && !client->ends) {
      Die(std::string("a session takes no more: ") + strerror(errno));
    }
    Renew(client);
  }

  // Asks for something that is answered, with whatever code, exactly once.
  std::string InOrder(Client* client) {
    proto::Request request;
    request.set_version(kControlVersion);
    request.set_id(++last_id_);
    switch (rng_.Below(8)) {
      case 0:
      case 1:
      case 2:
        request.mutable_status()->set_name(device_);
        break;
      case 3:
        request.mutable_status();
        break;
      case 4:
        request.mutable_throttle();
        break;
      case 5:
        request.mutable_merge()->set_name(device_);
        break;
      case 6:
        request.mutable_detach()->set_name("no such device");
        break;
      default:
        request.mutable_attach()->set_name("no/name");
        request.mutable_attach()->mutable_file()->set_path("/no/such/file");
    }
    if (client->reads) client->asked_us[last_id_] = NowUs();
    ++counts_.in_order;
    return FrameOf(request.SerializeAsString());
  }

  void Act() {
    Client* client = Any();
    ++counts_.sent;
    if (!client->rest.empty()) {
      // The second half, or never.
      if (rng_.OneIn(2)) {
        Send(client, std::exchange(client->rest, std::string()));
      } else {
        ++counts_.left;
        Renew(client);
      }
      return;
    }
    if (client->ends) return;
    if (!client->reads) {
      if (rng_.OneIn(40)) {
        ++counts_.left;
        Renew(client);
      } else {
        Send(client, InOrder(client));
      }
      return;
    }
    if (rng_.OneIn(2)) {
      Send(client, InOrder(client));
    } else {
      ++counts_.garbage;
      Garbage(client);
    }
  }

  void Garbage(Client* client) {
    uint8_t header[kFrameHeaderBytes];
    switch (rng_.Below(8)) {
      case 0: {  // too long, by one or by far
        const bool far = rng_.OneIn(2);
        StoreLe<uint32_t>(header, far ? 0xffffffff : kRequestFrameBytesMax + 1);
        Send(client, std::string(header, header + sizeof(header)));
        // What it asked before is answered, or is lost with the session.
        client->asked_us.clear();
        client->ends = true;
        return;
      }
      case 1: {  // random bytes
        std::string bytes(1 + rng_.Below(200), '\0');
        for (char& byte : bytes) byte = static_cast<char>(rng_.Next());
        ++client->garbled;
        Send(client, FrameOf(bytes));
        return;
      }
      case 2: {  // nothing
        ++client->garbled;
        Send(client, FrameOf(""));
        return;
      }
      case 3: {  // a verb nobody knows; and a version
        proto::Request request;
        request.set_version(rng_.OneIn(2) ? kControlVersion : 1u << 31);
        request.set_id(++last_id_);
        client->asked_us[last_id_] = NowUs();
        // Field 1000, two bytes long.
        Send(client, FrameOf(request.SerializeAsString() + "\xc2\x3e\x02zz"));
        return;
      }
      case 4:
      case 5: {  // half a message, the rest of which may come
        const std::string frame = InOrder(client);
        const size_t half = rng_.Below(frame.size());
        client->rest = frame.substr(half);
        if (half > 0) Send(client, frame.substr(0, half));
        return;
      }
      case 6: {  // goes away with a message on the way, and answers unread
        const std::string frame = InOrder(client);
        Send(client, frame.substr(0, 1 + rng_.Below(frame.size())));
        ++counts_.left;
        Renew(client);
        return;
      }
      default: {  // does not read from now on
        const auto deaf =
            std::count_if(clients_.begin(), clients_.end(),
                          [](const auto& at) { return !at->reads; });
        if (static_cast<size_t>(deaf) >= kDeafMax) return;
        client->asked_us.clear();
        client->reads = false;
        proto::Request request;
        request.set_version(kControlVersion);
        request.set_id(++last_id_);
        request.mutable_watch()->set_name(device_);
        Send(client, FrameOf(request.SerializeAsString()));
        return;
      }
    }
  }

  // Takes the answers that are there, waiting for the first.
  void Receive(int wait_ms) {
    std::vector<pollfd> polled;
    std::vector<Client*> whose;
    for (const auto& client : clients_) {
      if (!client->reads) continue;
      polled.push_back({.fd = client->fd.get(), .events = POLLIN});
      whose.push_back(client.get());
    }
    if (poll(polled.data(), polled.size(), wait_ms) <= 0) return;
    for (size_t i = 0; i < polled.size(); ++i) {
      if (polled[i].revents != 0) ReceiveFrom(whose[i]);
    }
  }

  void ReceiveFrom(Client* client) {
    char piece[16384];
    const ssize_t got = read(client->fd.get(), piece, sizeof(piece));
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      if (!client->ends) Die("the daemon ended a session without a reason");
      ++counts_.ended;
      Renew(client);
      return;
    }
    client->in.append(piece, static_cast<size_t>(got));
    for (;;) {
      if (client->in.size() < kFrameHeaderBytes) return;
      const uint32_t bytes =
          LoadLe<uint32_t>(reinterpret_cast<const uint8_t*>(client->in.data()));
      if (bytes > kResponseFrameBytesMax) Die("an answer far too long");
      if (client->in.size() < kFrameHeaderBytes + bytes) return;
      proto::Response response;
      if (!response.ParseFromArray(client->in.data() + kFrameHeaderBytes,
                                   static_cast<int>(bytes))) {
        Die("an answer that is none");
      }
      client->in.erase(0, kFrameHeaderBytes + bytes);
      if (!client->ends) Answered(client, response.id());
    }
  }

  void Answered(Client* client, uint64_t id) {
    const auto asked = client->asked_us.find(id);
    if (asked != client->asked_us.end()) {
      counts_.answers_us.push_back(NowUs() - asked->second);
      client->asked_us.erase(asked);
    } else if (client->garbled > 0) {
      --client->garbled;
    } else {
      Die("an answer that nobody asked for");
    }
  }

  // Whatever is expected still comes.
  void Drain() {
    for (const auto& client : clients_) {
      if (!client->rest.empty()) {
        Send(client.get(), std::exchange(client->rest, std::string()));
      }
    }
    const uint64_t end_us = NowUs() + kPatienceUs;
    for (;;) {
      const bool quiet =
          std::all_of(clients_.begin(), clients_.end(), [](const auto& client) {
            return !client->reads || (client->asked_us.empty() &&
                                      client->garbled == 0 && !client->ends);
          });
      if (quiet) return;
      if (NowUs() > end_us) Die("messages in order have no answer");
      Receive(100);
    }
  }

  void Print(double took_s) {
    std::vector<uint64_t>& times = counts_.answers_us;
    if (times.empty()) Die("no answer at all");
    std::sort(times.begin(), times.end());
    printf(
        "control_load: %zu clients, %llu messages in %.1f s (%.0f/s): %llu in "
        "order, %llu not; %llu sessions ended by the daemon, %llu left; answer "
        "%.1f ms median, %.1f p99, %.1f max\n",
        clients_.size(), static_cast<unsigned long long>(counts_.sent), took_s,
        static_cast<double>(counts_.sent) / took_s,
        static_cast<unsigned long long>(counts_.in_order),
        static_cast<unsigned long long>(counts_.garbage),
        static_cast<unsigned long long>(counts_.ended),
        static_cast<unsigned long long>(counts_.left),
        static_cast<double>(times[times.size() / 2]) / 1e3,
        static_cast<double>(times[times.size() * 99 / 100]) / 1e3,
        static_cast<double>(times.back()) / 1e3);
  }

  const std::string path_;
  const std::string device_;
  sim::Rng rng_;
  uint64_t last_id_ = 0;
  std::vector<std::unique_ptr<Client>> clients_;
  Counts counts_;
};

int Hold(const std::string& path, size_t clients) {
  std::vector<UniqueFd> held;
  size_t answered = 0;
  for (size_t i = 0; i < clients; ++i) {
    held.emplace_back(Connect(path));
    proto::Request request;
    request.set_version(kControlVersion);
    request.set_id(1);
    request.mutable_throttle();
    const std::string frame = FrameOf(request.SerializeAsString());
    if (send(held.back().get(), frame.data(), frame.size(), MSG_NOSIGNAL) < 0) {
      continue;
    }
    pollfd polled = {.fd = held.back().get(), .events = POLLIN};
    char byte = 0;
    if (poll(&polled, 1, static_cast<int>(kPatienceUs / 1000)) == 1 &&
        read(held.back().get(), &byte, 1) == 1) {
      ++answered;
    }
  }
  printf("%zu\n", answered);
  fflush(stdout);
  while (getchar() != EOF) {
  }
  return 0;
}

}  // namespace
}  // namespace dmu

int main(int argc, char** argv) {
  if (argc == 4 && strcmp(argv[1], "--hold") == 0) {
    return dmu::Hold(argv[2], strtoul(argv[3], nullptr, 10));
  }
  if (argc < 6) {
    fprintf(stderr,
            "usage: control_load SOCKET CLIENTS RATE SECONDS SEED [DEVICE]\n"
            "       control_load --hold SOCKET CLIENTS\n");
    return 2;
  }
  dmu::Load load(argv[1], strtoul(argv[2], nullptr, 10),
                 strtoull(argv[5], nullptr, 10), argc > 6 ? argv[6] : "");
  load.Run(strtoull(argv[3], nullptr, 10), strtoull(argv[4], nullptr, 10));
  return 0;
}

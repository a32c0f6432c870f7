// SPDX-License-Identifier: Apache-2.0
//
// Goal: every line reaches the log that is there, with its fields; a log that
// takes nothing costs a line and no time, and the loss is said.
// Method: a real datagram socket in the journal's place, whose protocol is
// taken apart here; pipes, socket pairs and files in the place of standard
// error.
#include "daemon/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <map>
#include <optional>
#include <string>

#include "daemon/base/bytes.h"
#include "daemon/io/unique_fd.h"
#include "gtest/gtest.h"

namespace dmu {
namespace {

using Fields = std::map<std::string, std::string>;

// What the journal makes of a datagram; nothing when it is none of its own.
std::optional<Fields> ParseDatagram(const std::string& bytes) {
  Fields fields;
  size_t at = 0;
  while (at < bytes.size()) {
    const size_t end = bytes.find_first_of("=\n", at);
    if (end == std::string::npos) return std::nullopt;
    const std::string name = bytes.substr(at, end - at);
    if (name.empty() ||
        name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") !=
            std::string::npos) {
      return std::nullopt;
    }
    size_t begin = end + 1;
    size_t length = 0;
    if (bytes[end] == '=') {
      const size_t line = bytes.find('\n', begin);
      if (line == std::string::npos) return std::nullopt;
      length = line - begin;
    } else {
      if (bytes.size() - begin < 8) return std::nullopt;
      length = LoadLe<uint64_t>(
          reinterpret_cast<const uint8_t*>(bytes.data() + begin));
      begin += 8;
      if (length >= bytes.size() - begin || bytes[begin + length] != '\n') {
        return std::nullopt;
      }
    }
    if (!fields.emplace(name, bytes.substr(begin, length)).second) {
      return std::nullopt;
    }
    at = begin + length + 1;
  }
  return fields;
}

class LogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/dmu-log-test-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    stderr_.reset(dup(STDERR_FILENO));
    unsetenv("JOURNAL_STREAM");
  }

  void TearDown() override {
    RestoreStderr();
    EXPECT_EQ(OpenLog({.target = LogTarget::kStderr}), 0);
    Log(LogLevel::kInfo, "takes the notice of a loss");
    EXPECT_EQ(system(("rm -r " + directory_).c_str()), 0);
  }

  void RestoreStderr() { dup2(stderr_.get(), STDERR_FILENO); }

  std::string path(const char* name) const { return directory_ + "/" + name; }

  UniqueFd Listen(const std::string& at) {
    UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, at.data(), at.size());
    EXPECT_EQ(
        bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
        0)
        << strerror(errno);
    return fd;
  }

  static std::optional<Fields> Receive(const UniqueFd& fd) {
    char bytes[4096];
    const ssize_t got = recv(fd.get(), bytes, sizeof(bytes), 0);
    if (got < 0) return std::nullopt;
    return ParseDatagram(std::string(bytes, static_cast<size_t>(got)));
  }

  static std::string ReadAll(int fd) {
    char bytes[8192];
    const ssize_t got = read(fd, bytes, sizeof(bytes));
    return got > 0 ? std::string(bytes, static_cast<size_t>(got)) : "";
  }

  std::string directory_;
  UniqueFd stderr_;
};

TEST_F(LogTest, JournalGetsFields) {
  const std::string at = path("journal");
  const UniqueFd journal = Listen(at);
  ASSERT_EQ(
      OpenLog({.target = LogTarget::kJournal, .journal_path = at.c_str()}), 0);
  LogWith(LogLevel::kError,
          {.device = "root", .op = "read", .sector = 77, .error = EIO},
          "%s: read failed", "root");
  const std::optional<Fields> seen = Receive(journal);
  ASSERT_TRUE(seen.has_value());
  EXPECT_EQ(*seen, (Fields{{"MESSAGE", "root: read failed"},
                           {"PRIORITY", "3"},
                           {"SYSLOG_FACILITY", "3"},
                           {"SYSLOG_IDENTIFIER", "dmuserd"},
                           {"DM_USER_DEVICE", "root"},
                           {"DM_USER_OP", "read"},
                           {"DM_USER_SECTOR", "77"},
                           {"ERRNO", std::to_string(EIO)}}));
  Log(LogLevel::kInfo, "no fields");
  const std::optional<Fields> plain = Receive(journal);
  ASSERT_TRUE(plain.has_value());
  EXPECT_EQ(*plain, (Fields{{"MESSAGE", "no fields"},
                            {"PRIORITY", "6"},
                            {"SYSLOG_FACILITY", "3"},
                            {"SYSLOG_IDENTIFIER", "dmuserd"}}));
}

// A value with lines has its length before it, so that none of them can be
// taken for a field.
TEST_F(LogTest, LinesInAValueAreNoFields) {
  const std::string at = path("journal");
  const UniqueFd journal = Listen(at);
  ASSERT_EQ(
      OpenLog({.target = LogTarget::kJournal, .journal_path = at.c_str()}), 0);
  const std::string device = "a\nPRIORITY=0\nMESSAGE=forged";
  LogWith(LogLevel::kWarning, {.device = device.c_str()}, "one\nERRNO=1\n%s",
          device.c_str());
  const std::optional<Fields> seen = Receive(journal);
  ASSERT_TRUE(seen.has_value());
  EXPECT_EQ(seen->at("MESSAGE"), "one\nERRNO=1\n" + device);
  EXPECT_EQ(seen->at("DM_USER_DEVICE"), device);
  EXPECT_EQ(seen->at("PRIORITY"), "4");
  EXPECT_EQ(seen->count("ERRNO"), 0u);
}

// However long they are, a datagram is whole, and within its buffer.
TEST_F(LogTest, LongValuesAreCut) {
  const std::string at = path("journal");
  const UniqueFd journal = Listen(at);
  ASSERT_EQ(
      OpenLog({.target = LogTarget::kJournal, .journal_path = at.c_str()}), 0);
  for (const size_t bytes : {400u, 505u, 511u, 512u, 513u, 5000u}) {
    const std::string text(bytes, 'x');
    const std::string device(bytes, 'y');
    LogWith(LogLevel::kError,
            {.device = device.c_str(), .op = "write", .sector = 1, .error = 5},
            "%s", text.c_str());
    const std::optional<Fields> seen = Receive(journal);
    ASSERT_TRUE(seen.has_value()) << bytes;
    EXPECT_EQ(seen->at("MESSAGE"),
              text.substr(0, std::min<size_t>(bytes, 511)));
    EXPECT_EQ(seen->at("ERRNO"), "5");
    // A name cut short would be another device.
    if (seen->count("DM_USER_DEVICE") > 0) {
      EXPECT_EQ(seen->at("DM_USER_DEVICE"), device);
    }
  }
}

TEST_F(LogTest, JournalIsChosenWhenStderrIsIt) {
  const std::string at = path("journal");
  const UniqueFd journal = Listen(at);
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
  const UniqueFd read_end(fds[0]);
  const UniqueFd write_end(fds[1]);
  dup2(write_end.get(), STDERR_FILENO);
  struct stat info = {};
  ASSERT_EQ(fstat(STDERR_FILENO, &info), 0);
  const std::string device = std::to_string(info.st_dev);
  const std::string inode = std::to_string(info.st_ino);
  const struct {
    std::string stream;
    bool journal;
  } cases[] = {
      {device + ":" + inode, true},
      {device + ":" + std::to_string(info.st_ino + 1), false},
      {std::to_string(info.st_dev + 1) + ":" + inode, false},
      {device, false},
      {device + ":" + inode + "x", false},
      {device + ":", false},
      {"", false},
  };
  for (const auto& c : cases) {
    setenv("JOURNAL_STREAM", c.stream.c_str(), 1);
    ASSERT_EQ(OpenLog({.journal_path = at.c_str()}), 0);
    Log(LogLevel::kNotice, "who hears it?");
    EXPECT_EQ(Receive(journal).has_value(), c.journal) << c.stream;
    EXPECT_EQ(ReadAll(read_end.get()), c.journal ? "" : "<5>who hears it?\n")
        << c.stream;
  }
  // It is the journal, but its socket is not there: no line is lost.
  setenv("JOURNAL_STREAM", (device + ":" + inode).c_str(), 1);
  ASSERT_EQ(OpenLog({.journal_path = path("none").c_str()}), 0);
  Log(LogLevel::kNotice, "still heard");
  EXPECT_EQ(ReadAll(read_end.get()), "<5>still heard\n");
  unsetenv("JOURNAL_STREAM");
}

TEST_F(LogTest, AJournalThatIsStartedAnewIsFoundAgain) {
  const std::string at = path("journal");
  UniqueFd journal = Listen(at);
  ASSERT_EQ(
      OpenLog({.target = LogTarget::kJournal, .journal_path = at.c_str()}), 0);
  Log(LogLevel::kInfo, "first");
  EXPECT_TRUE(Receive(journal).has_value());
  journal.reset();
  const uint64_t lost = LogLinesLost();
  Log(LogLevel::kInfo, "to nobody");
  EXPECT_EQ(LogLinesLost() - lost, 1u);
  ASSERT_EQ(unlink(at.c_str()), 0);
  journal = Listen(at);
  Log(LogLevel::kInfo, "second");
  const std::optional<Fields> notice = Receive(journal);
  ASSERT_TRUE(notice.has_value());
  EXPECT_EQ(notice->at("MESSAGE").find("1 of the"), 0u)
      << notice->at("MESSAGE");
  const std::optional<Fields> line = Receive(journal);
  ASSERT_TRUE(line.has_value());
  EXPECT_EQ(line->at("MESSAGE"), "second");
}

// Nobody reads the socket: the loop goes on, and hears of the loss once.
TEST_F(LogTest, AFullJournalLosesLinesAndSaysSo) {
  const std::string at = path("journal");
  const UniqueFd journal = Listen(at);
  ASSERT_EQ(
      OpenLog({.target = LogTarget::kJournal, .journal_path = at.c_str()}), 0);
  constexpr int kLines = 20'000;
  const uint64_t before = LogLinesLost();
  for (int i = 0; i < kLines; ++i) Log(LogLevel::kInfo, "line %d", i);
  const uint64_t lost = LogLinesLost() - before;
  EXPECT_GT(lost, 0u);
  uint64_t got = 0;
  while (Receive(journal).has_value()) ++got;
  EXPECT_EQ(got + lost, uint64_t{kLines});
  Log(LogLevel::kInfo, "after");
  Log(LogLevel::kInfo, "and after");
  const std::optional<Fields> notice = Receive(journal);
  ASSERT_TRUE(notice.has_value());
  EXPECT_EQ(notice->at("MESSAGE").find(std::to_string(lost) + " of the"), 0u)
      << notice->at("MESSAGE");
  EXPECT_EQ(notice->at("PRIORITY"), "4");
  EXPECT_EQ(Receive(journal)->at("MESSAGE"), "after");
  EXPECT_EQ(Receive(journal)->at("MESSAGE"), "and after");
  EXPECT_FALSE(Receive(journal).has_value());
}

// A pipe is shared with whoever made it, and blocks them and us: a file of our
// own does not.
TEST_F(LogTest, AFullPipeOrSocketNeverBlocks) {
  for (const bool use_socket : {false, true}) {
    int fds[2];
    ASSERT_EQ(use_socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, fds)
                         : pipe2(fds, O_CLOEXEC),
              0);
    const UniqueFd read_end(fds[0]);
    UniqueFd write_end(fds[1]);
    dup2(write_end.get(), STDERR_FILENO);
    ASSERT_EQ(OpenLog({.target = LogTarget::kStderr}), 0);
    EXPECT_EQ(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0)
        << "others share this file";
    const uint64_t before = LogLinesLost();
    alarm(20);  // a test that blocks ends here
    for (int i = 0; i < 20'000; ++i) Log(LogLevel::kInfo, "line %d", i);
    alarm(0);
    EXPECT_GT(LogLinesLost() - before, 0u);
    const std::string first = ReadAll(read_end.get());
    EXPECT_EQ(first.substr(0, 14), "line 0\nline 1\n");
    RestoreStderr();
    ASSERT_EQ(OpenLog({.target = LogTarget::kStderr}), 0);
    Log(LogLevel::kInfo, "takes the notice of a loss");
  }
}

// Whoever read the log has ended.
TEST_F(LogTest, ABrokenPipeIsALossAndNoEnd) {
  signal(SIGPIPE, SIG_IGN);
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read_end(fds[0]);
  UniqueFd write_end(fds[1]);
  dup2(write_end.get(), STDERR_FILENO);
  ASSERT_EQ(OpenLog({.target = LogTarget::kStderr}), 0);
  read_end.reset();
  const uint64_t before = LogLinesLost();
  Log(LogLevel::kInfo, "to nobody");
  EXPECT_EQ(LogLinesLost() - before, 1u);
}

TEST_F(LogTest, PrefixesAndPlainLines) {
  const struct {
    LogTarget target;
    const char* line;
  } cases[] = {
      // Control characters could begin a line that nobody wrote.
      {LogTarget::kStderr, "a?<0>forged\n"},
      {LogTarget::kPrefix, "<4>a?<0>forged\n"},
      {LogTarget::kAuto, "<4>a?<0>forged\n"},
  };
  for (const auto& c : cases) {
    const UniqueFd file(
        open(path("log").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
    dup2(file.get(), STDERR_FILENO);
    ASSERT_EQ(OpenLog({.target = c.target}), 0);
    Log(LogLevel::kWarning, "a\n<0>forged");
    char line[100] = "";
    EXPECT_GT(pread(file.get(), line, sizeof(line) - 1, 0), 0);
    EXPECT_STREQ(line, c.line);
  }
}

// The real one where there is a kernel that lets us; here a file has its place,
// and what counts is the line: facility and priority, name, text.
TEST_F(LogTest, KmsgLines) {
  const std::string at = path("kmsg");
  const UniqueFd file(open(at.c_str(), O_RDWR | O_CREAT, 0600));
  ASSERT_EQ(OpenLog({.target = LogTarget::kKmsg, .kmsg_path = at.c_str()}), 0);
  LogWith(LogLevel::kError, {.device = "a"}, "a: broken");
  char line[100] = "";
  EXPECT_GT(pread(file.get(), line, sizeof(line) - 1, 0), 0);
  EXPECT_STREQ(line, "<27>dmuserd: a: broken\n");
}

TEST_F(LogTest, WhatCannotBeOpenedIsSaidAndTheLogStays) {
  const UniqueFd file(open(path("log").c_str(), O_RDWR | O_CREAT, 0600));
  dup2(file.get(), STDERR_FILENO);
  ASSERT_EQ(OpenLog({.target = LogTarget::kStderr}), 0);
  const std::string none = path("none");
  EXPECT_EQ(
      OpenLog({.target = LogTarget::kJournal, .journal_path = none.c_str()}),
      ENOENT);
  EXPECT_EQ(OpenLog({.target = LogTarget::kKmsg, .kmsg_path = none.c_str()}),
            ENOENT);
  Log(LogLevel::kInfo, "as before");
  char line[100] = "";
  EXPECT_GT(pread(file.get(), line, sizeof(line) - 1, 0), 0);
  EXPECT_STREQ(line, "as before\n");
}

TEST(LogLimiterTest, LetsABurstThroughAndCountsTheRest) {
  LogLimiter limiter(3);
  uint64_t dropped = 99;
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(limiter.Allow(&dropped));
    EXPECT_EQ(dropped, 0u);
  }
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(limiter.Allow(&dropped));
}

}  // namespace
}  // namespace dmu

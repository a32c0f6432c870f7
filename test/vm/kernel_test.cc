// SPDX-License-Identifier: Apache-2.0
//
// Entry of the kernel tests, and what concerns the module as a whole: load,
// unload, and the refusal to unload while in use.
//
// Runs as root in a virtual machine made for it. `--module=FILE` names the
// dm-user.ko to load; it is loaded before the first test and unloaded after
// the last, and both must work. `--storm=SECONDS` is how long each of the
// storms lasts. `--channel=uring`: the daemon's side of the tests uses io_uring
// commands in place of read and write. The other cases are in kernel_*_test.cc.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "test/vm/channel.h"
#include "test/vm/dm.h"
#include "test/vm/redirect.h"

namespace dmu {
namespace {

std::string g_module_path;

int LoadModule() {
  const int fd = open(g_module_path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return errno;
  }
  const long r = syscall(SYS_finit_module, fd, "", 0);
  const int error = r < 0 ? errno : 0;
  close(fd);
  return error;
}

int UnloadModule() {
  return syscall(SYS_delete_module, "dm_user", O_NONBLOCK) < 0 ? errno : 0;
}

class ModuleEnvironment : public testing::Environment {
 public:
  void SetUp() override { ASSERT_EQ(0, LoadModule()) << g_module_path; }
  void TearDown() override { EXPECT_EQ(0, UnloadModule()) << "module in use"; }
};

TEST(Module, UnloadIsRefusedWhileATableIsLoaded) {
  MappedDevice device("mod_table");
  ASSERT_EQ(0, device.CreateUser());
  EXPECT_EQ(EWOULDBLOCK, UnloadModule());
}

TEST(Module, UnloadIsRefusedWhileAChannelIsOpen) {
  auto device = std::make_unique<MappedDevice>("mod_open");
  ASSERT_EQ(0, device->CreateUser());
  Channel channel("mod_open");
  ASSERT_TRUE(channel.ok());
  device.reset();
  EXPECT_EQ(EWOULDBLOCK, UnloadModule());
  channel.Close();
  EXPECT_EQ(0, UnloadModule());
  ASSERT_EQ(0, LoadModule());
}

}  // namespace
}  // namespace dmu

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  constexpr char kFlag[] = "--module=", kStorm[] = "--storm=";
  for (int i = 1; i < argc; ++i) {
    if (strncmp(argv[i], kFlag, strlen(kFlag)) == 0) {
      dmu::g_module_path = argv[i] + strlen(kFlag);
    } else if (strncmp(argv[i], kStorm, strlen(kStorm)) == 0) {
      dmu::g_storm_seconds = atoi(argv[i] + strlen(kStorm));
    } else if (strcmp(argv[i], "--channel=uring") == 0) {
      dmu::Channel::kind = dmu::Channel::Kind::kUring;
    }
    if (strcmp(argv[i], "--channel=uring") == 0) {
      dmu::Channel::kind = dmu::Channel::Kind::kUring;
    }
  }
  if (dmu::g_module_path.empty()) {
    fprintf(stderr, "usage: %s --module=DM_USER_KO\n", argv[0]);
    return 2;
  }
  testing::AddGlobalTestEnvironment(new dmu::ModuleEnvironment);
  return RUN_ALL_TESTS();
}

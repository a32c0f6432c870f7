// SPDX-License-Identifier: Apache-2.0
//
// state_store_test.cc - what one daemon leaves for the next.
//
// Goal: a record is text that a person can read, comes back as it was, and what
// is no record is left alone.
#include "daemon/device/state_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace dmu {
namespace {

class StateStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/state-XXXXXX";
    ASSERT_NE(nullptr, mkdtemp(pattern.data()));
    directory_ = pattern + "/state";
    store_ = std::make_unique<StateStore>(directory_);
    ASSERT_TRUE(store_->Prepare().ok());
  }
  static proto::DeviceRecord Record(const std::string& name) {
    proto::DeviceRecord record;
    record.mutable_attach()->set_name(name);
    record.mutable_attach()->mutable_snapshot()->set_cow_path("/cow");
    record.mutable_attach()->mutable_snapshot()->set_base_path("/base");
    record.set_merge_wanted(true);
    return record;
  }
  std::string Contents(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(directory_ + "/" + name).rdbuf();
    return text.str();
  }
  void Put(const std::string& name, const std::string& bytes) {
    std::ofstream(directory_ + "/" + name) << bytes;
  }
  std::string directory_;
  std::unique_ptr<StateStore> store_;
};

TEST_F(StateStoreTest, ARecordIsText) {
  ASSERT_TRUE(store_->Save(Record("m")).ok());
  EXPECT_EQ(
      "version: 1\nattach {\n  name: \"m\"\n  snapshot {\n"
      "    cow_path: \"/cow\"\n    base_path: \"/base\"\n  }\n}\n"
      "merge_wanted: true\n",
      Contents("m"));
  const auto loaded = store_->Load("m");
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ("/cow", loaded->attach().snapshot().cow_path());
}

TEST_F(StateStoreTest, TheLongestPathsFit) {
  proto::DeviceRecord record = Record("m");
  const std::string path(4095, '\x01');  // four bytes each, as text
  auto* snapshot = record.mutable_attach()->mutable_snapshot();
  snapshot->set_cow_path(path);
  snapshot->set_base_path(path);
  snapshot->set_source_path(path);
  record.set_undo_log_path(path);
  ASSERT_TRUE(store_->Save(record).ok());
  const auto loaded = store_->Load("m");
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(path, loaded->undo_log_path());
}

TEST_F(StateStoreTest, TheBinaryFormOfEarlierDaemonsIsRead) {
  proto::DeviceRecord record = Record("m");
  record.set_version(1);
  Put("m", record.SerializeAsString());
  ASSERT_EQ(1u, store_->LoadAll().size());
  EXPECT_TRUE(store_->LoadAll()[0].merge_wanted());
}

TEST_F(StateStoreTest, WhatIsNoRecordIsLeftAlone) {
  const std::pair<const char*, const char*> files[] = {
      {"empty", ""},
      {"garbage", "\xff\xff\xff"},
      {"unknown", "version: 1 attach { name: \"unknown\" } colour: 1"},
      {"other", "version: 1 attach { name: \"m\" }"},
      {"newer", "version: 2 attach { name: \"newer\" }"},
  };
  for (const auto& [name, bytes] : files) Put(name, bytes);
  ASSERT_TRUE(store_->Save(Record("m")).ok());
  EXPECT_EQ(1u, store_->LoadAll().size());
  for (const auto& [name, bytes] : files) EXPECT_EQ(bytes, Contents(name));
}

}  // namespace
}  // namespace dmu

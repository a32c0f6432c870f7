// SPDX-License-Identifier: Apache-2.0
//
// record_text_test.cc - device records as text.
//
// Goal: our text is protobuf's: each side reads what the other prints, whatever
// is in the record; no field of the schema is forgotten; what is wrong is said
// with its line.
// Method: random records, made by reflection over the schema, against
// TextFormat of the full library; damaged text.
#include "daemon/device/record_text.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <string>

#include "test/sim/rng.h"

namespace dmu {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;
using google::protobuf::util::MessageDifferencer;
using sim::Rng;

// UTF-8, as proto3 wants of a string, and what needs an escape.
std::string RandomText(Rng* rng) {
  static const char* const kPieces[] = {"/dev/vda", "\"", "'",  "\\",  "\n",
                                        "\t",       "#",  "{",  "}",   "ä€",
                                        "\x01",     " ",  "09", "\x7f"};
  std::string text;
  for (uint64_t i = rng->Below(8); i > 0; --i) {
    text += kPieces[rng->Below(std::size(kPieces))];
  }
  return text;
}

// Sets every field with a chance; of a oneof the last one stays.
void Fill(Message* message, Rng* rng) {
  const auto* reflection = message->GetReflection();
  const auto* descriptor = message->GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (rng->OneIn(3)) continue;
    ASSERT_FALSE(field->is_repeated()) << field->full_name();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        reflection->SetString(message, field, RandomText(rng));
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        reflection->SetBool(message, field, rng->OneIn(2));
        break;
      case FieldDescriptor::CPPTYPE_UINT32:
        reflection->SetUInt32(message, field,
                              static_cast<uint32_t>(rng->Below(UINT32_MAX)));
        break;
      case FieldDescriptor::CPPTYPE_UINT64:
        reflection->SetUInt64(message, field,
                              rng->OneIn(4) ? UINT64_MAX : rng->Below(1000));
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        reflection->SetEnum(
            message, field,
            field->enum_type()->value(static_cast<int>(rng->Below(
                static_cast<uint64_t>(field->enum_type()->value_count())))));
        break;
      case FieldDescriptor::CPPTYPE_MESSAGE:
        Fill(reflection->MutableMessage(message, field), rng);
        break;
      default:
        FAIL() << field->full_name() << " has a type this test does not know";
    }
  }
}

TEST(RecordTextTest, EachSideReadsTheOther) {
  Rng rng(1);
  for (int i = 0; i < 5000; ++i) {
    proto::DeviceRecord record, back;
    Fill(&record, &rng);
    const std::string ours = PrintRecord(record);
    ASSERT_TRUE(TextFormat::ParseFromString(ours, &back)) << ours;
    ASSERT_TRUE(MessageDifferencer::Equals(record, back)) << ours;
    absl::Status status = ParseRecord(ours, &back);
    ASSERT_TRUE(status.ok()) << status << "\n" << ours;
    ASSERT_TRUE(MessageDifferencer::Equals(record, back)) << ours;
    std::string theirs;
    TextFormat::Printer printer;
    printer.SetSingleLineMode(rng.OneIn(2));
    printer.SetUseUtf8StringEscaping(rng.OneIn(2));
    ASSERT_TRUE(printer.PrintToString(record, &theirs));
    status = ParseRecord(theirs, &back);
    ASSERT_TRUE(status.ok()) << status << "\n" << theirs;
    ASSERT_TRUE(MessageDifferencer::Equals(record, back)) << theirs;
  }
}

TEST(RecordTextTest, WhatAPersonWrites) {
  proto::DeviceRecord record;
  const absl::Status status = ParseRecord(
      "# by hand\nversion:1;attach<name:'m',snapshot:{cow_path:\"/a\"\n  'b'\n"
      "base_path:\"/c\"}transport:2>merge_wanted:t",
      &record);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ("/ab", record.attach().snapshot().cow_path());
  EXPECT_EQ("/c", record.attach().snapshot().base_path());
  EXPECT_EQ(proto::TRANSPORT_UBLK, record.attach().transport());
  EXPECT_TRUE(record.merge_wanted());
}

// A record outlives the daemon that wrote it: words stay what they are.
TEST(RecordTextTest, HowAFileIsRead) {
  const struct {
    proto::DirectIo value;
    const char* text;
  } cases[] = {
      {proto::DIRECT_IO_ON, "direct_io: DIRECT_IO_ON"},
      {proto::DIRECT_IO_OFF, "direct_io: DIRECT_IO_OFF"},
      {proto::DIRECT_IO_REMAP, "direct_io: DIRECT_IO_REMAP"},
  };
  for (const auto& c : cases) {
    proto::DeviceRecord record, back;
    record.mutable_attach()->mutable_file()->set_path("/dev/vda");
    record.mutable_attach()->mutable_file()->set_direct_io(c.value);
    const std::string text = PrintRecord(record);
    EXPECT_NE(text.find(c.text), std::string::npos) << text;
    const absl::Status status = ParseRecord(text, &back);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(back.attach().file().direct_io(), c.value);
  }
}

TEST(RecordTextTest, WhatIsWrongIsSaid) {
  const struct {
    const char* text;
    const char* what;
  } cases[] = {
      {"version 1", "line 1: expected a colon, found '1'"},
      {"version: 1\nversion: 1", "line 2: the field 'version' stands there"},
      {"version: -1", "expected a decimal number, found '-1'"},
      {"version: 4294967296", "no such version"},
      {"ublk_mark: 18446744073709551616", "expected a decimal number"},
      {"attach {\n  name: m\n}", "line 2: expected a string in quotes"},
      {"attach {\n  name: \"m\n}", "line 2: expected the end of a string"},
      {"attach { name: \"\\q\" }", "escapes of C"},
      {"attach {", "expected the name of a field, found the end of the file"},
      {"attach { null {} file {} }", "one of null, file and snapshot"},
      {"attach { snapshot { path: \"x\" } }", "there is no field 'path' here"},
      {"attach: 5", "a message in braces"},
      {"}", "expected the name of a field, found '}'"},
      {"merge_wanted: maybe", "true or false"},
      {"attach { transport: TRANSPORT_X }", "TRANSPORT_UBLK"},
  };
  for (const auto& c : cases) {
    proto::DeviceRecord record;
    const absl::Status status = ParseRecord(c.text, &record);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_NE(std::string(status.message()).find(c.what), std::string::npos)
        << c.text << "\n"
        << status;
  }
}

// Cut or changed anywhere, it is parsed to something or refused.
TEST(RecordTextTest, DamageNeverCrashes) {
  Rng rng(7);
  for (int i = 0; i < 20000; ++i) {
    proto::DeviceRecord record;
    Fill(&record, &rng);
    std::string text = PrintRecord(record);
    if (text.empty()) continue;
    const size_t at = rng.Below(text.size());
    if (rng.OneIn(2)) {
      text.resize(at);
    } else {
      text[at] = static_cast<char>(rng.Below(256));
    }
    (void)ParseRecord(text, &record).ok();
  }
}

}  // namespace
}  // namespace dmu

// SPDX-License-Identifier: Apache-2.0
//
// record_text.cc - see record_text.h.
#include "daemon/device/record_text.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace dmu {
namespace {

// The values of an enumeration. The first one is what is not printed.
struct EnumName {
  int value;
  const char* name;
};
constexpr EnumName kTransports[] = {
    {proto::TRANSPORT_AUTO, "TRANSPORT_AUTO"},
    {proto::TRANSPORT_DM_USER, "TRANSPORT_DM_USER"},
    {proto::TRANSPORT_UBLK, "TRANSPORT_UBLK"},
};
constexpr EnumName kDirectIo[] = {
    {proto::DIRECT_IO_AUTO, "DIRECT_IO_AUTO"},
    {proto::DIRECT_IO_ON, "DIRECT_IO_ON"},
    {proto::DIRECT_IO_OFF, "DIRECT_IO_OFF"},
    {proto::DIRECT_IO_REMAP, "DIRECT_IO_REMAP"},
};

// Two blanks per level, a field per line.
class Printer {
 public:
  void String(const char* field, const std::string& value) {
    if (!value.empty()) {
      Line(absl::StrCat(field, ": \"", absl::CEscape(value), "\""));
    }
  }
  void Number(const char* field, uint64_t value) {
    if (value != 0) Line(absl::StrCat(field, ": ", value));
  }
  void Bool(const char* field, bool value) {
    if (value) Line(absl::StrCat(field, ": true"));
  }
  template <size_t kCount>
  void Enum(const char* field, const EnumName (&names)[kCount], int value) {
    for (const EnumName& known : names) {
      if (known.value == value && &known != names) {
        Line(absl::StrCat(field, ": ", known.name));
      }
    }
  }
  void Begin(const char* field) {
    Line(absl::StrCat(field, " {"));
    ++depth_;
  }
  void End() {
    --depth_;
    Line("}");
  }
  std::string Take() { return std::move(text_); }

 private:
  void Line(const std::string& line) {
    text_.append(2 * depth_, ' ');
    text_ += line;
    text_ += '\n';
  }
  std::string text_;
  size_t depth_ = 0;
};

// Goes through the text once. After an error everything fails, and the first
// one stays.
class Reader {
 public:
  explicit Reader(const std::string& text) : text_(text) {}

  // Of a message, between Begin and its end: the next field's name. False at
  // its end, which is taken, and after an error.
  bool Next(std::string* field) {
    Skip();
    const bool at_top = scopes_.size() == 1;
    if (at_ == text_.size() && at_top) return false;
    if (!at_top && at_ < text_.size() && text_[at_] == closing_.back()) {
      ++at_;
      scopes_.pop_back();
      closing_.pop_back();
      Separator();
      return false;
    }
    if (!Word(field)) return Fail("the name of a field");
    std::vector<std::string>& seen = scopes_.back();
    if (std::find(seen.begin(), seen.end(), *field) != seen.end()) {
      return Say(absl::StrCat("the field '", *field, "' stands there twice"));
    }
    seen.push_back(*field);
    return true;
  }

  // The value of the field Next has named.
  bool String(std::string* value) {
    if (!Colon()) return false;
    value->clear();
    bool any = false;
    for (Skip();
         at_ < text_.size() && (text_[at_] == '"' || text_[at_] == '\'');
         Skip()) {
      const char quote = text_[at_];
      size_t end = at_ + 1;
      while (end < text_.size() && text_[end] != quote && text_[end] != '\n') {
        end += text_[end] == '\\' && end + 1 < text_.size() ? 2 : 1;
      }
      if (end >= text_.size() || text_[end] != quote) {
        return Fail("the end of a string on the line where it begins");
      }
      std::string piece;
      if (!absl::CUnescape(text_.substr(at_ + 1, end - at_ - 1), &piece)) {
        return Fail("a string with the escapes of C");
      }
      *value += piece;
      at_ = end + 1;
      any = true;
    }
    return any ? Separator() : Fail("a string in quotes");
  }
  bool Number(uint64_t* value) {
    std::string word;
    if (!Colon()) return false;
    if (!Word(&word) || !absl::SimpleAtoi(word, value)) {
      return Fail("a decimal number");
    }
    return Separator();
  }
  bool Bool(bool* value) {
    std::string word;
    if (!Colon()) return false;
    if (!Word(&word)) return Fail("true or false");
    *value = word == "true" || word == "True" || word == "t" || word == "1";
    if (!*value && word != "false" && word != "False" && word != "f" &&
        word != "0") {
      return Fail("true or false");
    }
    return Separator();
  }
  template <typename Value, size_t kCount>
  bool Enum(const EnumName (&names)[kCount], Value* value) {
    std::string word, expected;
    if (!Colon()) return false;
    const bool any = Word(&word);
    for (const EnumName& known : names) {
      absl::StrAppend(&expected, expected.empty() ? "" : " or ", known.name);
      if (!any || (word != known.name && word != absl::StrCat(known.value))) {
        continue;
      }
      *value = static_cast<Value>(known.value);
      return Separator();
    }
    return Fail(expected.c_str());
  }
  // A message in braces; the colon may be left out.
  bool Begin() {
    Skip();
    if (at_ < text_.size() && text_[at_] == ':') ++at_;
    Skip();
    if (at_ == text_.size() || (text_[at_] != '{' && text_[at_] != '<')) {
      return Fail("a message in braces");
    }
    closing_.push_back(text_[at_] == '{' ? '}' : '>');
    scopes_.emplace_back();
    ++at_;
    return true;
  }
  bool Unknown(const std::string& field) {
    return Say(absl::StrCat("there is no field '", field, "' here"));
  }
  bool Say(const std::string& what) {
    if (status_.ok()) {
      const auto line =
          1 + std::count(text_.begin(),
                         text_.begin() + static_cast<std::ptrdiff_t>(at_),
                         '\n');
      status_ = absl::InvalidArgumentError(
          absl::StrCat("line ", static_cast<int64_t>(line), ": ", what));
    }
    return false;
  }
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  // Blanks and comments.
  void Skip() {
    while (at_ < text_.size()) {
      if (text_[at_] == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else if (isspace(static_cast<unsigned char>(text_[at_])) != 0) {
        ++at_;
      } else {
        return;
      }
    }
  }
  bool Word(std::string* word) {
    Skip();
    const size_t begin = at_;
    while (at_ < text_.size() &&
           (isalnum(static_cast<unsigned char>(text_[at_])) != 0 ||
            text_[at_] == '_')) {
      ++at_;
    }
    *word = text_.substr(begin, at_ - begin);
    if (word->empty()) at_ = begin;
    return !word->empty();
  }
  bool Colon() {
    Skip();
    if (at_ == text_.size() || text_[at_] != ':') return Fail("a colon");
    ++at_;
    return true;
  }
  bool Separator() {
    Skip();
    if (at_ < text_.size() && (text_[at_] == ',' || text_[at_] == ';')) ++at_;
    return true;
  }
  bool Fail(const char* expected) {
    const std::string found =
        at_ < text_.size()
            ? absl::StrCat("'", absl::CEscape(text_.substr(at_, 12)), "'")
            : "the end of the file";
    return Say(absl::StrCat("expected ", expected, ", found ", found));
  }

  const std::string& text_;
  size_t at_ = 0;
  // Of each message that is open, the outermost first: fields that were there.
  std::vector<std::vector<std::string>> scopes_{1};
  std::string closing_;
  absl::Status status_;
};

void Print(const proto::SnapshotBackend& snapshot, Printer* to) {
  to->Begin("snapshot");
  to->String("cow_path", snapshot.cow_path());
  to->String("base_path", snapshot.base_path());
  to->String("source_path", snapshot.source_path());
  to->Bool("share_base", snapshot.share_base());
  to->End();
}

void Print(const proto::Attach& attach, Printer* to) {
  to->Begin("attach");
  to->String("name", attach.name());
  switch (attach.backend_case()) {
    case proto::Attach::kNull:
      to->Begin("null");
      to->Number("size_bytes", attach.null().size_bytes());
      to->End();
      break;
    case proto::Attach::kFile:
      to->Begin("file");
      to->String("path", attach.file().path());
      to->Bool("read_only", attach.file().read_only());
      to->Enum("direct_io", kDirectIo, attach.file().direct_io());
      to->End();
      break;
    case proto::Attach::kSnapshot:
      Print(attach.snapshot(), to);
      break;
    default:
      break;
  }
  to->Enum("transport", kTransports, attach.transport());
  to->End();
}

bool Read(Reader* from, proto::NullBackend* null) {
  if (!from->Begin()) return false;
  for (std::string field; from->Next(&field);) {
    uint64_t number = 0;
    if (field != "size_bytes") return from->Unknown(field);
    if (!from->Number(&number)) return false;
    null->set_size_bytes(number);
  }
  return from->ok();
}

bool Read(Reader* from, proto::FileBackend* file) {
  if (!from->Begin()) return false;
  for (std::string field; from->Next(&field);) {
    bool flag = false;
    if (field == "path") {
      if (!from->String(file->mutable_path())) return false;
    } else if (field == "read_only") {
      if (!from->Bool(&flag)) return false;
      file->set_read_only(flag);
    } else if (field == "direct_io") {
      proto::DirectIo direct_io = proto::DIRECT_IO_AUTO;
      if (!from->Enum(kDirectIo, &direct_io)) return false;
      file->set_direct_io(direct_io);
    } else {
      return from->Unknown(field);
    }
  }
  return from->ok();
}

bool Read(Reader* from, proto::SnapshotBackend* snapshot) {
  if (!from->Begin()) return false;
  for (std::string field; from->Next(&field);) {
    bool flag = false;
    if (field == "cow_path") {
      if (!from->String(snapshot->mutable_cow_path())) return false;
    } else if (field == "base_path") {
      if (!from->String(snapshot->mutable_base_path())) return false;
    } else if (field == "source_path") {
      if (!from->String(snapshot->mutable_source_path())) return false;
    } else if (field == "share_base") {
      if (!from->Bool(&flag)) return false;
      snapshot->set_share_base(flag);
    } else {
      return from->Unknown(field);
    }
  }
  return from->ok();
}

bool Read(Reader* from, proto::Attach* attach) {
  if (!from->Begin()) return false;
  for (std::string field; from->Next(&field);) {
    const bool is_backend =
        field == "null" || field == "file" || field == "snapshot";
    if (is_backend &&
        attach->backend_case() != proto::Attach::BACKEND_NOT_SET) {
      return from->Say("a device has one of null, file and snapshot");
    }
    proto::Transport transport = proto::TRANSPORT_AUTO;
    if (field == "name") {
      if (!from->String(attach->mutable_name())) return false;
    } else if (field == "null") {
      if (!Read(from, attach->mutable_null())) return false;
    } else if (field == "file") {
      if (!Read(from, attach->mutable_file())) return false;
    } else if (field == "snapshot") {
      if (!Read(from, attach->mutable_snapshot())) return false;
    } else if (field == "transport") {
      if (!from->Enum(kTransports, &transport)) return false;
      attach->set_transport(transport);
    } else {
      return from->Unknown(field);
    }
  }
  return from->ok();
}

bool Read(Reader* from, proto::DeviceRecord* record) {
  for (std::string field; from->Next(&field);) {
    uint64_t number = 0;
    bool flag = false;
    if (field == "attach") {
      if (!Read(from, record->mutable_attach())) return false;
    } else if (field == "undo_log_path") {
      if (!from->String(record->mutable_undo_log_path())) return false;
    } else if (field == "merge_wanted") {
      if (!from->Bool(&flag)) return false;
      record->set_merge_wanted(flag);
    } else if (field == "version") {
      if (!from->Number(&number)) return false;
      if (number > UINT32_MAX) return from->Say("there is no such version");
      record->set_version(static_cast<uint32_t>(number));
    } else if (field == "rate_bytes_per_s") {
      if (!from->Number(&number)) return false;
      record->set_rate_bytes_per_s(number);
    } else if (field == "ublk_mark") {
      if (!from->Number(&number)) return false;
      record->set_ublk_mark(number);
    } else {
      return from->Unknown(field);
    }
  }
  return from->ok();
}

}  // namespace

std::string PrintRecord(const proto::DeviceRecord& record) {
  Printer printer;
  printer.Number("version", record.version());
  if (record.has_attach()) Print(record.attach(), &printer);
  printer.Bool("merge_wanted", record.merge_wanted());
  printer.String("undo_log_path", record.undo_log_path());
  printer.Number("rate_bytes_per_s", record.rate_bytes_per_s());
  printer.Number("ublk_mark", record.ublk_mark());
  return printer.Take();
}

absl::Status ParseRecord(const std::string& text, proto::DeviceRecord* record) {
  record->Clear();
  Reader reader(text);
  Read(&reader, record);
  return reader.status();
}

}  // namespace dmu

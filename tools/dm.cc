// SPDX-License-Identifier: Apache-2.0
#include "tools/dm.h"

#include <errno.h>
#include <libdevmapper.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace dmu::tools {

namespace {

constexpr char kTarget[] = "user";
// Shown by lsblk as the type, matched by udev rules.
constexpr char kUuidPrefix[] = "DMUSER-";

struct TaskDeleter {
  void operator()(dm_task* task) const { dm_task_destroy(task); }
};
using TaskPtr = std::unique_ptr<dm_task, TaskDeleter>;

// libdevmapper reports to standard error by itself; our sentence says more.
void IgnoreLog(int, const char*, int, int, const char*, ...) {}

TaskPtr MakeTask(int type, const std::string& name) {
  dm_log_with_errno_init(&IgnoreLog);
  TaskPtr task(dm_task_create(type));
  if (task == nullptr) return nullptr;
  if (!name.empty() && dm_task_set_name(task.get(), name.c_str()) == 0) {
    return nullptr;
  }
  return task;
}

absl::Status Failed(const std::string& what, int error) {
  const std::string text =
      absl::StrCat(what, ": ", error != 0 ? strerror(error) : "refused");
  switch (error) {
    case EPERM:
    case EACCES:
      return absl::PermissionDeniedError(absl::StrCat(text, "; run as root"));
    case EBUSY:
      return absl::AbortedError(text);
    case ENXIO:
    case ENODEV:
      return absl::NotFoundError(text);
    case EEXIST:
      return absl::AlreadyExistsError(text);
    default:
      return absl::InternalError(text);
  }
}

absl::Status NoMemory() {
  return absl::InternalError("libdevmapper: cannot make a task");
}

// Runs a task that makes or removes nodes and waits for udev to follow, where
// udev runs. Returns 0 or the ioctl's errno.
int RunSynced(dm_task* task) {
  uint32_t cookie = 0;
  if (dm_task_set_cookie(task, &cookie, 0) == 0) return EIO;
  const int result = dm_task_run(task) != 0 ? 0 : dm_task_get_errno(task);
  const bool failed = result != 0 || dm_task_get_errno(task) != 0;
  dm_udev_wait(cookie);
  dm_task_update_nodes();
  return failed ? (result != 0 ? result : EIO) : 0;
}

// Bounds the kernel's memory to 3 MiB. What does not fit is read through the
// daemon.
constexpr int kRedirectExtents = 65536;

// The first version that knows redirect.
constexpr uint32_t kRedirectSince[2] = {1, 3};

// The target's version; false when it is not there. `task` lists the versions.
bool FindTarget(dm_task* task, uint32_t version[3]) {
  const dm_versions* target = dm_task_get_versions(task);
  while (target != nullptr) {
    if (strcmp(target->name, kTarget) == 0) {
      memcpy(version, target->version, sizeof(target->version));
      return true;
    }
    if (target->next == 0) break;
    target = reinterpret_cast<const dm_versions*>(
        reinterpret_cast<const char*>(target) + target->next);
  }
  return false;
}

absl::Status LoadTable(const UserDevice& device) {
  TaskPtr task = MakeTask(DM_DEVICE_CREATE, device.name);
  if (task == nullptr) return NoMemory();
  std::string features =
      absl::StrCat("orphan_ms ", device.orphan_ms, " new_ms ", device.orphan_ms,
                   " max_io ", device.max_io_sectors);
  int count = 6;
  if (device.read_only) {
    absl::StrAppend(&features, " read_only");
    ++count;
  }
  if (device.discard) {
    absl::StrAppend(&features, " discard write_zeroes");
    count += 2;
  }
  if (!device.redirect_path.empty()) {
    absl::StrAppend(&features, " redirect ", kRedirectExtents, " 1 ",
                    device.redirect_path);
    count += 4;
  }
  const std::string parameters = absl::StrCat(
      "0 ", device.size_sectors, " ", device.name, " ", count, " ", features);
  const std::string uuid = absl::StrCat(kUuidPrefix, device.name);
  if (dm_task_set_uuid(task.get(), uuid.c_str()) == 0 ||
      dm_task_add_target(task.get(), 0, device.size_sectors, kTarget,
                         parameters.c_str()) == 0 ||
      (device.read_only && dm_task_set_ro(task.get()) == 0)) {
    return NoMemory();
  }
  const int error = RunSynced(task.get());
  if (error != 0) {
    return Failed(absl::StrCat(device.name,
                               ": cannot create the device "
                               "(table '",
                               parameters, "')"),
                  error);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRoot() {
  if (geteuid() == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(
      "device-mapper devices need root; run the command with sudo");
}

absl::Status CheckKernelSupport() {
  absl::Status root = CheckRoot();
  if (!root.ok()) return root;
  TaskPtr task = MakeTask(DM_DEVICE_LIST_VERSIONS, "");
  if (task == nullptr || dm_task_run(task.get()) == 0) {
    return absl::UnavailableError(
        "this kernel has no device mapper (CONFIG_BLK_DEV_DM, /dev/mapper/"
        "control): run 'modprobe dm-mod', or use a kernel that has it");
  }
  uint32_t version[3];
  if (FindTarget(task.get(), version)) return absl::OkStatus();
  return absl::UnavailableError(
      "this kernel has no device-mapper target 'user': load the module with "
      "'modprobe dm-user', or 'insmod dm-user.ko' after building it");
}

bool KernelKnowsRedirect() {
  TaskPtr task = MakeTask(DM_DEVICE_LIST_VERSIONS, "");
  uint32_t version[3];
  return task != nullptr && dm_task_run(task.get()) != 0 &&
         FindTarget(task.get(), version) &&
         (version[0] > kRedirectSince[0] ||
          (version[0] == kRedirectSince[0] && version[1] >= kRedirectSince[1]));
}

absl::Status CreateUserDevice(const UserDevice& device) {
  dm_info info = {};
  TaskPtr probe = MakeTask(DM_DEVICE_INFO, device.name);
  if (probe != nullptr && dm_task_run(probe.get()) != 0 &&
      dm_task_get_info(probe.get(), &info) != 0 && info.exists != 0) {
    return absl::AlreadyExistsError(
        absl::StrCat(device.name,
                     ": there is a device-mapper device of that name already; "
                     "choose another name, or unmap it first"));
  }
  return LoadTable(device);
}

absl::StatusOr<std::string> UserDeviceStatus(const std::string& name) {
  TaskPtr task = MakeTask(DM_DEVICE_STATUS, name);
  if (task == nullptr) return NoMemory();
  dm_info info = {};
  if (dm_task_run(task.get()) == 0 ||
      dm_task_get_info(task.get(), &info) == 0 || info.exists == 0) {
    return absl::NotFoundError(absl::StrCat(
        name, ": there is no such device; 'dmuserctl list' names them"));
  }
  uint64_t start = 0;
  uint64_t length = 0;
  char* type = nullptr;
  char* parameters = nullptr;
  dm_get_next_target(task.get(), nullptr, &start, &length, &type, &parameters);
  if (type == nullptr || strcmp(type, kTarget) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": is a device-mapper device of another kind (",
                     type != nullptr ? type : "without a table", ")"));
  }
  return std::string(parameters != nullptr ? parameters : "");
}

absl::Status RemoveUserDevice(const std::string& name) {
  absl::Status is_ours = UserDeviceStatus(name).status();
  if (!is_ours.ok()) return is_ours;
  TaskPtr task = MakeTask(DM_DEVICE_REMOVE, name);
  if (task == nullptr) return NoMemory();
  const int error = RunSynced(task.get());
  if (error == 0) return absl::OkStatus();
  if (error == EBUSY) {
    return absl::AbortedError(absl::StrCat(
        name,
        ": is in use (mounted or held by another device); unmount it "
        "first"));
  }
  return Failed(absl::StrCat(name, ": cannot remove the device"), error);
}

std::optional<RedirectFigures> UserDeviceRedirect(const std::string& name) {
  // The fields of the status line before them are text and numbers without
  // blanks.
  constexpr size_t kBiosField = 14;
  if (!CheckRoot().ok()) return std::nullopt;
  auto status = UserDeviceStatus(name);
  if (!status.ok()) return std::nullopt;
  const std::vector<std::string> fields =
      absl::StrSplit(*status, ' ', absl::SkipEmpty());
  RedirectFigures figures;
  if (fields.size() < kBiosField + 2 ||
      !absl::SimpleAtoi(fields[kBiosField], &figures.bios) ||
      !absl::SimpleAtoi(fields[kBiosField + 1], &figures.extents)) {
    return std::nullopt;
  }
  return figures;
}

absl::StatusOr<std::vector<std::string>> ListUserDevices() {
  std::vector<std::string> names;
  TaskPtr task = MakeTask(DM_DEVICE_LIST, "");
  if (task == nullptr || dm_task_run(task.get()) == 0) {
    return absl::UnavailableError(
        "this kernel has no device mapper; nothing can be mapped");
  }
  const dm_names* entry = dm_task_get_names(task.get());
  if (entry == nullptr || entry->dev == 0) return names;
  for (;;) {
    if (UserDeviceStatus(entry->name).ok()) names.emplace_back(entry->name);
    if (entry->next == 0) break;
    entry = reinterpret_cast<const dm_names*>(
        reinterpret_cast<const char*>(entry) + entry->next);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace dmu::tools

// SPDX-License-Identifier: Apache-2.0
#include "tools/dm.h"

#include <errno.h>
#include <fcntl.h>
#include <libdevmapper.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace dmu::tools {

namespace {

constexpr char kTarget[] = "user";
constexpr char kLinear[] = "linear";
constexpr char kVerity[] = "verity";
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

// What a table was to hold.
absl::Status InUse(const std::string& path) {
  return absl::AbortedError(absl::StrCat(
      path,
      ": is in use (mounted, or held by another device); release it first"));
}

bool IsInUse(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
  if (fd < 0) return errno == EBUSY;
  close(fd);
  return false;
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

// The first versions that know redirect, and answers by place.
constexpr uint32_t kRedirectSince[2] = {1, 3};
constexpr uint32_t kRemapSince[2] = {1, 5};

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

bool HasTargetSince(const uint32_t (&since)[2]) {
  TaskPtr task = MakeTask(DM_DEVICE_LIST_VERSIONS, "");
  uint32_t version[3];
  return task != nullptr && dm_task_run(task.get()) != 0 &&
         FindTarget(task.get(), version) &&
         (version[0] > since[0] ||
          (version[0] == since[0] && version[1] >= since[1]));
}

std::string Uuid(const std::string& name) {
  return absl::StrCat(kUuidPrefix, name);
}

bool IsOurUuid(const char* uuid) {
  return uuid != nullptr && absl::StartsWith(uuid, kUuidPrefix);
}

absl::Status CreateFailed(const std::string& name, const DeviceTable& table,
                          int error) {
  return Failed(absl::StrCat(name, ": cannot create the device (table '",
                             table.parameters, "')"),
                error);
}

// Creates a device of one target.
absl::Status Create(const std::string& name, const DeviceTable& table,
                    bool read_only) {
  TaskPtr task = MakeTask(DM_DEVICE_CREATE, name);
  if (task == nullptr) return NoMemory();
  if (dm_task_set_uuid(task.get(), Uuid(name).c_str()) == 0 ||
      dm_task_add_target(task.get(), 0, table.size_sectors,
                         table.target.c_str(), table.parameters.c_str()) == 0 ||
      (read_only && dm_task_set_ro(task.get()) == 0)) {
    return NoMemory();
  }
  const int error = RunSynced(task.get());
  if (error == 0) return absl::OkStatus();
  return CreateFailed(name, table, error);
}

DeviceTable UserTable(const UserDevice& device) {
  std::string features = absl::StrCat("orphan_ms ", device.orphan_ms,
                                      " new_ms ", device.orphan_ms);
  int count = 4;
  if (device.max_io_sectors > 0) {
    absl::StrAppend(&features, " max_io ", device.max_io_sectors);
    count += 2;
  }
  if (device.read_only) {
    absl::StrAppend(&features, " read_only");
    ++count;
  }
  if (device.discard) {
    absl::StrAppend(&features, " discard");
    ++count;
  }
  if (device.write_zeroes) {
    absl::StrAppend(&features, " write_zeroes");
    ++count;
  }
  if (device.no_flush) {
    absl::StrAppend(&features, " no_flush");
    ++count;
  }
  if (device.logical_block_bytes > 512) {
    absl::StrAppend(&features, " logical_block ", device.logical_block_bytes);
    count += 2;
  }
  if (!device.redirect_path.empty()) {
    absl::StrAppend(&features, " redirect ", kRedirectExtents, " 1 ",
                    device.redirect_path);
    count += 4;
  }
  return {kTarget,
          absl::StrCat("0 ", device.size_sectors, " ", device.name, " ", count,
                       " ", features),
          device.size_sectors};
}

DeviceTable LinearTable(const LinearDevice& device) {
  return {kLinear, absl::StrCat(device.path, " 0"), device.size_sectors};
}

absl::Status NotFound(const std::string& name) {
  return absl::NotFoundError(absl::StrCat(
      name, ": there is no such device; 'dmuserctl list' names them"));
}

// One step on a device that has a table: suspend, resume, clear.
int RunOn(int type, const std::string& name) {
  TaskPtr task = MakeTask(type, name);
  if (task == nullptr) return ENOMEM;
  // Nothing is to be frozen: what is mounted on a device of ours reads the same
  // before and after.
  if (type == DM_DEVICE_SUSPEND && dm_task_skip_lockfs(task.get()) == 0) {
    return ENOMEM;
  }
  if (type == DM_DEVICE_RESUME) return RunSynced(task.get());
  if (dm_task_run(task.get()) != 0) return 0;
  const int error = dm_task_get_errno(task.get());
  return error != 0 ? error : EIO;
}

// For the next resume. 0 or the ioctl's errno.
int LoadTable(const std::string& name, const DeviceTable& table,
              bool read_only) {
  TaskPtr task = MakeTask(DM_DEVICE_RELOAD, name);
  if (task == nullptr ||
      dm_task_add_target(task.get(), 0, table.size_sectors,
                         table.target.c_str(), table.parameters.c_str()) == 0 ||
      (read_only && dm_task_set_ro(task.get()) == 0)) {
    return ENOMEM;
  }
  if (dm_task_run(task.get()) != 0) return 0;
  const int error = dm_task_get_errno(task.get());
  return error != 0 ? error : EIO;
}

// A device without a table. 0 or the ioctl's errno. No cookie: udev does
// nothing yet.
int CreateEmpty(const std::string& name) {
  TaskPtr task = MakeTask(DM_DEVICE_CREATE, name);
  if (task == nullptr || dm_task_set_uuid(task.get(), Uuid(name).c_str()) == 0)
    return ENOMEM;
  if (dm_task_run(task.get()) != 0) return 0;
  const int error = dm_task_get_errno(task.get());
  return error != 0 ? error : EIO;
}

// Mounted, or below another device: that does not end by itself.
bool HasUser(const std::string& name) {
  TaskPtr task = MakeTask(DM_DEVICE_INFO, name);
  dm_info info = {};
  return task != nullptr && dm_task_run(task.get()) != 0 &&
         dm_task_get_info(task.get(), &info) != 0 && info.exists != 0 &&
         (dm_device_has_mounted_fs(info.major, info.minor) != 0 ||
          dm_device_has_holders(info.major, info.minor) != 0);
}

// Ours, and without a live table: nobody can have it open.
bool IsHalfMade(const std::string& name) {
  TaskPtr task = MakeTask(DM_DEVICE_INFO, name);
  dm_info info = {};
  return task != nullptr && dm_task_run(task.get()) != 0 &&
         dm_task_get_info(task.get(), &info) != 0 && info.exists != 0 &&
         info.live_table == 0 && IsOurUuid(dm_task_get_uuid(task.get()));
}

// Suspend and resume with the new table. In between the program may be waiting
// for nothing that comes from the device, its own pages neither.
int SuspendAndResume(const std::string& name) {
  if (mlockall(MCL_CURRENT) != 0) return errno;
  int error = RunOn(DM_DEVICE_SUSPEND, name);
  if (error == 0) error = RunOn(DM_DEVICE_RESUME, name);
  munlockall();
  return error;
}

// What a device consists of, as far as it is of interest here.
struct FirstTarget {
  // Empty where there is no table; of DM_DEVICE_STATUS the parameters are the
  // status.
  DeviceTable table;
  bool is_only = false;
  bool has_our_uuid = false;
};

// `type`: DM_DEVICE_TABLE or DM_DEVICE_STATUS.
absl::StatusOr<FirstTarget> ReadFirstTarget(int type, const std::string& name) {
  TaskPtr task = MakeTask(type, name);
  if (task == nullptr) return NoMemory();
  dm_info info = {};
  if (dm_task_run(task.get()) == 0 ||
      dm_task_get_info(task.get(), &info) == 0 || info.exists == 0) {
    return NotFound(name);
  }
  uint64_t start = 0;
  uint64_t length = 0;
  char* target = nullptr;
  char* parameters = nullptr;
  FirstTarget first;
  first.is_only = dm_get_next_target(task.get(), nullptr, &start, &length,
                                     &target, &parameters) == nullptr;
  first.has_our_uuid = IsOurUuid(dm_task_get_uuid(task.get()));
  if (target != nullptr) {
    first.table = {target, parameters != nullptr ? parameters : "", length};
  }
  return first;
}

absl::Status OfAnotherKind(const std::string& name, const FirstTarget& first) {
  const std::string& target = first.table.target;
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": is a device-mapper device of another kind (",
                   target.empty() ? "without a table" : target, ")"));
}

// Whatever its target is.
absl::Status Remove(const std::string& name) {
  TaskPtr task = MakeTask(DM_DEVICE_REMOVE, name);
  if (task == nullptr) return NoMemory();
  // udev looks at what was just unmounted, and has it open for a moment.
  if (dm_udev_get_sync_support() != 0 && !HasUser(name) &&
      dm_task_retry_remove(task.get()) == 0) {
    return NoMemory();
  }
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

}  // namespace

absl::Status CheckRoot() {
  if (geteuid() == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(
      "device-mapper devices need root; run the command with sudo");
}

absl::Status CheckDeviceMapper() {
  absl::Status root = CheckRoot();
  if (!root.ok()) return root;
  TaskPtr task = MakeTask(DM_DEVICE_LIST_VERSIONS, "");
  if (task != nullptr && dm_task_run(task.get()) != 0) return absl::OkStatus();
  return absl::UnavailableError(
      "this kernel has no device mapper (CONFIG_BLK_DEV_DM, /dev/mapper/"
      "control): run 'modprobe dm-mod', or use a kernel that has it");
}

absl::Status CheckKernelSupport() {
  absl::Status mapper = CheckDeviceMapper();
  if (!mapper.ok()) return mapper;
  TaskPtr task = MakeTask(DM_DEVICE_LIST_VERSIONS, "");
  if (task == nullptr || dm_task_run(task.get()) == 0) return NoMemory();
  uint32_t version[3];
  if (FindTarget(task.get(), version)) return absl::OkStatus();
  return absl::UnavailableError(
      "this kernel has no device-mapper target 'user': load the module with "
      "'modprobe dm-user', or 'insmod dm-user.ko' after building it");
}

bool KernelKnowsRedirect() { return HasTargetSince(kRedirectSince); }

bool KernelKnowsRemap() { return HasTargetSince(kRemapSince); }

absl::Status CheckNameIsFree(const std::string& name) {
  dm_info info = {};
  TaskPtr probe = MakeTask(DM_DEVICE_INFO, name);
  if (probe != nullptr && dm_task_run(probe.get()) != 0 &&
      dm_task_get_info(probe.get(), &info) != 0 && info.exists != 0) {
    return absl::AlreadyExistsError(
        absl::StrCat(name,
                     ": there is a device-mapper device of that name already; "
                     "choose another name, or unmap it first"));
  }
  return absl::OkStatus();
}

absl::Status CreateUserDevice(const UserDevice& device) {
  if (IsHalfMade(device.name)) {
    absl::Status removed = RemoveUserDevice(device.name);
    if (!removed.ok()) return removed;
  }
  absl::Status is_free = CheckNameIsFree(device.name);
  if (!is_free.ok()) return is_free;
  const DeviceTable table = UserTable(device);
  int error = CreateEmpty(device.name);
  if (error != 0) return CreateFailed(device.name, table, error);
  error = LoadTable(device.name, table, device.read_only);
  if (error == 0) return absl::OkStatus();
  TaskPtr remove = MakeTask(DM_DEVICE_REMOVE, device.name);
  if (remove != nullptr) RunSynced(remove.get());
  if (error == EBUSY && !device.redirect_path.empty() &&
      IsInUse(device.redirect_path)) {
    return InUse(device.redirect_path);
  }
  return CreateFailed(device.name, table, error);
}

absl::Status ActivateUserDevice(const std::string& name) {
  const int error = RunOn(DM_DEVICE_RESUME, name);
  if (error == 0) return absl::OkStatus();
  return Failed(absl::StrCat(name, ": cannot activate the device"), error);
}

absl::Status CreateLinearDevice(const LinearDevice& device) {
  absl::Status is_free = CheckNameIsFree(device.name);
  if (!is_free.ok()) return is_free;
  return Create(device.name, LinearTable(device), device.read_only);
}

absl::Status SwapToLinear(const LinearDevice& device) {
  int error = LoadTable(device.name, LinearTable(device), device.read_only);
  if (error == EBUSY) return InUse(device.path);
  if (error != 0) {
    return Failed(absl::StrCat(device.name, ": cannot load the table '",
                               LinearTable(device).parameters, "'"),
                  error);
  }
  error = SuspendAndResume(device.name);
  if (error == 0) return absl::OkStatus();
  RunOn(DM_DEVICE_CLEAR, device.name);
  RunOn(DM_DEVICE_RESUME, device.name);
  return Failed(absl::StrCat(device.name, ": cannot switch to the table on ",
                             device.path, "; it is served as before"),
                error);
}

absl::Status CreateVerityDevice(const VerityDevice& device) {
  absl::Status is_free = CheckNameIsFree(device.name);
  if (!is_free.ok()) return is_free;
  return Create(device.name, {kVerity, device.parameters, device.size_sectors},
                /*read_only=*/true);
}

absl::Status SwapVerityTable(const VerityDevice& device) {
  int error =
      LoadTable(device.name, {kVerity, device.parameters, device.size_sectors},
                /*read_only=*/true);
  if (error == 0) error = SuspendAndResume(device.name);
  if (error == 0) return absl::OkStatus();
  RunOn(DM_DEVICE_CLEAR, device.name);
  RunOn(DM_DEVICE_RESUME, device.name);
  return Failed(absl::StrCat(device.name, ": cannot switch to the table '",
                             device.parameters, "'"),
                error);
}

absl::StatusOr<std::string> VerityStatus(const std::string& name) {
  auto first = ReadFirstTarget(DM_DEVICE_STATUS, name);
  if (!first.ok()) return first.status();
  if (first->table.target != kVerity || !first->has_our_uuid) {
    return OfAnotherKind(name, *first);
  }
  return first->table.parameters;
}

absl::Status RemoveVerityDevice(const std::string& name) {
  const absl::Status is_ours = VerityStatus(name).status();
  return is_ours.ok() ? Remove(name) : is_ours;
}

absl::StatusOr<DeviceTable> ReadTable(const std::string& name) {
  auto first = ReadFirstTarget(DM_DEVICE_TABLE, name);
  if (!first.ok()) return first.status();
  const std::string& target = first->table.target;
  if (target.empty() && first->has_our_uuid) return DeviceTable{kTarget, "", 0};
  // One of target "user" is ours even when it was made by hand.
  const bool ours =
      first->is_only &&
      (target == kTarget || (target == kLinear && first->has_our_uuid));
  if (!ours) return OfAnotherKind(name, *first);
  return first->table;
}

absl::StatusOr<std::string> UserDeviceStatus(const std::string& name) {
  absl::StatusOr<DeviceTable> table = ReadTable(name);
  if (!table.ok()) return table.status();
  if (table->target == kLinear) {
    return absl::StrCat("linear ", table->parameters);
  }
  auto first = ReadFirstTarget(DM_DEVICE_STATUS, name);
  if (!first.ok()) return first.status();
  return first->table.parameters;
}

absl::Status RemoveUserDevice(const std::string& name) {
  const absl::Status is_ours = ReadTable(name).status();
  return is_ours.ok() ? Remove(name) : is_ours;
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

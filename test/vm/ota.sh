#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: an update with the kernel and the daemon: tried, blessed, merged under
# its device, undone by the next boot, tried again, merged by a tool that is
# killed; given up without daemon and without module, but not beside a device
# that is in use; the same over ublk.
# Method: a boot is a new boot id, with nothing mapped and no daemon's memory.
# Disks: vda old image, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

ota() { dmuserctl ota "$@" --state /run/disks/state; }
phase() { ota status --json | sed -n 's/.*"phase": "\(.*\)".*/\1/p'; }
is_phase() { [ "$(phase)" = "$1" ] || fail "phase $(phase), not $1"; }

boots=0
power_on() {
  [ ! -e /dev/mapper/root ] || dmuserctl unmap root
  [ -z "$DAEMON_PID" ] || stop_daemon
  DAEMON_PID=
  rm -rf /run/dm-user
  new_boot_id
}

new_boot_id() {
  boots=$((boots + 1))
  printf '%08d-0000-0000-0000-000000000000\n' "$boots" >/run/boot_id
  grep -q random/boot_id /proc/mounts ||
    mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
}

# boot plain|mapped: what the initramfs would do, and what it must come to.
boot() {
  local got
  power_on
  start_daemon
  got=$(ota boot 2>/run/boot.said) || fail "boot: $(cat /run/boot.said)"
  case $1 in
    mapped)
      [ "$got" = "mapped
root /dev/mapper/root" ] || fail "boot: $got, $(cat /run/boot.said)"
      same /dev/mapper/root /dev/vdc
      ;;
    plain)
      [ "$got" = "plain
root /run/disks/base" ] || fail "boot: $got, $(cat /run/boot.said)"
      ;;
  esac
}

mkdir -p /run/disks
mount -t tmpfs tmpfs /run/disks
mkdir /run/disks/state
cp /dev/vda /run/disks/old.img
# As by-partlabel: the daemon has it under its own name.
ln -s /dev/vda /run/disks/base
cat >/run/disks/manifest <<TEXT
update: "guest"
boots_max: 2
image {
  name: "root" base: "/run/disks/base" cow: "/dev/vdb" undo_log: "root.undo"
  cow_sha256: "$(sha256sum </dev/vdb | cut -d' ' -f1)"
}
TEXT
power_on

ota stage /run/disks/manifest --quiet
boot plain
ota activate --quiet
expect 13 'what runs now is not the new system' ota bless
boot mapped
# Asked again in the same boot, it counts nothing.
expect 0 mapped ota boot
ota status --json | grep -q '"boots": 1,' || fail "$(ota status)"
ota bless --quiet
boot mapped
ota merge --quiet
is_phase merged
same /dev/vda /dev/vdc
same /dev/mapper/root /dev/vdc
# On the base itself now; nobody serves it.
dmsetup table root | grep -q ' linear ' || fail "$(dmsetup table root)"
expect 5 '/dev/mapper/root' ota clean
is_phase merged

# The device is there: the next boot undoes it.
expect 0 'the next boot undoes the update' ota undo
is_phase undoing
same /dev/mapper/root /dev/vdc
boot plain
same /dev/vda /run/disks/old.img
is_phase rejected

# Boots that are not blessed come to an end.
ota activate --quiet
boot mapped
boot mapped
boot plain
grep -q 'not blessed within 2 boots' /run/boot.said || fail "no reason"
same /dev/vda /run/disks/old.img

# What is mapped and in use ends the boot: the base is not mounted beside it.
ota activate --quiet
boot mapped
new_boot_id
expect 0 mapped ota boot
exec 9</dev/mapper/root
new_boot_id
expect 5 'root: is in use' ota boot
is_phase rejected
expect 5 'root: is in use' ota boot
expect 0 'would unmap root' ota boot --dry-run
exec 9<&-
expect 0 plain ota boot
[ ! -e /dev/mapper/root ] || fail "a base is mounted and served"
expect 0 plain ota boot --dry-run

# Somebody else's device of that name is left alone, and stops no boot.
ota activate --quiet
power_on
start_daemon
modprobe dm-zero
dmsetup create root --table '0 8 zero'
expect 0 'is a device-mapper device of another kind' ota boot
is_phase rejected
expect 0 plain ota boot
dmsetup table root | grep -q ' zero' || fail "$(dmsetup table root)"
dmsetup remove root

# No daemon, then no module: the old system, at once.
ota activate --quiet
power_on
expect 0 'no daemon answers' ota boot
is_phase rejected
[ ! -e /dev/mapper/root ] || fail "half a boot left a device"
ota activate --quiet
rmmod dm_user
power_on
expect 0 "no device-mapper target 'user'" ota boot
is_phase rejected

# A kernel without the module, but with a driver of its own that is new enough.
case $(uname -r) in
  6.1.*) ;;
  *)
    modprobe ublk_drv
    ota activate --quiet
    boot mapped
    ota bless --quiet
    exec 9</dev/mapper/root
    ota rollback --quiet
    expect 5 'root: is in use' ota boot
    exec 9<&-
    expect 0 plain ota boot
    [ ! -e /dev/mapper/root ] || fail "a base is mounted and served"
    ota activate --quiet
    boot mapped
    ota bless --quiet
    ota merge --quiet
    is_phase merged
    same /dev/mapper/root /dev/vdc
    dmsetup table root | grep -q ' linear ' || fail "$(dmsetup table root)"
    expect 0 'the next boot undoes the update' ota undo
    boot plain
    same /dev/vda /run/disks/old.img
    power_on
    rmmod ublk_drv
    ;;
esac
insmod /vm/dm-user.ko

# The tool is killed, the daemon goes on; so does the tool.
ota activate --quiet
boot mapped
ota bless --quiet
dmuserctl ota merge --state /run/disks/state --quiet &
tool=$!
wait_merged_bytes root 1
kill -9 "$tool"
wait "$tool" 2>/dev/null || true
same /dev/mapper/root /dev/vdc
# Begun, it cannot be left out, module or not.
power_on
rmmod dm_user
expect 0 'merged before the boot instead' ota boot
insmod /vm/dm-user.ko
is_phase merged
same /dev/vda /dev/vdc
boot plain
ota clean --quiet
is_phase none
[ ! -e /run/disks/state/root.cow ] || fail "a COW file is left"
stop_daemon

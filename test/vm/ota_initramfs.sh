#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the initramfs's script mounts the state, has the images mapped by a
# daemon that lives on, names the root's device, undoes what is to be undone,
# does nothing when nothing is to be done, and guesses nothing.
# Method: the script itself under busybox's shell; the functions of
# initramfs-tools that it calls are stand-ins that say what they were told.
# Disks: vda old image, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

# As in initramfs-tools.
mount -t tmpfs -o nodev,noexec,nosuid tmpfs /run
modprobe brd rd_nr=1 rd_size=262144
modprobe ext4
mkdir -p /scripts /conf /etc/dm-user /run/save
mount -t tmpfs tmpfs /run/save
cp /dev/vda /run/save/old.img
[ -e /sbin/dmuserd ] || ln -s "$(command -v dmuserd)" /sbin/dmuserd
cat >/scripts/functions <<'TEXT'
resolve_device() { [ -e "$1" ] && echo "$1"; }
wait_for_udev() { :; }
log_warning_msg() { echo "warning: $*"; }
panic() { echo "panic: $*"; exit 3; }
sleep() { :; }
TEXT
cat >/etc/dm-user/ota.conf <<'TEXT'
STATE_DEVICE=/dev/ram0
TEXT
mkfs.ext4 -q -F /dev/ram0

local_top() {
  rm -f /conf/param.conf
  : >/conf/param.conf
  busybox sh /vm/dm-user >/run/local-top.log 2>&1
}

daemon_pid() {
  local file
  for file in /proc/[0-9]*/cmdline; do
    if [[ $(tr '\0' ' ' 2>/dev/null <"$file") == @dmuserd* ]]; then
      file=${file%/cmdline}
      echo "${file#/proc/}"
    fi
  done
}

boots=0
power_on() {
  local pid
  [ ! -e /dev/mapper/root ] || dmuserctl unmap root
  pid=$(daemon_pid)
  if [ -n "$pid" ]; then
    kill "$pid"
    # Not a child of this shell: nothing tells of its end.
    while [ -d "/proc/$pid" ]; do sleep 0.1; done
  fi
  for path in proc run/dm-user-ota run dev ''; do
    umount "/run/dm-user-root/$path" 2>/dev/null || true
  done
  rm -rf /run/dm-user
  umount /run/dm-user-ota
  boots=$((boots + 1))
  printf '%08d-0000-0000-0000-000000000000\n' "$boots" >/run/boot_id
  grep -q random/boot_id /proc/mounts ||
    mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
}

# Nothing was ever staged: the state is mounted, and that is all.
local_top || fail "$(cat /run/local-top.log)"
[ ! -s /conf/param.conf ] || fail "$(cat /conf/param.conf)"
[ -z "$(daemon_pid)" ] || fail "a daemon without need"

cat >/run/save/manifest <<TEXT
update: "guest"
image {
  name: "root" base: "/dev/vda" cow: "/dev/vdb" undo_log: "root.undo"
  cow_sha256: "$(sha256sum </dev/vdb | cut -d' ' -f1)"
}
TEXT
dmuserctl ota stage /run/save/manifest --quiet
dmuserctl ota activate --quiet
power_on

# The new system is tried.
local_top || fail "$(cat /run/local-top.log)"
[ "$(cat /conf/param.conf)" = "ROOT=/dev/mapper/root
readonly=y" ] || fail "$(cat /conf/param.conf /run/local-top.log)"
same /dev/mapper/root /dev/vdc
pid=$(daemon_pid)
[ -n "$pid" ] || fail "no daemon whose name begins with @"
[ "$(cat "/proc/$pid/oom_score_adj")" = -1000 ] || fail "oom_score_adj"
[ "$(readlink "/proc/$pid/root")" = /run/dm-user-root ] || fail "no jail"
# Asked again, nothing else comes of it.
local_top || fail "$(cat /run/local-top.log)"
[ "$(daemon_pid)" = "$pid" ] || fail "another daemon"

# As the booted system goes on with it.
dmuserctl ota bless --quiet
dmuserctl ota merge --quiet
same /dev/vda /dev/vdc
expect 0 'the next boot undoes' dmuserctl ota undo
power_on

# The undo, before the root is mounted; the root is what it always was.
local_top || fail "$(cat /run/local-top.log)"
[ ! -s /conf/param.conf ] || fail "$(cat /conf/param.conf)"
same /dev/vda /run/save/old.img
dmuserctl ota status | grep -q 'rejected, undone' || fail "$(dmuserctl ota status)"

# Somebody asks for the old system at the boot menu.
dmuserctl ota activate --quiet
power_on
{
  tr -d '\n' </proc/cmdline
  echo ' dm-user.rollback'
} >/run/cmdline
mount --bind /run/cmdline /proc/cmdline
local_top || fail "$(cat /run/local-top.log)"
umount /proc/cmdline
[ ! -s /conf/param.conf ] || fail "$(cat /conf/param.conf)"
dmuserctl ota status | grep -q 'rejected, rolled back' ||
  fail "$(dmuserctl ota status)"

# What is not known is not guessed.
power_on
sed -i 's#ram0#nowhere#' /etc/dm-user/ota.conf
got=0
local_top || got=$?
[ "$got" -eq 3 ] || fail "no panic without a state: $(cat /run/local-top.log)"
grep -q 'there is no /dev/nowhere' /run/local-top.log || fail "no reason"

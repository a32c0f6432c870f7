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
# shellcheck source=test/vm/initramfs_guest.sh
source /vm/initramfs_guest.sh

modprobe brd rd_nr=1 rd_size=262144
modprobe ext4
initramfs_machine /dev/ram0
mkdir -p /run/save
mount -t tmpfs tmpfs /run/save
cp /dev/vda /run/save/old.img
mkfs.ext4 -q -F /dev/ram0

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
next_boot

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
dmuserctl ota merge 2>/run/merge.log
grep -q '^root: merged 100 %' /run/merge.log || fail "$(cat /run/merge.log)"
same /dev/vda /dev/vdc
expect 0 'the next boot undoes' dmuserctl ota undo
next_boot

# The undo, before the root is mounted; the root is what it always was.
local_top || fail "$(cat /run/local-top.log)"
[ ! -s /conf/param.conf ] || fail "$(cat /conf/param.conf)"
same /dev/vda /run/save/old.img
dmuserctl ota status | grep -q 'rejected, undone' || fail "$(dmuserctl ota status)"

# Somebody asks for the old system at the boot menu.
dmuserctl ota activate --quiet
next_boot
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

# What is mapped and in use is not left beside a mounted base, however often the
# script is asked; when it is gone, the old system boots.
dmuserctl ota activate --quiet
next_boot
local_top || fail "$(cat /run/local-top.log)"
exec 9</dev/mapper/root
dmuserctl ota rollback --quiet
for _ in 1 2; do
  got=0
  local_top || got=$?
  [ "$got" -eq 3 ] || fail "no panic: $(cat /run/local-top.log)"
  grep -q 'root: is in use' /run/local-top.log || fail "$(cat /run/local-top.log)"
done
exec 9<&-
local_top || fail "$(cat /run/local-top.log)"
[ ! -s /conf/param.conf ] || fail "$(cat /conf/param.conf)"
[ ! -e /dev/mapper/root ] || fail "a base is mounted and served"

# What is not known is not guessed.
next_boot
sed -i 's#ram0#nowhere#' /etc/dm-user/ota.conf
got=0
local_top || got=$?
[ "$got" -eq 3 ] || fail "no panic without a state: $(cat /run/local-top.log)"
grep -q 'there is no /dev/nowhere' /run/local-top.log || fail "no reason"

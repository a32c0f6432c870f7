#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: see ota_verity_test.sh, which runs this in one machine after the other.
# Usage: ota_verity.sh good | break | after SHA256_OF_THE_OLD_IMAGE
# Disks: vda old image, vdb COW, vdc new image with its hash tree, vdd the state.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh
# shellcheck source=test/vm/initramfs_guest.sh
source /vm/initramfs_guest.sh

# A block that the update leaves as it is, and by which no base is known.
readonly BLOCK=100
root_hash=$(cat /vm/verity.hash)
modprobe ext4
initramfs_machine /dev/vdd
data_bytes=$(cat /vm/verity.bytes)

# same_data DEVICE - it has the data of the new image.
same_data() { cmp -n "$data_bytes" "$1" /dev/vdc || fail "$1 is not the new image"; }

# flip - another byte in the base; given twice it is the old one again.
flip() {
  local byte
  byte=$(od -An -tu1 -j "$((BLOCK * 4096))" -N 1 /dev/vda)
  # shellcheck disable=SC2059 # the format is the byte
  printf "\\$(printf %o "$((byte ^ 1))")" |
    dd of=/dev/vda bs=1 seek="$((BLOCK * 4096))" conv=notrunc status=none
  sync /dev/vda
}

stage() { # BOOTS_MAX [ROOT_HASH]
  cat >/run/manifest <<TEXT
update: "verified"
boots_max: $1
image {
  name: "root" base: "/dev/vda" cow: "/dev/vdb" place: "root.cow"
  cow_sha256: "$(sha256sum </dev/vdb | cut -d' ' -f1)"
  verity { root_hash: "${2:-$root_hash}" hash_offset_bytes: $data_bytes }
}
TEXT
  mkdir -p /run/dm-user-ota
  grep -q '^/dev/vdd ' /proc/mounts || mount /dev/vdd /run/dm-user-ota
  mkdir -p /run/dm-user-ota/dm-user
  dmuserctl ota stage /run/manifest --quiet
  dmuserctl ota activate --quiet
}

# boots_verified - the script maps the new system, with its tree.
boots_verified() {
  local_top || fail "$(cat /run/local-top.log)"
  [ "$(cat /conf/param.conf)" = "ROOT=/dev/mapper/root-verity
readonly=y" ] || fail "$(cat /conf/param.conf /run/local-top.log)"
}

rejected() { # REASON
  local_top || fail "$(cat /run/local-top.log)"
  [ ! -s /conf/param.conf ] || fail "$(cat /conf/param.conf)"
  [ ! -e /dev/mapper/root-verity ] || fail "a device is left"
  [ ! -e /dev/mapper/root ] || fail "a device is left"
  dmuserctl ota status | grep -q "rejected, .*$1" || fail "$(dmuserctl ota status)"
}

good() {
  mkfs.ext4 -q -F /dev/vdd
  stage 3
  next_boot

  # A trial: what does not fit ends the boot.
  boots_verified
  same_data /dev/mapper/root-verity
  dmsetup table root-verity | grep -q restart_on_corruption ||
    fail "a trial that does not restart"
  [ "$(blockdev --getro /dev/mapper/root-verity)" = 1 ] || fail "it is writable"

  # Damage that was found, by whatever table: it is not to be trusted.
  table=$(dmsetup table root-verity | sed 's/ 1 restart_on_corruption//')
  dmsetup suspend root-verity
  dmsetup load root-verity --readonly --table "$table"
  dmsetup resume root-verity
  flip
  drop_caches
  if dd if=/dev/mapper/root-verity of=/dev/null bs=4096 skip=$BLOCK count=1 \
    iflag=direct 2>/dev/null; then
    fail "a damaged block was read"
  fi
  expect 3 'does not fit its hash' dmuserctl ota bless
  flip
  next_boot

  # The next one is whole, and trusted.
  boots_verified
  same_data /dev/mapper/root-verity
  dmuserctl ota bless --quiet
  next_boot

  # No boot is counted any more, so none may end by itself.
  boots_verified
  if dmsetup table root-verity | grep -q restart_on_corruption; then
    fail "a blessed system restarts"
  fi

  # The merge, and the swap below a device that is in use.
  exec 7</dev/mapper/root-verity
  dmuserctl ota merge --quiet
  dmsetup table root | grep -q linear || fail "root: $(dmsetup table root)"
  kill "$(daemon_pid)"
  drop_caches
  same_data /dev/mapper/root-verity
  [ "$(dmsetup status root-verity | cut -d' ' -f4)" = V ] ||
    fail "$(dmsetup status root-verity)"
  exec 7<&-
  same /dev/vda /dev/vdc
  next_boot
  local_top || fail "$(cat /run/local-top.log)"
  [ ! -s /conf/param.conf ] || fail "$(cat /conf/param.conf)"
  dmuserctl ota clean --quiet
}

break_it() {
  mkfs.ext4 -q -F /dev/vdd
  stage 1
  umount /run/dm-user-ota
  flip
  boots_verified
  sync
  echo 'now it is read'
  cat /dev/mapper/root-verity >/dev/null
  fail "a damaged block was read"
}

after() { # SHA256_OF_THE_OLD_IMAGE
  rejected 'not blessed within 1 boots'
  flip
  [ "$(sha256sum </dev/vda | cut -d' ' -f1)" = "$1" ] ||
    fail "the old system is not what it was"
  dmuserctl ota clean --quiet

  # The very first block is damaged: found out before anything is mounted.
  stage 3
  printf X | dd of=/dev/vda bs=1 seek=5 conv=notrunc status=none
  sync /dev/vda
  next_boot
  rejected '/dev/mapper/root-verity'
}

case $1 in
  good) good ;;
  break) break_it ;;
  after) after "$2" ;;
esac

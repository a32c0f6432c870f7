#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the devices of a table come up, come up again after the daemon and their
# dm devices were gone, and go; a wrong table makes nothing.
# Disks: vda old image, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

mkdir -p /run/disks
mount -t tmpfs tmpfs /run/disks
dd if=/dev/vdc of=/run/disks/file.img bs=1M count=1 2>/dev/null
cat >/etc/dm-usertab <<'TAB'
# Two devices, one of them merged at once.
device {
  name: "new"
  snapshot { cow_path: "/dev/vdb" base_path: "/dev/vda" }
  merge: true
  orphan_timeout: "forever"
}
device { name: "file" file { path: "/run/disks/file.img" read_only: true } }
TAB
start_daemon
expect 9 "has no device 'old'" dmuserctl up old
expect 0 'file' dmuserctl up file
same /dev/mapper/file /run/disks/file.img
expect 0 'new' dmuserctl up
dmuserctl merge new --wait --quiet
same /dev/mapper/new /dev/vdc
dmsetup table new | grep -q 'orphan_ms forever' || fail "$(dmsetup table new)"
expect 0 'new' dmuserctl up
dmuserctl down --quiet
[ ! -e /dev/mapper/new ] || fail "/dev/mapper/new is still there"
expect 0 'new' dmuserctl down

# As after a reboot: nothing is there but the table.
stop_daemon
rm -rf /run/dm-user
start_daemon
dmuserctl up --quiet
same /dev/mapper/new /dev/vdc
same /dev/mapper/file /run/disks/file.img
dmuserctl down file --quiet
same /dev/mapper/new /dev/vdc
dmuserctl down --quiet

# What stands there wrong is said with its place, and nothing is made.
for table in 'device { name: "a" null { size_bytes: 512 } }
device { name: "b" bogus: 1 }' 'device { name: "a" null {} }
device { name: "a" null {} }'; do
  printf '%s' "$table" >/run/table
  expect 2 '/run/table' dmuserctl up --table /run/table
done
printf "%s\n" 'device { name: "good" null { size_bytes: 4096 } }' \
  'device { name: "bad" file { path: "/no/file.img" } }' >/run/table
expect 9 /no/file.img dmuserctl up --table /run/table
[ -e /dev/mapper/good ] || fail "one wrong device kept another from it"
dmuserctl unmap good
stop_daemon

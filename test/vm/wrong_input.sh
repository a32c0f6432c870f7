#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: wrong input gives a sentence and its own exit code, and changes nothing.
# Disks: vda old image (base), vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

modprobe brd rd_nr=1 rd_size=16384
before=$(cat /dev/vda /dev/vdb | sha256sum)

expect 10 "start dmuserd" dmuserctl map m --cow /dev/vdb --base /dev/vda
expect 10 "start dmuserd" dmuserctl status
start_daemon

expect 9 "/no/such" dmuserctl map m --cow /no/such --base /dev/vda
expect 9 "/no/such" dmuserctl map m --cow /dev/vdb --base /no/such
expect 2 "--base" dmuserctl map m --cow /dev/vdb
expect 2 "name" dmuserctl map --cow /dev/vdb --base /dev/vda
expect 3 "/dev/vda" dmuserctl map m --cow /dev/vda --base /dev/vda
: >/run/empty
expect 3 "/run/empty" dmuserctl map m --cow /run/empty --base /dev/vda
head -c 3000000 /dev/vdb >/run/truncated
expect 3 "/run/truncated" dmuserctl map m --cow /run/truncated --base /dev/vda
truncate -s 1M /run/small
expect 4 "/run/small" dmuserctl map m --cow /dev/vdb --base /run/small

# Busy: a base that is mounted, files and names that are in use.
mkfs.ext4 -q -F /dev/ram0
mkdir -p /run/mnt
mount -t ext4 /dev/ram0 /run/mnt
expect 5 "in use" dmuserctl map m --file /dev/ram0
umount /run/mnt
dmuserctl map m --cow /dev/vdb --base /dev/vda
expect 11 "m:" dmuserctl map m --cow /dev/vdb --base /dev/vda
expect 5 "in use" dmuserctl map other --cow /dev/vdb --base /dev/vda
expect 9 "nothing" dmuserctl merge nothing
expect 9 "nothing" dmuserctl unmap nothing
exec 7</dev/mapper/m
expect 5 "in use" dmuserctl unmap m
exec 7<&-
[ "$(dmuserctl list | cut -f1)" = m ] || fail "list: $(dmuserctl list)"
expect 5 "another dmuserd" dmuserd
dmuserctl unmap m

expect 8 "root" setpriv --reuid=1000 --regid=1000 --clear-groups \
  dmuserctl map m --cow /dev/vdb --base /dev/vda
stop_daemon
rmmod dm-user
start_daemon
expect 6 "modprobe dm-user" dmuserctl map m --cow /dev/vdb --base /dev/vda
stop_daemon

after=$(cat /dev/vda /dev/vdb | sha256sum)
[ "$before" = "$after" ] || fail "wrong input changed a disk"
echo "every wrong input was refused and nothing was changed"

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the daemon's disks keep their word on block devices, one that can
# discard and one that cannot, and on a file of a file system.
# Method: disk_test, which tests them on a file, on each of these.
set -euo pipefail
modprobe brd rd_nr=2 rd_size=32768
modprobe null_blk memory_backed=1 discard=1 gb=1
for device in /dev/ram0 /dev/nullb0; do
  echo "$device"
  DMU_DISK_TEST_DIRECT=yes DMU_DISK_TEST_DEVICE=$device disk_test --gtest_brief=1
done
mkfs.ext4 -q /dev/ram1
mkdir -p /run/files
mount -t ext4 /dev/ram1 /run/files
echo "a file of ext4"
DMU_DISK_TEST_DIRECT=yes DMU_DISK_TEST_DIR=/run/files disk_test --gtest_brief=1
umount /run/files

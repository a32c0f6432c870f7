#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Guest script: fence_test on a disk in memory. Arguments go to GoogleTest.
set -euo pipefail
modprobe brd rd_nr=1 rd_size=16384
modprobe dm_delay
fence_test "$@"

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: a Debian with systemd is updated on one slot as tools/ota/HOWTO.md says,
# through a new system that panics and a power cut in the merge, and its disk is
# then the new image bit by bit.
# Method: the short form of tools/ota-proof. The long ones, by hand:
#   tools/ota-proof cases         every bad case
#   tools/ota-proof cuts 30       power cuts at random moments
#   tools/ota-proof boot-time     what the snapshot costs at boot
#
# usage: ota_proof_test.sh KERNEL
set -euo pipefail
TMPDIR=$TEST_TMPDIR tools/ota-proof --kernel "$1" --bin . short

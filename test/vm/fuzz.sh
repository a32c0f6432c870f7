#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Guest script: the fuzzer of the control node; then nothing may hold the module.
#
# Usage: fuzz.sh SECONDS [SEED]
set -euo pipefail
kernel_fuzz "$@"
rmmod dm_user

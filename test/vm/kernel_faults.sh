#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Guest script: the module with every allocation and user copy failing in turn.
# Needs the debug kernel. Arguments go to GoogleTest.
exec kernel_fault_test "$@"

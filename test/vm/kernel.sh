#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Guest script: the kernel tests, one program for all. They load and unload the
# module themselves. Arguments go to GoogleTest.
exec kernel_test --module=/vm/dm-user.ko "$@"

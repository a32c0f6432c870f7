#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Guest script: the tests that last longer, and those of old defects, one program
# for all. They load and unload the module themselves. Arguments go to GoogleTest.
exec kernel_torture --module=/vm/dm-user.ko "$@"

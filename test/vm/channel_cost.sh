#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Guest script: what a request costs by each way of serving. By hand; see
# README.md.
set -euo pipefail
for depth in 1 32; do
  channel_cost "$depth" "${1-20000}" poll ioctl ioctl-wait uring-epoll uring
done

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Where things of a cached kernel are. A kernel is named by its series, 6.1,
# 6.12, sid or debug; tools/kernels puts it there. Sourced after common.sh.

# kernel_dir SERIES: the kernel's folder, links resolved.
kernel_dir() {
  local folder
  folder=$(cache_dir)/kernels/$1
  [[ -r $folder/RELEASE ]] ||
    die "$EX_UNAVAILABLE" "Linux $1 is not in $folder: run tools/kernels $1"
  readlink -f "$folder"
}

kernel_release() { cat "$(kernel_dir "$1")/RELEASE"; }

kernel_image() {
  local folder
  folder=$(kernel_dir "$1")
  printf '%s\n' "$folder/boot/vmlinuz-${folder##*/}"
}

kernel_headers() {
  local folder
  folder=$(kernel_dir "$1")
  printf '%s\n' "$folder/usr/src/linux-headers-${folder##*/}"
}

# kernel_toolchain SERIES: where the compiler is that came with the kernel; what
# is not there is the host's.
kernel_toolchain() { printf '%s/usr/bin\n' "$(kernel_dir "$1")"; }

# The folder that holds kernel/, modules.builtin and so on.
kernel_modules() {
  local folder
  folder=$(kernel_dir "$1")
  printf '%s\n' "$folder/lib/modules/${folder##*/}"
}

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

# kernel_builds NAME: whether modules can be built for the kernel of this name or
# series. The headers' Makefile includes its tree by an absolute path: in a cache
# that was moved or copied that is another tree, or none, and with two a build
# for Linux 7.2 empties Module.symvers.
kernel_builds() {
  local folder headers common
  folder=$(readlink -e "$(cache_dir)/kernels/$1") || return 1
  headers=$folder/usr/src/linux-headers-${folder##*/}
  [[ -s $headers/Module.symvers ]] || return 1
  common=$(sed -n 's#^include \(/.*/linux-headers-.*-common/\)Makefile$#\1#p' \
    "$headers/Makefile")
  # The headers of a kernel built here are one tree, and include nothing by such
  # a path.
  [[ -z $common || $(readlink -e "$common/../..") == "$folder/usr" ]]
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

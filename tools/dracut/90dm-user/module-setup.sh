#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# module-setup.sh - for dracut: puts what boots an update into the initramfs:
# daemon, tool, module, /etc/dm-user/ota.conf. Does nothing on a machine without
# that file.

# shellcheck disable=SC2154 # dracut's variables and functions, throughout

dmu_config=/etc/dm-user/ota.conf dmu_library=/usr/lib/dm-user/ota-boot.sh

# 255: only when another module wants it.
check() {
  [[ -e ${dracutsysrootdir-}$dmu_config ]] || return 255
  require_binaries dmuserd dmuserctl || return 1
  # It lives on in a folder of its own when the initramfs is gone.
  if ldd "$(find_binary dmuserd)" >/dev/null 2>&1; then
    derror "dm-user: $(find_binary dmuserd) is not linked statically"
    return 1
  fi
  [[ -e ${dracutsysrootdir-}$dmu_library ]] || {
    derror "dm-user: there is no $dmu_library; install it again"
    return 1
  }
}

depends() {
  echo dm rootfs-block
}

installkernel() {
  local STATE_FSTYPE=ext4
  # shellcheck source=/dev/null
  . "${dracutsysrootdir-}$dmu_config"
  # With --hostonly, too: the machine that boots an update has them all.
  hostonly='' instmods dm-mod dm-verity "$STATE_FSTYPE"
  hostonly='' instmods -c dm-user || hostonly='' instmods -c ublk_drv ||
    dwarn "dm-user: Linux $kernel has neither dm-user nor ublk_drv; it boots" \
      "old systems only"
}

install() {
  local rule=/usr/lib/udev/rules.d/56-dm-user.rules
  inst_multiple dmuserd dmuserctl dmsetup modprobe mount cat cp rm mkdir mkfifo \
    chroot sleep
  inst_simple "$dmu_config"
  inst_simple "$dmu_library"
  [[ ! -e ${dracutsysrootdir-}$rule ]] || inst_rules "${rule##*/}"
  # After udev has settled, before anything looks at the root file system.
  inst_hook pre-mount 05 "$moddir/dm-user-ota.sh"
}

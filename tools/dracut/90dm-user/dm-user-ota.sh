#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# dm-user-ota.sh - dracut's pre-mount hook: which system this boot is of, and
# the root's device (ota-boot.sh). When nothing is whole, or the state cannot be
# read, the boot ends: a shell, or with rd.shell=0 rd.emergency=reboot a reboot.
#
# Sourced by dracut's init; with systemd in the initramfs by its
# dracut-pre-mount.service, when the mount of the root is a unit already.

# shellcheck source=/dev/null
type getarg >/dev/null 2>&1 || . /lib/dracut-lib.sh
# shellcheck source=tools/initramfs/ota-boot.sh
. /usr/lib/dm-user/ota-boot.sh

# As dracut names them: /dev/disk/by-label/... of LABEL=...
ota_device() {
  set -- "$(label_uuid_to_dev "$1")"
  [ -b "$1" ] && echo "$1"
}
ota_warn() { warn "dm-user: $*"; }

# Systemd made units of the command line before this hook.
ota_tell_systemd() {
  ota_units=/run/systemd/system
  mkdir -p "$ota_units/sysroot.mount.d" "$ota_units/systemd-fsck-root.service.d"
  [ -z "$ota_root" ] || printf '[Mount]\nWhat=%s\n' "$ota_root" \
    >"$ota_units/sysroot.mount.d/dm-user.conf"
  printf '[Service]\nExecStart=\nExecStart=/bin/sh -c :\n' \
    >"$ota_units/systemd-fsck-root.service.d/dm-user.conf"
  systemctl daemon-reload
}

if ! ota_boot; then
  die "$(ota_alert)"
fi
# Images are never written but by updates: not by a check of the file system
# either, which puts its date into one that is clean.
# shellcheck disable=SC2034 # for dracut's mount hook
fastboot=yes
# shellcheck disable=SC2034
[ -z "$ota_root" ] || root=block:$ota_root fstype=auto
[ -z "${DRACUT_SYSTEMD-}" ] || ota_tell_systemd

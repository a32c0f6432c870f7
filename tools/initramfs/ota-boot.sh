# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# ota-boot.sh - what an initramfs does for updates, whichever made it: decides
# with "dmuserctl ota boot" which system this boot is of, and has its images
# mapped. Sourced by the adapters for initramfs-tools, dracut and mkinitcpio; for
# any POSIX shell.
#
# An adapter sets before it calls ota_boot:
#   ota_device NAME   a function: prints the node of /dev/..., LABEL=..., UUID=...;
#                     fails while there is none
#   ota_warn TEXT     a function: one line for people
# and learns from it:
#   ota_root          the root's device; empty: what the command line says
#   ota_why           status 1: why nothing may be mounted. What is decided
#                     nowhere else is not guessed: a shell, or a reboot.
#
# The daemon that serves the images outlives the initramfs. So it gets a root of
# its own below /run, which moves along: there the paths it was given stay what
# they were, and its program is not removed. Its name begins with '@': systemd
# leaves it alone at shutdown (ROOT_STORAGE_DAEMONS).

# As in /etc/dm-user/ota.conf, which says what they are.
STATE_DEVICE=
STATE_FSTYPE=ext4
STATE_FOLDER=dm-user
ROOT_IMAGE=root
DEVICE_SECONDS=30
# shellcheck source=/dev/null
. /etc/dm-user/ota.conf

OTA_MOUNT=/run/dm-user-ota OTA_JAIL=/run/dm-user-root
OTA_STATE=$OTA_MOUNT/$STATE_FOLDER

# ota_wait_for NAME - prints its node; up to DEVICE_SECONDS.
ota_wait_for() {
  ota_left=$DEVICE_SECONDS
  until ota_node=$(ota_device "$1") && [ -b "$ota_node" ]; do
    [ "$ota_left" -gt 0 ] || return 1
    ota_left=$((ota_left - 1))
    sleep 1
  done
  echo "$ota_node"
}

ota_mount_state() {
  [ ! -d "$OTA_STATE" ] || return 0
  ota_node=$(ota_wait_for "$STATE_DEVICE") || {
    ota_why="there is no $STATE_DEVICE"
    return 1
  }
  mkdir -p "$OTA_MOUNT"
  mount -t "$STATE_FSTYPE" -o noatime "$ota_node" "$OTA_MOUNT" || {
    ota_why="cannot mount $ota_node"
    return 1
  }
  mkdir -p "$OTA_STATE"
}

# What fails here, the tool finds missing, and boots what is whole without it.
ota_start_daemon() {
  [ ! -S /run/dm-user/control ] || return 0
  modprobe -q dm-user || modprobe -q ublk_drv ||
    ota_warn "neither dm-user nor ublk_drv can be loaded"
  mkdir -p /run/dm-user "$OTA_JAIL"
  # /run itself has no programs (noexec).
  mount -t tmpfs -o mode=0700,nosuid tmpfs "$OTA_JAIL"
  mkdir -p "$OTA_JAIL/sbin" "$OTA_JAIL/dev" "$OTA_JAIL/run" "$OTA_JAIL/proc"
  cp "$(command -v dmuserd)" "$OTA_JAIL/sbin/@dmuserd"
  mount -o bind /dev "$OTA_JAIL/dev"
  mount -o bind /run "$OTA_JAIL/run"
  mount -o bind "$OTA_MOUNT" "$OTA_JAIL/run/dm-user-ota"
  mount -t proc proc "$OTA_JAIL/proc"
  rm -f /run/dm-user/ready
  mkfifo /run/dm-user/ready
  PATH=$PATH:/sbin chroot "$OTA_JAIL" @dmuserd --root-storage --ready-fd 3 \
    3>/run/dm-user/ready </dev/null >/dev/kmsg 2>&1 &
  ota_daemon=$!
  # The end of the file when it ends before it is ready.
  if read -r ota_line </run/dm-user/ready; then
    echo -1000 >"/proc/$ota_daemon/oom_score_adj"
  else
    ota_warn "the daemon does not start${ota_line:+: $ota_line}"
  fi
  rm -f /run/dm-user/ready
}

# All images' devices are in /run/dm-user/images, when there is an update.
ota_boot() {
  ota_root=
  ota_mount_state || return 1
  # For whoever sits before a new system that does not come up.
  case " $(cat /proc/cmdline) " in
    *" dm-user.rollback "*)
      dmuserctl ota rollback --state "$OTA_STATE" || ota_warn "not rolled back"
      ;;
  esac
  ota_plan=$(dmuserctl ota boot --dry-run --state "$OTA_STATE" 2>&1) || {
    ota_why=$ota_plan
    return 1
  }
  case $ota_plan in
    *would*) ;;
    *) return 0 ;;
  esac
  dmuserctl ota status --state "$OTA_STATE" | while read -r ota_key ota_path; do
    case "$ota_key $ota_path" in
      "base /dev/"* | "cow /dev/"* | "undo_log /dev/"*)
        ota_wait_for "$ota_path" >/dev/null || ota_warn "there is no $ota_path"
        ;;
    esac
  done
  ota_start_daemon
  mkdir -p /run/dm-user
  ota_images=$(dmuserctl ota boot --quiet --state "$OTA_STATE") || {
    # Whole or not, no base is mounted that is still served as part of the new
    # system: the next boot is of what this one has put down.
    ota_why="no system can be mounted, for the reasons above; reboot once"
    return 1
  }
  echo "$ota_images" >/run/dm-user/images
  # A system on its plain devices mounts what the command line says.
  case $ota_images in mapped*) ;; *) return 0 ;; esac
  while read -r ota_name ota_node; do
    # shellcheck disable=SC2034 # for the adapter
    [ "$ota_name" != "$ROOT_IMAGE" ] || ota_root=$ota_node
  done </run/dm-user/images
}

# What an adapter says when ota_boot failed.
ota_alert() {
  echo "ALERT! dm-user: $ota_why; \"dmuserctl ota status --state $OTA_STATE\"" \
    "says more"
}

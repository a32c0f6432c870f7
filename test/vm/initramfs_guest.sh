# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# initramfs_guest.sh - what guest scripts share that run initramfs-tools' script
# for updates: a stand-in for the machine it runs on. Sourced, after
# guest-daemon.sh.

# initramfs_machine STATE_DEVICE - functions of initramfs-tools that say what they
# were told, programs where the script has them.
initramfs_machine() {
  # As in initramfs-tools.
  mount -t tmpfs -o nodev,noexec,nosuid tmpfs /run
  mkdir -p /scripts /conf /etc/dm-user /usr/lib/dm-user
  cp /vm/ota-boot.sh /usr/lib/dm-user/
  [ -e /sbin/dmuserd ] || ln -s "$(command -v dmuserd)" /sbin/dmuserd
  cat >/scripts/functions <<'TEXT'
resolve_device() { [ -e "$1" ] && echo "$1"; }
wait_for_udev() { :; }
log_warning_msg() { echo "warning: $*"; }
panic() { echo "panic: $*"; exit 3; }
sleep() { :; }
TEXT
  echo "STATE_DEVICE=$1" >/etc/dm-user/ota.conf
}

local_top() {
  rm -f /conf/param.conf
  : >/conf/param.conf
  busybox sh /vm/dm-user >/run/local-top.log 2>&1
}

daemon_pid() {
  local file
  for file in /proc/[0-9]*/cmdline; do
    if [[ $(tr '\0' ' ' 2>/dev/null <"$file") == @dmuserd* ]]; then
      file=${file%/cmdline}
      echo "${file#/proc/}"
    fi
  done
}

# next_boot - nothing is mapped, no daemon runs, the boot id is another one.
boots=0
next_boot() {
  local pid path
  for path in root-verity root; do
    [ ! -e "/dev/mapper/$path" ] || dmsetup remove --retry "$path"
  done
  pid=$(daemon_pid)
  if [ -n "$pid" ]; then
    kill "$pid"
    # Not a child of this shell: nothing tells of its end.
    while [ -d "/proc/$pid" ]; do sleep 0.1; done
  fi
  for path in proc run/dm-user-ota run dev ''; do
    umount "/run/dm-user-root/$path" 2>/dev/null || true
  done
  rm -rf /run/dm-user
  umount /run/dm-user-ota
  boots=$((boots + 1))
  printf '%08d-0000-0000-0000-000000000000\n' "$boots" >/run/boot_id
  grep -q random/boot_id /proc/mounts ||
    mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
}

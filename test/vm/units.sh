#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: who installs the units and lists devices in /etc/dm-usertab finds them
# served after a reboot, one of them mounted; the daemon can be killed, hung,
# restarted and stopped under load, and whoever reads and writes notices nothing;
# the machine goes down without losing what was written last. A client of Android's
# text commands finds the daemon by a socket of systemd's, too, and starts it.
# Method: a booted Debian, three times.
# Disks: vda old image, vdb COW, vdc new image, vdd empty: for a file system with
# an image in it.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh

transport=${1:-dm-user}
readonly ANDROID_SOCKET=/run/dm-user/snapuserd

main_pid() { systemctl show --property=MainPID --value dm-user.service; }

# end_daemon SIGNAL - sends it to the daemon of now and waits for that one's end. It
# is not a child of this shell: nothing tells of its end. There may be none for a
# moment: on a machine that is busy enough the watchdog strikes by itself.
end_daemon() {
  local pid
  until pid=$(main_pid) && [ "$pid" -gt 0 ] && kill "-$1" "$pid" 2>/dev/null; do
    pause_ms 100
  done
  while [ -d "/proc/$pid" ]; do pause_ms 100; done
}

is_active() {
  local unit
  for unit; do
    systemctl --quiet is-active "$unit" || fail "$(systemctl status "$unit" 2>&1)"
  done
}

# check_android - the text commands are answered.
check_android() {
  local answer
  answer=$(/vm-disk/usr/local/bin/android_client "$ANDROID_SOCKET" query) || true
  [ "$answer" = active ] ||
    fail "Android's query: '$answer'; $(systemctl status dm-user.service dm-user.socket)"
}

# in_sandbox COMMAND... - with what confines the daemon's calls and rights.
in_sandbox() {
  {
    printf '[Service]\nType=oneshot\nExecStart=%s\n' "$*"
    grep -E '^(SystemCall|RestrictRealtime|NoNewPrivileges|CapabilityBoundingSet)' \
      /usr/local/lib/systemd/system/dm-user.service
  } >/run/systemd/system/in-sandbox.service
  systemctl daemon-reload
  systemctl start in-sandbox.service
}

# check_sandbox - there the daemon may become a batch task, as it does under load,
# and a real-time one it may not.
check_sandbox() {
  in_sandbox /usr/bin/chrt --batch 0 /bin/true ||
    fail "the daemon cannot give way: $(systemctl status in-sandbox.service)"
  if in_sandbox /usr/bin/chrt --fifo 1 /bin/true 2>/dev/null; then
    fail "the daemon can take the processor for itself"
  fi
  rm /run/systemd/system/in-sandbox.service
  systemctl daemon-reload
  systemctl reset-failed
}

# check_new - reads all of the snapshot past the cache.
check_new() {
  dd if=/dev/mapper/new bs=256k iflag=direct 2>/run/dd.out | cmp - /dev/vdc ||
    fail "the snapshot: $(cat /run/dd.out)"
}

# Reads and writes, until /run/enough is there; the last line says how it was.
load() {
  local turn=0
  rm -f /run/enough
  while [ ! -e /run/enough ]; do
    dd if=/dev/mapper/new of=/dev/null bs=64k count=64 iflag=direct status=none
    dd if=/dev/vdc of=/served/load bs=64k count=16 conv=fsync status=none
    cmp -n 1048576 /served/load /dev/vdc
    turn=$((turn + 1))
    echo "$turn" >/run/turn
  done
  echo 'done' >/run/turn
}

# wait_turns N - until the load went round so often more; fails when it failed.
wait_turns() {
  local from now
  from=$(cat /run/turn 2>/dev/null || echo 0)
  while now=$(cat /run/turn 2>/dev/null) || now=0; [ "${now:-0}" -lt "$((from + $1))" ]; do
    kill -0 "$load_pid" 2>/dev/null || fail "the load: $(cat /run/load.out)"
    pause_ms 100
  done
}

install_all() {
  local modules
  modules=/lib/modules/$(uname -r)/updates
  mkdir -p /root/src "$modules"
  tar -xf /vm/install.tar -C /root/src
  cp /vm/dm-user.ko "$modules"
  depmod -a
  /root/src/tools/install --binaries /vm-disk/usr/local/bin
  # The programs that were installed, not those of the test.
  PATH=/usr/local/sbin:/usr/sbin:/usr/bin
  if [ "$transport" = ublk ]; then
    echo ublk_drv >/etc/modules-load.d/dm-user.conf
    install -D -m 644 /vm/ublk.conf /etc/systemd/system/dm-user.service.d/ublk.conf
  fi
  mkdir -p /etc/systemd/system/dm-user.{service,socket}.d
  printf '[Socket]\nListenStream=%s\n' "$ANDROID_SOCKET" \
    >/etc/systemd/system/dm-user.socket.d/android.conf
  printf '[Service]\nExecStart=\nExecStart=/usr/local/sbin/dmuserd --android-socket %s\n' \
    "$ANDROID_SOCKET" >/etc/systemd/system/dm-user.service.d/android.conf
  printf '[Service]\nWatchdogSec=20\n' \
    >/etc/systemd/system/dm-user.service.d/watchdog.conf
  systemctl daemon-reload
}

first_boot() {
  install_all
  [ "$(systemctl is-enabled dm-user.socket)" = enabled ] || fail "not enabled"
  systemd-analyze verify --man=no /usr/local/lib/systemd/system/dm-user*.* ||
    fail "verify"

  # The first call starts the daemon.
  systemctl start dm-user.socket
  if systemctl --quiet is-active dm-user.service; then fail "active too early"; fi
  dmuserctl status >/dev/null || fail "$(systemctl status dm-user.service)"
  is_active dm-user.service
  check_sandbox
  # Where it goes by itself.
  [ "$(cut -d' ' -f19 "/proc/$(main_pid)/stat")" -eq -5 ] ||
    fail "at nice $(cut -d' ' -f19 "/proc/$(main_pid)/stat")"
  # So does the first of Android's commands; both sockets are systemd's, before and
  # after.
  systemctl stop dm-user.service 2>/dev/null
  check_android
  is_active dm-user.service
  dmuserctl status >/dev/null || fail "$(systemctl status dm-user.service)"

  # An image with a file system, on a file system that is mounted at boot.
  mkfs.ext4 -q -L data /dev/vdd
  mkdir /data /served
  echo 'LABEL=data /data ext4 defaults 0 2' >>/etc/fstab
  echo '/dev/mapper/file-1 /served ext4 defaults 0 2' >>/etc/fstab
  mount /dev/vdd /data
  truncate -s 16M /data/file.img
  mkfs.ext4 -q -L served /data/file.img
  cat >/etc/dm-usertab <<TAB
device {
  name: "new"
  snapshot { cow_path: "/dev/vdb" base_path: "/dev/vda" }
  orphan_timeout: "forever"
}
device { name: "file-1" file { path: "/data/file.img" } }
TAB
  systemctl reboot 2>/dev/null
}

second_boot() {
  local next
  [ "$(systemctl is-system-running --wait)" = running ] ||
    fail "$(systemctl list-units --failed; journalctl -b -p warning --no-pager)"
  is_active dm-user.socket dm-user.service dm-user@new.service \
    'dm-user@file\x2d1.service' served.mount
  check_new
  [ -e /dev/disk/by-label/served ] || fail "udev did not look at the device"
  systemd-analyze security --threshold=25 --no-pager dm-user.service \
    >/run/security.out || fail "$(tail -n 1 /run/security.out)"

  set -m
  load >/run/load.out 2>&1 &
  load_pid=$!
  set +m
  wait_turns 1

  end_daemon KILL
  wait_turns 2
  echo "ok: killed"

  end_daemon STOP
  wait_turns 2
  journalctl -u dm-user.service --no-pager | grep -q 'Watchdog timeout' ||
    fail "it was not the watchdog: $(journalctl -u dm-user.service --no-pager)"
  echo "ok: hung"

  for _ in 1 2 3; do
    systemctl restart dm-user.service
    wait_turns 1
  done
  echo "ok: restarted"

  # Stopped, it leaves its devices to the next, which the next call starts.
  systemctl stop dm-user.service 2>/dev/null
  [ "$(main_pid)" -eq 0 ] || fail "not stopped"
  is_active dm-user@new.service 'dm-user@file\x2d1.service'
  # udev does not wait for what nobody serves; of ublk it cannot know.
  if [ "$transport" = dm-user ]; then
    udevadm trigger --settle --subsystem-match=block
    [ "$(main_pid)" -eq 0 ] || fail "started by whom?"
    [ -e /dev/disk/by-label/served ] || fail "udev forgot the device"
  fi
  dmuserctl status >/dev/null || fail "$(systemctl status dm-user.service)"
  next=$(main_pid)
  [ "$next" -ne 0 ] || fail "not started"
  wait_turns 2
  check_android
  echo "ok: stopped"

  touch /run/enough
  wait "$load_pid" || fail "the load: $(cat /run/load.out)"
  check_new
  # What is in no disk yet when the machine goes down.
  dd if=/dev/vdc of=/served/last bs=1M count=4 status=none
  systemctl reboot 2>/dev/null
}

third_boot() {
  [ "$(systemctl is-system-running --wait)" = running ] ||
    fail "$(systemctl list-units --failed)"
  cmp -n 4194304 /served/last /dev/vdc || fail "the last write is lost"
  if dmesg | grep 'EXT4-fs (dm-.*recovery'; then
    fail "the file system was not unmounted"
  fi
  check_new

  # Gone, it is gone.
  umount /served
  /root/src/tools/install --uninstall
  if ls /usr/local/sbin/dmuser* /usr/local/lib/systemd/system/dm-user* 2>/dev/null
  then
    fail "something stayed"
  fi
  [ ! -e /dev/mapper/new ] ||
    fail "the device stayed: $(journalctl -b -u 'dm-user*' --no-pager)"
}

case $VM_BOOT in
  1) first_boot ;;
  2) second_boot ;;
  3) third_boot ;;
esac
[ "$VM_BOOT" -eq 3 ] || exec sleep infinity

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What runs in the machine of tools/ota-proof, once in every boot: looks at
# where the update is, takes it a step further, and says so on the console. It
# remembers nothing: power may go at any moment, and the next boot goes on.
#
# The kernel's command line says what is wanted: proof.do=WHAT. Lines that the
# host reads begin with "proof:"; "proof: end ..." is the last one.
#
# Disks by serial: root, medium (mounted at /mnt), old and new (the images as
# they must be), and the one with the label "state".
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

readonly BASE=/dev/disk/by-id/virtio-root
read -r command_line </proc/cmdline
what=${command_line##*proof.do=}
what=${what%% *}

# Notices, with the kernel's clock, into the log that outlives a crash.
log() { echo "<5>proof: $*" >/dev/kmsg; }

# The end of this machine: the host takes its power.
end() {
  sync
  log "end $*"
  sleep infinity
}
fail() { end "FAILED: $*"; }

reboot_now() {
  log "reboot"
  systemctl reboot
  sleep infinity
}

phase() {
  dmuserctl ota status --json | sed -n 's/.*"phase": "\(.*\)".*/\1/p'
}

# howto STEP: does what the how-to says there.
howto() {
  local commands said got=0
  commands=$(sed -n "/^<!-- proof: $1 -->\$/,/^[^ <]/s/^    //p" /mnt/HOWTO.md)
  [ -n "$commands" ] || fail "the how-to has no step $1"
  said=$(bash -ec "$commands" 2>&1) || got=$?
  log "${commands//$'\n'/; }${said:+: ${said//$'\n'/; }}"
  [ "$got" -eq 0 ] || fail "the how-to's step $1 ended with $got: $said"
  # It asked for a reboot, and that takes this script with it.
  case $commands in *reboot*) sleep infinity ;; esac
}

# ota CODE COMMAND...: the exit code that is right; what it says is logged.
ota() {
  local want=$1 got=0 said
  shift
  said=$(dmuserctl ota "$@" 2>&1) || got=$?
  log "ota $1: ${said//$'\n'/; }"
  [ "$got" -eq "$want" ] || fail "ota $* ended with $got, not $want: $said"
}

# same_files old|new: what is mounted as the root has these files, no others.
same_files() {
  local folder
  echo 1 >/proc/sys/vm/drop_caches
  for folder in etc usr; do
    diff -rq --no-dereference "/proof/$1/$folder" "/$folder" >/run/diff 2>&1 ||
      return 1
  done
}

# same_device DEVICE old|new: bit by bit. Past the cache: a mounted ext4 makes up
# there what its disk leaves out (bitmaps of groups without files).
same_device() {
  cmp <(dd if="$1" iflag=direct bs=1M status=none) \
    <(dd if="/dev/disk/by-id/virtio-$2" iflag=direct bs=1M status=none) \
    >/run/cmp 2>&1 ||
    fail "$1 is not the $2 system: $(cat /run/cmp)"
}

# Reads and compares all files until the merge is over, and once more.
read_all_the_while() {
  local rounds=0 last
  for (( ; ; )); do
    last=no
    [ ! -e /run/merged ] || last=yes
    same_files new || exit 1
    rounds=$((rounds + 1))
    : >/run/read-once
    [ "$last" = no ] || break
  done
  echo "$rounds" >/run/rounds
}

# Merges while all files are read; then the system runs without the daemon.
merge() {
  local reader daemon
  rm -f /run/merged /run/read-once
  read_all_the_while &
  reader=$!
  until [ -e /run/read-once ]; do
    kill -0 "$reader" 2>/dev/null || fail "a file is wrong: $(cat /run/diff)"
    sleep 0.2
  done
  log "every file is right; merges while they are read again and again"
  howto merge
  # It was started; the same again waits for its end.
  systemctl start --wait dm-user-merge
  : >/run/merged
  wait "$reader" || fail "a file was wrong in the merge: $(cat /run/diff)"
  [ "$(phase)" = merged ] || fail "the merge left the phase $(phase)"
  log "merged; all files were right $(cat /run/rounds) times meanwhile"
  swapped || fail "no table swap: $(dmsetup table root)"
  daemon=$(pgrep_daemon)
  kill -9 "$daemon" || fail "there is no daemon"
  same_files new || fail "without the daemon: $(cat /run/diff)"
  same_device "$BASE" new
  log "table swapped: all files are right without the daemon, and the disk is" \
    "the new image bit by bit"
}

swapped() { dmsetup table root | grep -q ' linear '; }

# The one whose name says that systemd must leave it alone.
pgrep_daemon() {
  local file line
  for file in /proc/[0-9]*/cmdline; do
    read -r -d '' line 2>/dev/null <"$file" || continue
    if [ "$line" = @dmuserd ]; then
      file=${file%/cmdline}
      echo "${file#/proc/}"
    fi
  done
}

# The system is whole: it booted to its end, and is what the phase says.
check_boot() {
  local device
  systemctl is-system-running --wait >/run/running ||
    fail "the system is $(cat /run/running): $(systemctl --failed --no-legend)"
  # For the cases.
  # shellcheck disable=SC2034
  busy_ticks=$(awk '$1 == "cpu" { print $2 + $3 + $4 + $7 + $8 }' /proc/stat)
  version=$(cat /etc/proof-version)
  device=$(sed -n 's#^\([^ ]*\) / ext4 .*#\1#p' /proc/self/mounts)
  state=$(phase)
  log "boot of system $version from $device, phase $state, complete at" \
    "$(cut -d ' ' -f 1 /proc/uptime) s"
  [ ! -s /run/dm-user/images ] || log "initramfs: $(tr '\n' ' ' </run/dm-user/images)"
  mount -o ro,noload /dev/disk/by-id/virtio-old /proof/old ||
    fail "no old image"
  mount -o ro,noload /dev/disk/by-id/virtio-new /proof/new ||
    fail "no new image"
  [ "$(systemctl is-active dm-user-bless)" != active ] || [ "$state" != good ] ||
    log "dm-user-bless.service trusts the new system"
  case $version in 1) system=old ;; *) system=new ;; esac
  case $state in
    none) ;;
    staging | staged | rejected) [ "$system" = old ] || fail "phase $state" ;;
    good | merging) [ "$system" = new ] || fail "phase $state" ;;
    merged) [ "$system" = new ] || fail "phase $state" ;;
    trial) ;;
    *) fail "phase $state" ;;
  esac
  case $state:$system in
    trial:new | good:new | merging:new)
      case $device in
        /dev/mapper/root) ;;
        *) fail "the root is $device" ;;
      esac
      [ -n "$(pgrep_daemon)" ] || fail "there is no daemon"
      ;;
    *)
      case $device in
        /dev/mapper/root) fail "the root is $device" ;;
      esac
      same_device "$BASE" "$system"
      ;;
  esac
}

# Goes on with the update wherever it is.
update() {
  case $state in
    none)
      if [ "$system" = new ]; then
        end new
      fi
      log "stages the update"
      howto stage
      update_staged
      ;;
    staging)
      log "goes on staging the update"
      howto stage
      update_staged
      ;;
    staged) update_staged ;;
    trial)
      # Power went between activate and reboot.
      [ "$system" = new ] || reboot_now
      systemctl start dm-user-bless || fail "dm-user-bless"
      [ "$(phase)" = good ] || fail "not blessed: $(phase)"
      merge
      reboot_now
      ;;
    good | merging)
      merge
      reboot_now
      ;;
    merged)
      same_files new || fail "$(cat /run/diff)"
      log "runs from the plain disk, which is the new image bit by bit"
      howto clean
      end new
      ;;
    rejected) end "old: $(dmuserctl ota status | head -n 1)" ;;
  esac
}

update_staged() {
  same_device "$BASE" old
  log "the update is staged, the disk is untouched"
  howto activate
}

log "what: $what"
check_boot
[ "$what" != update ] || update
# shellcheck source=/dev/null
. /mnt/guest-cases.sh
fail "nothing to do for $what in phase $state"

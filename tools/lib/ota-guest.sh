#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What runs in the machine of tools/ota-proof, once in every boot: looks at
# where the update is, takes it a step further, and says so on the console. It
# remembers nothing: power may go at any moment, and the next boot goes on.
#
# The kernel's command line says what is wanted: proof.do=WHAT. Lines that the
# host reads begin with "proof:"; "proof: disk: old" has it compare the disk with
# that image; "proof: end ..." is the last one.
#
# Disks by serial: root, medium (mounted at /mnt), new (the image as it must
# become), and the one with the label "state".
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

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
  log "${commands//$'\n'/; }"
  said=$(bash -ec "$commands" 2>&1) || got=$?
  # systemctl tries the bus first, which this machine has not.
  said=${said/Failed to connect to bus: No such file or directory/}
  [ -z "$said" ] || log "${said//$'\n'/ }"
  [ "$got" -eq 0 ] || fail "the how-to's step $1 ended with $got: $said"
  # It asked for a reboot, and that takes this script with it.
  case $commands in *reboot*) sleep infinity ;; esac
}

# ota CODE COMMAND...: the exit code that is right; what it says is logged.
ota() {
  local want=$1 got=0 said
  shift
  said=$(dmuserctl ota "$@" 2>&1) || got=$?
  said=${said//$'\n'/; }
  log "ota $1: ${said:-done}"
  [ "$got" -eq "$want" ] || fail "ota $* ended with $got, not $want: $said"
}

# The folders that hold all files, and those that hold what the update changes.
readonly ALL_FILES='etc usr' CHANGED_FILES='etc usr/share'

# same_files FOLDERS: what is mounted as the root has there the files of the new
# system, no others.
same_files() {
  local folder
  echo 1 >/proc/sys/vm/drop_caches
  for folder in $1; do
    diff -rq --no-dereference "/proof/new/$folder" "/$folder" \
      >/run/diff 2>&1 || return 1
  done
}

# disk_is old|new: the host, which does it in no time, compares the disk with that
# image, bit by bit. Where nothing is written to it in the rest of this boot.
disk_is() { log "disk: $1"; }

# Until the merge is over, and once more.
read_all_the_while() {
  local rounds=0 last
  for (( ; ; )); do
    last=no
    [ ! -e /run/merged ] || last=yes
    same_files "$CHANGED_FILES" || exit 1
    rounds=$((rounds + 1))
    [ "$last" = no ] || break
  done
  echo "$rounds" >/run/rounds
}

# Merges while files are read; then the system runs without the daemon.
merge() {
  local reader daemon
  if [ "$state" = good ] || [ "$state" = trial ]; then
    same_files "$ALL_FILES" || fail "a file is wrong: $(cat /run/diff)"
    log "every file is right"
  fi
  rm -f /run/merged
  read_all_the_while &
  reader=$!
  howto merge
  while [ "$(phase)" = good ] && merge_runs; do sleep 0.1; done
  log "merges while files are read again and again"
  # "systemctl --wait" does not, on a machine without a bus.
  while merge_runs; do sleep 0.5; done
  : >/run/merged
  wait "$reader" || fail "a file was wrong in the merge: $(cat /run/diff)"
  [ "$(phase)" = merged ] || fail "the merge left the phase $(phase)"
  log "merged; what the update changes was right in $(cat /run/rounds) readings"
  swapped || fail "no table swap: $(dmsetup table root)"
  daemon=$(pgrep_daemon)
  kill -9 "$daemon" || fail "there is no daemon"
  same_files "$ALL_FILES" || fail "without the daemon: $(cat /run/diff)"
  log "the table is swapped: every file is right without the daemon"
}

merge_runs() { systemctl --quiet is-active dm-user-merge; }

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
  uptime=$(cut -d ' ' -f 1 /proc/uptime)
  version=$(cat /etc/proof-version)
  device=$(sed -n 's#^\([^ ]*\) / ext4 .*#\1#p' /proc/self/mounts)
  state=$(phase)
  log "boot of system $version from $device, phase $state, complete at" \
    "$uptime s"
  [ ! -s /run/dm-user/images ] || log "initramfs: $(tr '\n' ' ' </run/dm-user/images)"
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
      disk_is "$system"
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
      disk_is new
      reboot_now
      ;;
    good | merging)
      merge
      disk_is new
      reboot_now
      ;;
    merged)
      howto clean
      end new
      ;;
    rejected) end "old: $(dmuserctl ota status | head -n 1)" ;;
  esac
}

update_staged() {
  log "the update is staged"
  disk_is old
  howto activate
}

log "what: $what"
check_boot
[ "$what" != update ] || update
# shellcheck source=/dev/null
. /mnt/guest-cases.sh
fail "nothing to do for $what in phase $state"

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The bad cases of tools/ota-proof, in the guest. Sourced by ota-guest.sh, which
# has looked at the boot, and sets `what`, `state`, `system`, `busy_ticks`, `uptime`.
# shellcheck disable=SC2154

# The phase did not change, and the disk is untouched.
nothing_changed() {
  [ "$(phase)" = "$1" ] || fail "the phase is $(phase), not $1"
  disk_is old
  sync
}

# To the last block: what ext4 has set aside, it gives back with a sync.
fill_state_disk() {
  local number=0
  until ! dd if=/dev/zero of="/run/dm-user-ota/filler.$number" bs=1 count=1 \
    oflag=sync 2>/dev/null; do
    cat /dev/zero >>"/run/dm-user-ota/filler.$number" 2>/dev/null
    sync
    number=$((number + 1))
    [ "$number" -lt 1000 ] || fail "the disk does not become full"
  done
}

stage_and_activate() {
  howto stage
  ota 0 activate
}

case $what:$state in
  wrong-base:none)
    [ "$system" = old ] || fail "boot of the $system system"
    ota 4 stage /mnt/wrong.manifest --quiet
    nothing_changed none
    end old: wrong base
    ;;
  full-stage:none)
    fill_state_disk
    ota 7 stage /mnt/update.manifest --quiet
    nothing_changed none
    rm /run/dm-user-ota/filler.*
    ota 0 stage /mnt/update.manifest --quiet
    ota 0 clean
    end old: full disk
    ;;
  # The boot cannot be counted, so it is not made; with room again, it is.
  full-boot:none)
    stage_and_activate
    fill_state_disk
    reboot_now
    ;;
  full-boot:trial | full-boot:good)
    if [ "$system" = new ]; then
      [ ! -e /run/dm-user-ota/filler.0 ] || fail "a boot that was not counted"
      howto rollback
    fi
    log "the boot was not counted; makes room"
    rm /run/dm-user-ota/filler.*
    reboot_now
    ;;
  # The new system is never blessed, never comes up, cannot be mapped...
  panic:none | hang:none | no-module:none)
    stage_and_activate
    reboot_now
    ;;
  corrupt:none)
    stage_and_activate
    # It cannot even be mapped.
    dd if=/dev/urandom of="/run/dm-user-ota/dm-user/root.cow" bs=4096 count=4 conv=notrunc \
      2>/dev/null
    reboot_now
    ;;
  read-error:none)
    stage_and_activate
    cow=/run/dm-user-ota/dm-user/root.cow
    # All that the new system has of its own, the super block first: what is read
    # of it is an error.
    first_byte=$(dmuserctl cow inspect --ops "$cow" |
      sed -n 's/^op 0: .* bytes at \([0-9]*\) .*/\1/p')
    [ -n "$first_byte" ] || fail "no data in the COW file"
    head -c "$(($(stat -c %s "$cow") - first_byte))" /dev/urandom |
      dd of="$cow" oflag=seek_bytes seek="$first_byte" conv=notrunc 2>/dev/null
    reboot_now
    ;;
  undo:none)
    stage_and_activate
    reboot_now
    ;;
  undo:trial | undo:good | undo:merging)
    if [ "$system" = new ]; then
      howto bless
      merge
      howto undo
    fi
    reboot_now
    ;;
  prepare:none)
    howto stage
    ota 0 bless --untried
    end prepared
    ;;
  boot-time:*)
    # What did not change is read without the daemon.
    if [ "$state" = good ]; then
      redirected=$(dmuserctl status --json root |
        sed -n 's/.*"redirected_bios": \([0-9]*\).*/\1/p')
      log "the kernel gave ${redirected:=0} requests to the disk by itself"
      [ "$redirected" -gt 0 ] || fail "no redirect"
    fi
    end "$busy_ticks $uptime"
    ;;
  *:rejected) end "old: $(dmuserctl ota status | head -n 1)" ;;
esac

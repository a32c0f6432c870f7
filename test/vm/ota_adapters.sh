#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: dracut's and mkinitcpio's hooks name the device of the new system when
# it is to be tried, nothing when nothing is under way, and end the boot when the
# state cannot be read. What they have in common is in ota_initramfs.sh.
# Method: the hooks themselves, under the shells that run them; the functions of
# dracut and mkinitcpio that they call are stand-ins that say what they were told.
# Disks: vda old image, vdb COW, vdc new image.
set -euo pipefail
# shellcheck source=tools/lib/guest-daemon.sh
source /vm/guest-daemon.sh
# shellcheck source=test/vm/initramfs_guest.sh
source /vm/initramfs_guest.sh

modprobe brd rd_nr=1 rd_size=262144
modprobe ext4
initramfs_machine LABEL=ota-state
mkdir -p /run/save /dev/disk/by-label
mount -t tmpfs tmpfs /run/save
mkfs.ext4 -q -F -L ota-state /dev/ram0
ln -s /dev/ram0 /dev/disk/by-label/ota-state
cat >/usr/bin/systemctl <<'TEXT'
#!/bin/sh
echo "systemctl $*" >>/run/save/systemctl
TEXT
chmod +x /usr/bin/systemctl

# As dracut's init sources a hook; prints what its mount hook would read.
run_dracut() {
  cat >/run/save/init <<'TEXT'
getarg() { :; }
label_uuid_to_dev() {
  case $1 in
    LABEL=*) echo "/dev/disk/by-label/${1#LABEL=}" ;;
    *) echo "$1" ;;
  esac
}
warn() { echo "warning: $*" >&2; }
die() { echo "die: $*" >&2; exit 3; }
sleep() { :; }
root=block:/dev/vda
. /vm/dm-user-ota.sh
echo "fastboot=$fastboot" >&2
echo "root=$root"
TEXT
  busybox sh /run/save/init
}

# As mkinitcpio's init runs a hook.
run_mkinitcpio() {
  cat >/run/save/init <<'TEXT'
err() { echo "error: $*" >&2; }
# Who sits there, if anybody does, has the disk back.
launch_interactive_shell() {
  [ -n "${mender-}" ] || exit 3
  touch /run/save/mended
}
reboot() { echo "reboot $*"; exit 4; }
blkid() {
  [ "$2" = LABEL=ota-state ] || [ -e /run/save/mended ] || return 1
  echo /dev/ram0
}
sleep() { :; }
root=/dev/vda
. /vm/dm-user
run_hook
echo "rwopt=${rwopt-}" >&2
echo "root=$root"
TEXT
  busybox ash /run/save/init
}

# root_is DEVICE - of the adapter at work.
root_is() {
  local got
  got=$("run_$adapter" 2>/run/save/said) ||
    fail "$adapter ended with $?: $(cat /run/save/said)"
  [ "$got" = "root=$1" ] || fail "$adapter: $got: $(cat /run/save/said)"
}

stage() {
  cat >/run/save/manifest <<TEXT
update: "guest"
image {
  name: "root" base: "/dev/vda" cow: "/dev/vdb" place: "root.cow"
  cow_sha256: "$(sha256sum </dev/vdb | cut -d' ' -f1)"
}
TEXT
  dmuserctl ota stage /run/save/manifest --quiet
  dmuserctl ota activate --quiet
}

for adapter in dracut mkinitcpio; do
  prefix=''
  [ "$adapter" != dracut ] || prefix=block:
  # Nothing was ever staged.
  root_is "$prefix/dev/vda"
  stage
  next_boot
  root_is "$prefix/dev/mapper/root"
  same /dev/mapper/root /dev/vdc
  [ "$(readlink "/proc/$(daemon_pid)/root")" = /run/dm-user-root ] ||
    fail "$adapter: no jail"
  if [ "$adapter" = dracut ]; then
    [ ! -e /run/save/systemctl ] || fail "systemd was told, and is not there"
    # With systemd the mount is a unit, and fsck another.
    export DRACUT_SYSTEMD=1
    root_is "block:/dev/mapper/root"
    unset DRACUT_SYSTEMD
    grep -qx 'fastboot=yes' /run/save/said || fail "dracut's fsck looks at it"
    grep -qx 'What=/dev/mapper/root' \
      /run/systemd/system/sysroot.mount.d/dm-user.conf || fail "no drop-in"
    grep -qx 'ExecStart=' \
      /run/systemd/system/systemd-fsck-root.service.d/dm-user.conf ||
      fail "fsck looks at the old device"
    grep -qx 'systemctl daemon-reload' /run/save/systemctl || fail "no reload"
  fi
  [ "$adapter" = dracut ] || grep -qx 'rwopt=ro' /run/save/said ||
    fail "the new system's root is mounted for writing"
  # It is not what was hoped for.
  dmuserctl ota rollback --quiet
  next_boot
  root_is "$prefix/dev/vda"
  dmuserctl ota clean --quiet
  next_boot

  # What is not known is not guessed.
  sed -i 's/ota-state/nowhere/' /etc/dm-user/ota.conf
  got=0
  "run_$adapter" >/run/save/said 2>&1 || got=$?
  [ "$got" -eq 3 ] || fail "$adapter goes on without a state: $(cat /run/save/said)"
  grep -q 'there is no LABEL=nowhere' /run/save/said ||
    fail "$adapter: $(cat /run/save/said)"
  sed -i 's/nowhere/ota-state/' /etc/dm-user/ota.conf
done
# Nobody sits there: panic=SECONDS is a variable of mkinitcpio's init.
sed -i 's/ota-state/nowhere/' /etc/dm-user/ota.conf
got=0
export panic=5
run_mkinitcpio >/run/save/said 2>&1 || got=$?
[ "$got" -eq 4 ] || fail "no reboot: $(cat /run/save/said)"
# Somebody does, and panic=0 is to wait for them: then it is tried again.
export panic=0 mender=yes
adapter=mkinitcpio
root_is /dev/vda
[ -e /run/save/mended ] || fail "nobody was asked"
grep -q ' /run/dm-user-ota ' /proc/mounts || fail "it was not tried again"

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the units are what systemd takes, the daemon's sandbox is as tight as it
# is said to be, and the daemon speaks the protocol they count on: ready once,
# signs of life from the loop, stopping.
# Usage: units_test.sh DMUSERD DMUSERCTL UBLK_CONF UNIT...
set -euo pipefail
daemon=$PWD/$1 ctl=$PWD/$2 ublk=$PWD/$3
shift 3
root=$TEST_TMPDIR/root
units=$root/etc/systemd/system

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

mkdir -p "$units" "$root/usr/sbin"
cp "$daemon" "$ctl" "$root/usr/sbin/"
for unit; do
  # The programs are where they were built.
  sed "s|/usr/sbin/dmuser|$root/usr/sbin/dmuser|" "$unit" \
    >"$units/$(basename "$unit")"
done
# Documentation is not installed here, and there is no manager to ask.
said=$(SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no \
  "$units"/*.service "$units"/*.socket "$units"/*.timer 2>&1) ||
  fail "verify: $said"
[[ $said != *dm-user* ]] || fail "verify: $said"
systemd-analyze security --offline=yes --threshold=25 --no-pager \
  "$units/dm-user.service" >"$TEST_TMPDIR/security.txt" 2>&1 ||
  fail "exposed more than 2.5 of 10: $(cat "$TEST_TMPDIR/security.txt")"
tail -n 1 "$TEST_TMPDIR/security.txt"
# With what ublk takes: a device of its own and the right to make disks.
mkdir -p "$units/dm-user.service.d"
cp "$ublk" "$units/dm-user.service.d/"
systemd-analyze security --offline=yes --threshold=30 --no-pager \
  --root="$root" dm-user.service >"$TEST_TMPDIR/security.txt" 2>&1 ||
  fail "with ublk exposed more than 3.0 of 10: $(cat "$TEST_TMPDIR/security.txt")"
tail -n 1 "$TEST_TMPDIR/security.txt"
grep -q 'CAP_SYS_ADMIN' "$TEST_TMPDIR/security.txt" || fail "the drop-in"

# What the generator makes of a table.
cat >"$TEST_TMPDIR/usertab" <<'TAB'
device {
  name: "a-b"
  snapshot { cow_path: "/srv/50% of it/a.cow" base_path: "/dev/vg/a-b" }
  undo_log_path: "/var/undo"
}
device { name: "zero" null { size_bytes: 4096 } }
TAB
made=$TEST_TMPDIR/made
mkdir "$made"
"$root/usr/sbin/dmuserctl" units --table "$TEST_TMPDIR/usertab" "$made" ||
  fail "units"
(cd "$made" && find . -type f -o -type l | LC_ALL=C sort) \
  >"$TEST_TMPDIR/made.txt"
cat >"$TEST_TMPDIR/expected.txt" <<'TEXT'
./dm-user@a\x2db.service.d/50-usertab.conf
./dm-user@zero.service.d/50-usertab.conf
./local-fs.target.wants/dm-user@a\x2db.service
./local-fs.target.wants/dm-user@zero.service
TEXT
cmp "$TEST_TMPDIR/made.txt" "$TEST_TMPDIR/expected.txt" ||
  fail "units made: $(cat "$TEST_TMPDIR/made.txt")"
cat >"$TEST_TMPDIR/expected.txt" <<TEXT
# From $TEST_TMPDIR/usertab
[Unit]
RequiresMountsFor="/srv/50%% of it/a.cow"
Wants=dev-vg-a\\x2db.device
After=dev-vg-a\\x2db.device
RequiresMountsFor="/var/undo"
TEXT
cmp "$made/dm-user@a\x2db.service.d/50-usertab.conf" \
  "$TEST_TMPDIR/expected.txt" ||
  fail "units: $(cat "$made/dm-user@a\x2db.service.d/50-usertab.conf")"
echo 'device { name: 1 }' >"$TEST_TMPDIR/usertab"
if "$root/usr/sbin/dmuserctl" units --table "$TEST_TMPDIR/usertab" "$made" \
  2>"$TEST_TMPDIR/said"; then
  fail "a wrong table was taken"
fi
grep -q 'line 1, column 16' "$TEST_TMPDIR/said" ||
  fail "no place: $(cat "$TEST_TMPDIR/said")"

# Installed for another machine, and taken back.
other=$TEST_TMPDIR/other
installer() { tools/install --prefix /usr --root "$other" "$@" 2>/dev/null; }
installer --binaries "$root/usr/sbin" --with-dkms --with-initramfs \
  --with-dracut --with-mkinitcpio || fail "install"
for file in sbin/dmuserd sbin/dmuserctl lib/systemd/system/dm-user.socket \
  lib/systemd/system/dm-user@.service lib/udev/rules.d/56-dm-user.rules \
  lib/systemd/system-generators/dm-user-generator "src/dm-user-*/uapi/dm-user.h"; do
  compgen -G "$other/usr/$file" >/dev/null || fail "not installed: $file"
done
for file in usr/lib/dm-user/ota-boot.sh etc/initcpio/{install,hooks}/dm-user \
  usr/lib/dracut/modules.d/90dm-user/{module-setup,dm-user-ota}.sh \
  etc/initramfs-tools/{hooks/dm-user,scripts/local-top/dm-user}; do
  [[ -e $other/$file ]] || fail "not installed: $file"
done
[[ -L $other/etc/systemd/system/sockets.target.wants/dm-user.socket ]] ||
  fail "the socket is not enabled"
grep -q '^ExecStart=/usr/sbin/dmuserd' "$other/usr/lib/systemd/system/dm-user.service"
installer --uninstall || fail "uninstall"
left=$(find "$other" ! -type d)
[[ -z $left ]] || fail "uninstall left $left"
# As another prefix has it.
other=$other.opt
tools/install --prefix /opt/dm --root "$other" --binaries "$root/usr/sbin" \
  --no-enable 2>/dev/null || fail "install to /opt/dm"
grep -q '^ExecStart=/opt/dm/sbin/dmuserd' \
  "$other/opt/dm/lib/systemd/system/dm-user.service" || fail "the prefix"
[[ ! -e $other/etc ]] || fail "enabled against --no-enable"

# The protocol: what the daemon says, in order.
cat >"$TEST_TMPDIR/notify.py" <<'PYTHON'
import os, signal, socket, subprocess, sys

daemon, folder = sys.argv[1:]
path = folder + "/notify"
heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
heard.bind(path)
environment = dict(os.environ, NOTIFY_SOCKET=path, WATCHDOG_USEC="200000")
environment.pop("WATCHDOG_PID", None)
process = subprocess.Popen([daemon, "--control", folder + "/control"],
                           env=environment, stderr=subprocess.DEVNULL)
words = [heard.recv(100) for _ in range(4)]
assert words == [b"READY=1"] + 3 * [b"WATCHDOG=1"], words
process.send_signal(signal.SIGTERM)
last = heard.recv(100)
while last == b"WATCHDOG=1":
    last = heard.recv(100)
assert last == b"STOPPING=1", last
assert process.wait() == 0
PYTHON
# A socket's path is short.
short=$(mktemp -d)
trap 'rm -rf "$short"' EXIT
python3 "$TEST_TMPDIR/notify.py" "$root/usr/sbin/dmuserd" "$short" ||
  fail "the notify protocol"

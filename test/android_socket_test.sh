#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Goal: the daemon as Android's init starts it: the socket is bound before and
# passed as an open file; what is no such socket is refused; init, getstatus,
# delete and stop work on real files; whoever disturbs, disturbs nobody.
# Usage: android_socket_test.sh DMUSERD DMUSERCTL MAKE_IMAGES RC_FILE
set -euo pipefail
daemon=$PWD/$1 ctl=$PWD/$2 make_images=$PWD/$3 rc=$PWD/$4
# A socket's path is short.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# The flags of Android's service are flags of this daemon.
read -r -a service < <(grep '^service snapuserd ' "$rc")
"$daemon" "${service[@]:3}" --help >help.txt || {
  echo "FAILED: the flags of ${rc##*/}"
  exit 1
}
[[ " ${service[*]} " == *" --android-socket /dev/socket/snapuserd "* ]]

"$make_images" old.img new.img 4
"$ctl" cow create old.img new.img -o update.cow --quiet
cp old.img src.img
head -c 100000 update.cow >cut.cow

cat >test.py <<'PYTHON'
import os, signal, socket, subprocess, sys

daemon, folder = sys.argv[1:]
path = folder + "/snapuserd"
control = folder + "/control"


def start(*, fd=None, name="snapuserd"):
    """The daemon, once it is ready; or its exit code."""
    environment = dict(os.environ)
    if fd is not None:
        environment["ANDROID_SOCKET_" + name] = str(fd)
    ready, ready_of_daemon = os.pipe()
    process = subprocess.Popen(
        [daemon, "--control", control, "--state-dir", folder + "/state",
         "--android-socket", path, "--ready-fd", str(ready_of_daemon)],
        env=environment, stderr=open(folder + "/log", "a"),
        pass_fds=[ready_of_daemon] + ([fd] if fd is not None else []))
    os.close(ready_of_daemon)
    is_ready = os.read(ready, 1) == b"\n"
    os.close(ready)
    return process if is_ready else process.wait()


class Client:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(path)

    def ask(self, command, answer):
        self.socket.send(command.encode())
        got = self.socket.recv(512).decode()
        assert got == answer, (command, got)

    def closed(self):
        try:
            return self.socket.recv(512) == b""
        except ConnectionResetError:
            return True


def whole_life(process):
    sectors = os.path.getsize(folder + "/new.img") // 512
    init = ",{0}/update.cow,{0}/src.img,{0}/old.img".format(folder)
    client = Client()
    client.ask("query", "active")
    client.ask("init,a" + init, "success,%d" % sectors)
    client.ask("init,b" + init, "fail")  # the base is in use
    client.ask("getstatus,a", "snapshot")
    client.ask("start,a", "fail")  # no kernel
    client.ask("getstatus,a", "snapshot")
    client.ask("delete,a", "success")
    client.ask("getstatus,a", "snapshot-merge-failed")
    client.ask("init,a" + init.replace("update", "cut"), "fail")
    client.ask("init,a" + init.replace("update", "none"), "fail")
    client.ask("init,a" + init.replace("src", "none"), "fail")
    client.ask("init,a" + init, "success,%d" % sectors)
    client.ask("merge_percent", "0.000000")

    # Those who disturb.
    idle = [Client() for _ in range(20)]
    oversized = Client()
    oversized.socket.send(b"delete,a," + b"x" * 4000)
    assert oversized.closed()
    unknown = Client()
    unknown.ask("fly", "fail")
    assert unknown.closed()
    deaf = Client()
    deaf.socket.setblocking(False)
    try:
        while True:
            deaf.socket.send(b"getstatus,a")
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        pass  # read slowly, or what it sent together was too long
    client.ask("getstatus,a", "snapshot")

    client.socket.send(b"stop")
    client.socket.close()
    assert process.wait() == 0, process.returncode
    del idle


# Bound here, by the daemon itself.
process = start()
assert os.stat(path).st_mode & 0o777 == 0o600
busy = start()
assert busy == 5, busy
whole_life(process)
assert not os.path.exists(path) and not os.path.exists(control)

# Bound before, as by init, which has the name afterwards too.
bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
bound.bind(path)
os.chmod(path, 0o660)
for _ in range(2):
    whole_life(start(fd=bound.fileno()))
    assert os.stat(path).st_mode & 0o777 == 0o660
# Ended by a signal, with something that was never started.
process = start(fd=bound.fileno())
Client().ask("init,a,{0}/update.cow,{0}/src.img,{0}/old.img".format(folder),
             "success,%d" % (os.path.getsize(folder + "/new.img") // 512))
process.send_signal(signal.SIGTERM)
assert process.wait() == 0
assert not os.listdir(folder + "/state")
bound.close()

# What is passed is not that socket.
other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
other.bind(folder + "/other")
datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
os.unlink(path)
datagram.bind(path)
for wrong in (other.fileno(), datagram.fileno()):
    assert start(fd=wrong) == 1
assert not os.path.exists(control)
PYTHON
before=$(cat old.img src.img update.cow | sha256sum)
python3 test.py "$daemon" "$work" || {
  cat log
  exit 1
}
[[ $(cat old.img src.img update.cow | sha256sum) == "$before" ]] || {
  echo "FAILED: a file was changed"
  exit 1
}

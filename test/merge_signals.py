#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Interrupts `dmuserctl cow merge` on its way, by SIGINT and by SIGKILL.

usage: merge_signals.py DMUSERCTL COW OLD NEW

Whatever the signal met, the image reads as the new one and the same command
goes on. The signal is sent when the counter in the COW file says that the merge
is under way; a merge that was faster than that is tried again.
"""
import filecmp
import os
import shutil
import signal
import struct
import subprocess
import sys

COUNTER_OFFSET = 26  # num_merge_ops of the header, 8 bytes
EXIT_PAUSED = 130
TRIES = 20


def counter(path):
    with open(path, "rb") as cow:
        cow.seek(COUNTER_OFFSET)
        return struct.unpack("<Q", cow.read(8))[0]


def check_reads(ctl, new):
    subprocess.run([ctl, "cow", "extract", "m.cow", "--base", "m.img", "-o",
                    "m.out", "--quiet", "--force"], check=True)
    assert filecmp.cmp("m.out", new, shallow=False), "reads differ"


def interrupted(ctl, new, number):
    """Whether the signal came before the end; all is well in either case."""
    merge = [ctl, "cow", "merge", "m.cow", "--base", "m.img", "--quiet"]
    begin = counter("m.cow")
    process = subprocess.Popen(merge, stderr=subprocess.DEVNULL)
    while process.poll() is None and counter("m.cow") == begin:
        os.sched_yield()
    process.send_signal(number)
    status = process.wait()
    if status == 0:
        return False
    expected = EXIT_PAUSED if number == signal.SIGINT else -number
    assert status == expected, "ended with %d, not %d" % (status, expected)
    assert counter("m.cow") > begin
    check_reads(ctl, new)
    return True


def main():
    ctl, cow, old, new = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGKILL):
        for _ in range(TRIES):
            shutil.copy(cow, "m.cow")
            shutil.copy(old, "m.img")
            if interrupted(ctl, new, number):
                break
        else:
            sys.exit("no merge of %d was slow enough" % TRIES)
        subprocess.run([ctl, "cow", "merge", "m.cow", "--base", "m.img",
                        "--quiet"], check=True)
        assert filecmp.cmp("m.img", new, shallow=False), "bases differ"
    for name in ("m.cow", "m.img", "m.out"):
        os.remove(name)


if __name__ == "__main__":
    main()

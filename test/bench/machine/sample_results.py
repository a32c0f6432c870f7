#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a run of tools/bench with figures that can be checked by head.

usage: sample_results.py FOLDER [FACTOR]

The raw device takes 10,000 instructions for an I/O, batch 25,000 times FACTOR, a
third of it in the daemon, with 3 system calls, 1 wake-up, 4 switches.
"""
import json
import os
import sys

IOS = 1000


def job(name, instructions):
    side = {"total_ios": IOS, "io_bytes": IOS * 4096,
            "runtime": IOS * instructions / 1e6}
    return {"jobname": name, "read": side,
            "write": {"total_ios": 0, "io_bytes": 0, "runtime": 0}}


def put(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a", encoding="ascii") as file:
        file.write(text)


def row(folder, part, name, instructions, pid=None):
    put(os.path.join(folder, "order"), f"{part} {name}\n")
    folder = os.path.join(folder, part, name)
    jobs = [job("rr4k1", instructions)]
    used = 0 if pid is None else IOS * instructions // 3
    put(os.path.join(folder, "rr4k1", "daemon_ns_before"), "500\n")
    put(os.path.join(folder, "rr4k1", "daemon_ns_after"), f"{500 + used}\n")
    put(os.path.join(folder, "anonymous_kib"), "" if pid is None else "321\n")
    if part == "transport":
        jobs.append(job("counted-rr4k1", instructions))
        put(os.path.join(folder, "rr4k1", "threads"), f"{pid or ''}\n")
        for file, key, each in (("calls", "common_pid", 3), ("wakes", "pid", 1),
                                ("switches", "next_pid", 2)):
            put(os.path.join(folder, "rr4k1", file), "# trigger info\n" + "".join(
                f"{{ {key}:        {thread} }} hitcount:      {each * IOS}\n"
                for thread in (77, 78)) + "\nTotals:\n    Hits: 1\n")
    if "merging" in name:
        put(os.path.join(folder, "rr4k1", "status_after"),
            '{"total_bytes": 4096, "merged_bytes": 4096}')
    put(os.path.join(folder, "fio.json"),
        "fio: a remark\n" + json.dumps({"jobs": jobs}))


def main():
    folder = sys.argv[1]
    factor = float(sys.argv[2]) if len(sys.argv) > 2 else 1
    for part in ("transport", "snapshot", "latency-100", "extents"):
        row(folder, part, "raw", 10_000)
    row(folder, "transport", "batch", int(25_000 * factor), 77)
    for name, instructions in (("fio", 2_000), ("ring", 6_000),
                               ("zero", 11_000), ("null", 17_000)):
        row(folder, "transport", name, instructions)
    row(folder, "snapshot", "ours-merging-rr4k1", 20_000, 77)
    row(folder, "latency-100", "batch", 12_500, 77)
    for extents in ("10", "1000"):
        row(folder, "extents", extents, 15_000)
    row(folder, "devices", "raw-1", 10_000)
    row(folder, "devices", "1", 30_000, 77)
    put(os.path.join(folder, "release"), "6.12-sample\n")


if __name__ == "__main__":
    main()

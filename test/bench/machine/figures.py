# SPDX-License-Identifier: Apache-2.0
"""What a run of tools/bench has left in its folder, as figures.

A run is a folder PART/ROW/..., as measure.sh describes it. A cell is one job on
one device. Instructions are in thousands, for an I/O; a guest's nanosecond is
one instruction.
"""
import json
import os
import re

HIST_LINE = re.compile(r"\{ \w+: +(\d+) \} hitcount: +(\d+)")


class Cell:
    """One job on one device."""

    def __init__(self, job, folder):
        side = max(job["read"], job["write"], key=lambda s: s["total_ios"])
        self.ios = side["total_ios"]
        self.iops = self.ios * 1e3 / side["runtime"]
        self.mib_s = side["io_bytes"] / 2**20 * 1e3 / side["runtime"]
        self.instructions = side["runtime"] * 1e3 / self.ios
        used = [read_number(os.path.join(folder, f"daemon_ns_{when}"))
                for when in ("before", "after")]
        self.daemon = (used[1] - used[0]) / 1e3 / self.ios
        # For an I/O; None where nothing was counted or nobody serves.
        self.switches = self.calls = self.wakes = self.idle = None
        # What was left of the merge when the job was over; None: no merge.
        self.left = None

    def count(self, job, folder):
        ios = max(job[side]["total_ios"] for side in ("read", "write"))
        with open(os.path.join(folder, "threads"), encoding="ascii") as file:
            threads = set(file.read().split())
        switches = read_hist(os.path.join(folder, "switches"))
        self.switches = sum(switches.values()) / ios
        self.idle = switches.get("0", 0) / ios
        if not threads:
            return
        calls, wakes = (read_hist(os.path.join(folder, name))
                        for name in ("calls", "wakes"))
        self.calls = sum(calls.get(thread, 0) for thread in threads) / ios
        self.wakes = sum(wakes.get(thread, 0) for thread in threads) / ios


def read_number(path):
    with open(path, encoding="ascii") as file:
        return int(file.read())


def read_hist(path):
    """thread -> hits."""
    with open(path, encoding="ascii") as file:
        return dict((pid, int(hits)) for pid, hits in
                    HIST_LINE.findall(file.read()))


def read_left(path):
    """What a merge still had to do, in what units ever; None: no merge."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if "snapshot-merge" in text:
        # Sectors allocated/in all, and those of the metadata.
        words = text.split()
        return int(words[3].split("/")[0]) - int(words[4])
    numbers = [re.search(rf'"{name}": *"?(\d+)', text) for name in
               ("total_bytes", "merged_bytes")]
    return int(numbers[0][1]) - int(numbers[1][1] if numbers[1] else 0)


class Row:
    def __init__(self):
        self.cells = {}
        self.anonymous_kib = None


def read_row(folder, name, rows):
    with open(os.path.join(folder, "fio.json"), encoding="utf-8") as file:
        # Commands that fio runs may have written in front of it.
        text = file.read()
    jobs = {job["jobname"]: job for job in
            json.loads(text[text.index("{"):])["jobs"]}
    for job in jobs:
        name = name.removesuffix("-" + job)
    row = rows.setdefault(name, Row())
    for job, found in jobs.items():
        if job.startswith("counted-") or job == "warm":
            continue
        cell = row.cells[job] = Cell(found, os.path.join(folder, job))
        cell.left = read_left(os.path.join(folder, job, "status_after"))
        if "counted-" + job in jobs:
            cell.count(jobs["counted-" + job], os.path.join(folder, job))
    with open(os.path.join(folder, "anonymous_kib"), encoding="ascii") as file:
        kib = [int(word) for word in file.read().split()]
    if kib:
        row.anonymous_kib = max(row.anonymous_kib or 0, sum(kib))


def read_run(folder):
    """part -> row -> Row, in the order they were measured."""
    parts = {}
    with open(os.path.join(folder, "order"), encoding="ascii") as file:
        for line in file:
            part, row = line.split()
            read_row(os.path.join(folder, part, row), row,
                     parts.setdefault(part, {}))
    return parts


def differences(runs):
    """(share, part, row, job) of each cell: how far the runs are apart, the
    largest first."""
    found = []
    for part, rows in runs[0].items():
        for name, row in rows.items():
            for job in row.cells:
                values = [run[part][name].cells[job].instructions
                          for run in runs if part in run]
                if len(values) < 2:
                    continue
                share = (max(values) - min(values)) / min(values)
                found.append((share, part, name, job))
    return sorted(found, reverse=True)

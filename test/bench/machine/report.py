#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tables and plot of what tools/bench has found on one kernel.

usage: report.py --command TEXT --commit TEXT [--out PATH] RUN...

Prints Markdown; --out also writes it to PATH.md, and PATH.svg. Figures are means
of the runs. Ends with 1 if two runs are further apart than they may be.
"""
import argparse
import os
import statistics
import sys
import time

import figures
import plot

APART_MAX = 0.02

JOBS = {
    "rr4k1": "4 KiB random read QD1", "rr4k8": "QD8",
    "rr4k32": "4 KiB random read QD32", "rr4k128": "QD128",
    "rw4k32": "4 KiB random write QD32",
    "sr128k8": "128 KiB sequential read QD8",
    "sw1m4": "1 MiB sequential write QD4", "boot": "like a boot, QD4"}
# What the project is to reach on Linux 6.12, above the raw device.
LIMITS = {"rr4k1": 12, "rr4k32": 5, "rw4k32": 5.5, "sr128k8": 32, "sw1m4": 190}
# Rows that say what no server can do without; not devices to compare.
LEAST = ("fio", "ring", "zero", "null")
OURS = {"ublk", "stream", "batch", "cached", "uring", "remap", "redirect"}


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head),
            *("| " + " | ".join(row) + " |" for row in rows), ""]


def short(value):
    if value is None:
        return "-"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.{2 if size < 10 else 1}f}"


class Report:
    def __init__(self, runs):
        self.runs = runs

    def rows(self, part):
        return self.runs[0][part]

    def jobs(self, part):
        return list(self.rows(part)["raw"].cells)

    def mean(self, part, row, job, name):
        values = [getattr(run[part][row].cells[job], name)
                  for run in self.runs if part in run]
        values = [value for value in values if value is not None]
        return statistics.mean(values) if values else None

    def above(self, part, row, job):
        return (self.mean(part, row, job, "instructions") -
                self.mean(part, "raw", job, "instructions"))

    def kib(self, part, row):
        found = self.rows(part)[row].anonymous_kib
        return "-" if found is None else f"{found:,}"

    def transport(self):
        part, jobs = "transport", self.jobs("transport")
        rows = []
        devices = [row for row in self.rows(part) if row not in LEAST]
        for row in devices:
            cells = []
            for job in jobs:
                whole, daemon = (self.mean(part, row, job, name) for name in
                                 ("instructions", "daemon"))
                serves = f"; {short(daemon)}" if daemon else ""
                cells.append(f"**{short(self.above(part, row, job))}** "
                             f"({short(whole)}{serves})" if row != "raw"
                             else f"({short(whole)})")
            rows.append([row, *cells])
        rows.append(["to reach, 6.12", *(f"≤ {LIMITS[job]}" for job in jobs)])
        counts = []
        for row in devices:
            counts.append([row, *(
                " / ".join(short(self.mean(part, row, job, name)) for name in
                           ("switches", "calls", "wakes")) for job in jobs),
                           self.kib(part, row)])
        names = [JOBS[job] for job in jobs]
        return ["## A RAM disk", "",
                "Thousand instructions for an I/O above the raw device (in "
                "all; of the daemon with its system calls).", "",
                *table(["device", *names], rows),
                "For an I/O: context switches / system calls of the daemon / "
                "its wake-ups; its anonymous memory.", "",
                *table(["device", *names, "KiB"], counts),
                *self.least(part, jobs)]

    def least(self, part, jobs):
        if not set(LEAST) <= set(self.rows(part)):
            return []
        zero = [self.above(part, "zero", job) for job in jobs]
        own = [self.mean(part, "ring", job, "instructions") -
               self.mean(part, "fio", job, "instructions") for job in jobs]
        null = [self.above(part, "null", job) for job in jobs]
        rows = [["a target without work (dm-zero)", *map(short, zero)],
                ["a process's own I/O, by io_uring with registered buffers",
                 *map(short, own)],
                ["**both: no message, copy or switch yet**",
                 *(f"**{short(a + b)}**" for a, b in zip(zero, own))],
                ["dmuserd without storage (`map --null`)", *map(short, null)],
                ["to reach, 6.12", *(f"≤ {LIMITS[job]}" for job in jobs)]]
        return ["What a server that does its I/O by itself cannot do without, "
                "above the raw device:", "",
                *table(["", *(JOBS[job] for job in jobs)], rows)]

    def snapshot(self, part):
        jobs, rows = self.jobs(part), []
        for row, found in self.rows(part).items():
            cells = []
            for job in jobs:
                share = (self.mean(part, row, job, "iops") /
                         self.mean(part, "raw", job, "iops"))
                text = (f"**{share:.2f}** "
                        f"({short(self.mean(part, row, job, 'instructions'))})")
                if found.cells[job].left is not None and any(
                        run[part][row].cells[job].left <= 0
                        for run in self.runs if part in run):
                    text += " merged before the end"
                cells.append(text)
            rows.append([row, *cells, self.kib(part, row)])
        latency_us = part.removeprefix("snapshot").removeprefix("-")
        on = f", on storage of {latency_us} us" if latency_us else ""
        return [f"## An update, not in place yet{on}", "",
                "I/Os in a time, as a share of the raw device's (thousand "
                "instructions for an I/O in all).", "",
                *table(["device", *(JOBS[job] for job in jobs), "KiB"], rows)]

    def latency(self, part):
        jobs = self.jobs(part)
        rows = []
        for row in self.rows(part):
            cells = []
            for job in jobs:
                iops = self.mean(part, row, job, "iops")
                share = iops / self.mean(part, "raw", job, "iops")
                cells.append(f"{iops / 1e3:.1f}" if row == "raw"
                             else f"**{share:.2f}** ({iops / 1e3:.1f})")
            rows.append([row, *cells])
        depths = ["QD" + job.removeprefix("rr4k") for job in jobs]
        latency_us = part.removeprefix("latency-")
        return [f"## A device that answers after {latency_us} us", "",
                "4 KiB random reads: share of the raw device's (thousand I/Os "
                "a second).", "", *table(["device", *depths], rows)]

    def growth(self, part, title, raw_of):
        """Rows named by a number: cost against that of the smallest."""
        job, = next(iter(self.rows(part).values())).cells
        rows, first = [], None
        for row in self.rows(part):
            if not row.isdigit() and part == "devices":
                continue
            cost = self.mean(part, row, job, "instructions")
            above = cost - self.mean(part, raw_of(row), job, "instructions")
            ratio = "-"
            if row.isdigit():
                first = first or cost
                ratio = f"{cost / first:.2f}"
            rows.append([f"{int(row):,}" if row.isdigit() else row,
                         short(cost), short(above), ratio, self.kib(part, row)])
        return [f"## {title}", "", f"{JOBS[job]}, thousand instructions.", "",
                *table(["", "in all", "above raw", "against the first",
                        "daemon, KiB"], rows)]

    def agreement(self):
        if len(self.runs) < 2:
            return ["One run only.", ""], True
        apart = figures.differences(self.runs)
        share, part, row, job = apart[0]
        bad = [cell for cell in apart if cell[0] > APART_MAX]
        text = (f"{len(self.runs)} runs; {len(apart)} figures, furthest apart "
                f"by {share:.1%}: {part} {row} {job}.")
        for share, part, row, job in bad[1:]:
            text += f" {part} {row} {job}: {share:.1%}."
        return [text, ""], not bad

    def text(self, command, commit, release):
        agreement, good = self.agreement()
        lines = [
            "# Devices, measured", "",
            f"`{command}` at {commit}, Linux {release}, "
            f"{time.strftime('%Y-%m-%d')}. QEMU counts the instructions of one "
            "processor; [machine/README.md](machine/README.md) says how to read "
            "them.", "", *agreement]
        for part in self.runs[0]:
            if part == "transport":
                lines += self.transport()
            elif part.startswith("snapshot"):
                lines += self.snapshot(part)
            elif part.startswith("latency-"):
                lines += self.latency(part)
            elif part == "extents":
                lines += self.growth(part, "Redirect, in so many extents",
                                     lambda row: "raw")
            elif part == "devices":
                lines += self.growth(part, "The daemon, with so many devices",
                                     lambda row: "raw-" + row)
        return "\n".join(lines).rstrip() + "\n", good

    def plot(self, release):
        part, panels = "transport", []
        for job in self.jobs(part):
            found = [(row, self.above(part, row, job), row in OURS)
                     for row in self.rows(part) if row not in ("raw", *LEAST)]
            panels.append((JOBS[job], found, LIMITS[job]))
        return plot.bars("Thousand instructions for an I/O above the raw "
                         f"device, Linux {release}; dashed: to reach", panels)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--command", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--out")
    parser.add_argument("run", nargs="+")
    options = parser.parse_args()
    with open(os.path.join(options.run[0], "release"),
              encoding="ascii") as file:
        release = file.read().strip()
    report = Report([figures.read_run(run) for run in options.run])
    text, good = report.text(options.command, options.commit, release)
    print(text)
    if options.out:
        with open(options.out + ".md", "w", encoding="utf-8") as file:
            file.write(text)
        if "transport" in report.runs[0]:
            with open(options.out + ".svg", "w", encoding="utf-8") as file:
                file.write(report.plot(release))
    if not good:
        sys.exit("report.py: two runs are further apart than "
                 f"{APART_MAX:.0%}")


if __name__ == "__main__":
    main()

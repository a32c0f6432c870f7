#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures the COW tools and prints a Markdown table.

usage: run.py DMUSERCTL COW_READ_BENCH PAIR_FOLDER RUNS [OUT.md]

PAIR_FOLDER: what make_pair.py made. Every figure is the median of RUNS runs,
with minimum and maximum; ratios are of figures of the same invocation. Files
are read once first: all is in the page cache.
"""
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time

OPS = 120_000


def child(command):
    """Runs it; seconds, peak MiB, its output."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    if status != 0:
        sys.exit(f"{' '.join(command)} ended with {status}")
    return seconds, usage.ru_maxrss / 1024, out


class Figure:
    def __init__(self, values):
        self.median = statistics.median(values)
        self.low, self.high = min(values), max(values)

    def text(self, digits):
        if self.low == self.high:
            return f"{self.median:,.{digits}f}"
        return (f"{self.median:,.{digits}f} "
                f"({self.low:,.{digits}f}-{self.high:,.{digits}f})")


def repeat(runs, measure):
    """measure() -> tuple of numbers; a Figure for each."""
    return [Figure(column) for column in zip(*(measure() for _ in range(runs)))]


class Bench:
    def __init__(self, ctl, reader, folder, runs):
        self.ctl, self.reader, self.folder, self.runs = (ctl, reader, folder,
                                                         runs)
        self.rows = []

    def path(self, name):
        return os.path.join(self.folder, name)

    def warm(self, *names):
        for name in names:
            with open(self.path(name), "rb") as file:
                while file.read(1 << 24):
                    pass

    def row(self, what, figure, against):
        self.rows.append(f"| {what} | {figure} | {against} |")

    def mb(self, name):
        return os.path.getsize(self.path(name)) / 1e6

    def create(self):
        self.warm("old.img", "new.img")
        new, out = self.path("new.img"), self.path("bench.cow")

        def create():
            seconds, peak, _ = child(
                [self.ctl, "cow", "create", self.path("old.img"), new, "-o",
                 out, "--force", "--quiet"])
            return seconds, peak

        def copy():
            return (child(["cp", new, self.path("copy.img")])[0],)

        def zstd():
            return (child(["zstd", "-q", "-f", "-T0", new, "-o",
                           self.path("new.zst")])[0],)
        seconds, peak = repeat(self.runs, create)
        (cp,), (zs,) = repeat(self.runs, copy), repeat(self.runs, zstd)
        size = os.path.getsize(out) / 1e6
        packed = os.path.getsize(self.path("new.zst")) / 1e6
        self.row("create, seconds", seconds.text(2),
                 f"{seconds.median / cp.median:.2f} x `cp` of the new image "
                 f"({cp.median:.2f} s), {seconds.median / zs.median:.2f} x "
                 f"`zstd -T0` of it ({zs.median:.2f} s)")
        self.row("create, peak MiB", peak.text(0), "")
        self.row("COW file, MB", f"{size:.1f}",
                 f"{size / self.mb('new.img'):.3f} x the new image, "
                 f"{size / packed:.2f} x that with `zstd`")
        os.remove(self.path("new.zst"))

    def extract(self):
        def extract():
            return child([self.ctl, "cow", "extract", self.path("bench.cow"),
                          "--base", self.path("old.img"), "-o",
                          self.path("out.img"), "--force", "--quiet"])[:2]

        def copy():
            begin = time.monotonic()
            child(["cp", self.path("new.img"), self.path("copy.img")])
            with open(self.path("copy.img"), "r+b") as file:
                os.fsync(file.fileno())
            return (time.monotonic() - begin,)
        seconds, peak = repeat(self.runs, extract)
        (cp,) = repeat(self.runs, copy)
        same = subprocess.run(["cmp", self.path("out.img"),
                               self.path("new.img")], check=False).returncode
        if same != 0:
            sys.exit("the extracted image is not the new one")
        self.row("extract, seconds", seconds.text(2),
                 f"{seconds.median / cp.median:.2f} x `cp` and fsync of the "
                 f"same bytes ({cp.median:.2f} s)")
        self.row("extract, peak MiB", peak.text(0), "")

    def reads(self, seconds):
        self.warm("old.img", "new.img", "bench.cow")

        def reads():
            found = json.loads(child(
                [self.reader, self.path("bench.cow"), self.path("old.img"),
                 self.path("new.img"), str(seconds)])[2])
            return found["view"], found["pread"], found["memcpy"]
        view, pread, memcpy = repeat(self.runs, reads)
        self.row("random 4 KiB reads of the view, thousand a second",
                 Figure([view.low / 1e3, view.median / 1e3,
                         view.high / 1e3]).text(0),
                 f"{view.median / pread.median:.2f} x `pread` of the new image "
                 f"({pread.median / 1e3:,.0f} k/s), "
                 f"{view.median / memcpy.median:.2f} x memcpy of it "
                 f"({memcpy.median / 1e3:,.0f} k/s)")

    def merge(self):
        old, base = self.path("merge-old.img"), self.path("base.img")
        child([self.ctl, "cow", "create", old, self.path("merge-new.img"),
               "-o", self.path("merge.cow"), "--force", "--quiet"])
        summaries = []

        def merge():
            shutil.copyfile(old, base)
            shutil.copyfile(self.path("merge.cow"), self.path("work.cow"))
            os.sync()
            seconds, peak, out = child(
                [self.ctl, "cow", "merge", self.path("work.cow"), "--base",
                 base, "--json", "--quiet"])
            summaries.append(json.loads(out))
            return seconds, peak

        def copy():
            shutil.copyfile(old, base)
            os.sync()
            begin = time.monotonic()
            child(["dd", "if=" + self.path("merge-new.img"), "of=" + base,
                   "bs=1M", "conv=notrunc,fdatasync", "status=none"])
            return (time.monotonic() - begin,)
        self.warm("merge-old.img", "merge-new.img")
        seconds, peak = repeat(self.runs, merge)
        if subprocess.run(["cmp", base, self.path("merge-new.img")],
                          check=False).returncode != 0:
            sys.exit("the merged base is not the new image")
        (cp,) = repeat(self.runs, copy)
        one = summaries[0]
        written = (one["base_bytes"] + one["cow_bytes"]) / one["base_bytes"]
        rate = Figure([one["base_bytes"] / 1e6 / value for value in
                       (seconds.low, seconds.median, seconds.high)])
        self.row(f"offline merge of {one['base_bytes'] / 1e6:.0f} MB, MB/s",
                 rate.text(0),
                 f"{cp.median / seconds.median:.2f} x `dd conv=fdatasync` of "
                 f"the new image onto the same file ({cp.median:.2f} s)")
        self.row("offline merge, bytes written per byte changed",
                 f"{written:.3f}",
                 f"{one['windows']} windows, {one['scratch_windows']} through "
                 f"scratch, {one['flushes']} flushes")
        self.row("offline merge, peak MiB", peak.text(0), "")

    def index(self):
        def index():
            found = json.loads(child([self.reader, "--index", str(OPS),
                                      self.path("index.cow")])[2])
            return (found["index_bytes"] / found["ops"],
                    found["peak_kib"] * 1024 / found["ops"], found["load_ms"])
        resident, peak, load = repeat(self.runs, index)
        self.row(f"index of {OPS:,} ops, bytes per op", resident.text(2),
                 f"peak while parsing, all of the process: "
                 f"{peak.text(1)} bytes per op")
        self.row(f"parsing {OPS:,} ops, ms", load.text(1), "")

    def table(self):
        with open("/proc/cpuinfo", encoding="ascii") as file:
            cpu = next((line.split(":")[1].strip() for line in file
                        if line.startswith("model name")), platform.machine())
        image = os.path.getsize(self.path("old.img")) >> 20
        return "\n".join([
            "# COW tools, measured", "",
            f"`tools/bench-cow`: pair of {image} MiB ext4 images, zstd, "
            f"{self.runs} runs, median (minimum-maximum).",
            f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}, "
            f"{time.strftime('%Y-%m-%d')}.", "",
            "| what | figure | against, in the same run |", "|---|---|---|",
            *self.rows, ""])


def main():
    ctl, reader, folder, runs = sys.argv[1:5]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    bench = Bench(os.path.abspath(ctl), os.path.abspath(reader), folder,
                  int(runs))
    bench.create()
    bench.extract()
    bench.reads(0.2 if int(runs) == 1 else 2)
    bench.merge()
    bench.index()
    table = bench.table()
    print(table)
    if len(sys.argv) > 5:
        with open(sys.argv[5], "w", encoding="utf-8") as file:
            file.write(table)


if __name__ == "__main__":
    main()

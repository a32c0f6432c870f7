#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the images that the COW benchmark works on.

usage: make_pair.py FOLDER MIB

FOLDER/old.img and new.img: two ext4 images of MIB MiB with files of this
machine's distribution; in the second one about a tenth of the bytes has changed
in the ways of an update: files recompiled (code moves, addresses change),
edited, appended to, replaced, renamed, removed, added.
FOLDER/merge-old.img and merge-new.img: the new image is the old one with pieces
moved, so that nearly all of it is copies that overwrite each other's sources.

The same files and arguments give the same images. Needs mkfs.ext4.
"""
import os
import random
import shutil
import subprocess
import sys

SOURCES = ["/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/perl",
           "/usr/lib/gcc", "/usr/lib/x86_64-linux-gnu", "/usr/share",
           "/usr/bin", "/usr/lib"]
FILE_BYTES_MAX = 24 << 20
STAMP = "1700000000"


def choose(budget):
    """Files worth `budget` bytes, none of the folders with more than a
    quarter."""
    chosen, seen, total = [], set(), 0
    for top in SOURCES:
        files = []
        for folder, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                if 0 < os.path.getsize(path) <= FILE_BYTES_MAX:
                    files.append(path)
        random.Random(top).shuffle(files)
        part = 0
        for path in files:
            # As a file system counts, with its inode.
            size = (os.path.getsize(path) + 4095) // 4096 * 4096 + 512
            if path in seen or part + size > budget // 4 \
                    or total + size > budget:
                continue
            seen.add(path)
            chosen.append(path)
            part += size
            total += size
    return sorted(chosen), total


class Update:
    """Changes files under `root` until `goal` bytes are not where they were."""

    def __init__(self, root, files, goal):
        self.root, self.files, self.goal = root, files, goal
        self.random = random.Random(7)
        self.changed = 0

    def text(self, count):
        """Bytes as they occur in files."""
        with open(self.random.choice(self.files), "rb") as file:
            data = file.read()
        begin = self.random.randrange(max(1, len(data) - count))
        return (data[begin:begin + count] + self.random.randbytes(count))[:count]

    def add_to_words(self, data, begin, end, step, value):
        """Addresses change as they do when code has moved by `value`."""
        at = begin
        while at + 4 < end:
            word = int.from_bytes(data[at:at + 4], "little") + value
            data[at:at + 4] = (word & 0xffffffff).to_bytes(4, "little")
            at += self.random.randrange(step // 12, step)

    def recompile(self, data):
        at = self.random.randrange(len(data) // 4, len(data) * 3 // 4) & ~15
        added = self.random.randrange(1, 60) * 16
        data[at:at] = self.text(added)
        self.add_to_words(data, at, len(data), 600, added)
        self.add_to_words(data, 0, at, 3000, added)
        return len(data)

    def insert(self, data):
        at = self.random.randrange(len(data))
        moved = len(data) - at
        for _ in range(self.random.randrange(1, 6)):
            data[at:at] = self.text(self.random.randrange(5, 400))
            at = self.random.randrange(at, len(data))
        return moved

    def edit(self, data):
        count = self.random.randrange(1, 10)
        for _ in range(count):
            length = min(self.random.randrange(3, 120), len(data) // 4)
            at = self.random.randrange(len(data) - length)
            data[at:at + length] = self.text(length)
        return min(count * 4096, len(data))

    def rewrite(self, data):
        length = min(len(data), 300_000)
        fresh = b""
        while len(fresh) < length:
            fresh += self.text(self.random.randrange(60, 2000))
        data[:length] = fresh
        return length

    def append(self, data):
        added = self.text(self.random.randrange(100, 20_000))
        data += added
        return len(added)

    def one(self, path):
        kind = self.random.random()
        path = self.root + path
        if kind < 0.08:
            os.remove(path)
            return
        if kind < 0.16:
            os.rename(path, path + ".renamed")
            return
        with open(path, "rb") as file:
            data = bytearray(file.read())
        if len(data) < 200:
            return
        if kind < 0.26:
            self.changed += self.append(data)
        elif kind < 0.36:
            data = data[:200_000]
            self.changed += self.rewrite(data)
            path += ".new"
        elif kind < 0.41:
            self.changed += self.rewrite(data)
        elif data[:4] == b"\x7fELF":
            self.changed += self.recompile(data)
        elif kind < 0.75:
            self.changed += self.insert(data)
        else:
            self.changed += self.edit(data)
        with open(path, "wb") as file:
            file.write(data)

    def run(self):
        order = list(self.files)
        self.random.shuffle(order)
        for path in order:
            if self.changed >= self.goal:
                break
            self.one(path)


def make_image(tree, image, mib):
    subprocess.run(f"find '{tree}' -print0 | xargs -0 touch -hd @{STAMP}",
                   shell=True, check=True)
    if os.path.exists(image):
        os.remove(image)
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    uuid = "11111111-2222-3333-4444-55555555555"
    subprocess.run(
        ["mkfs.ext4", "-q", "-d", tree, "-U", uuid + "5", "-b", "4096", "-m",
         "0", "-E", f"hash_seed={uuid}6,root_owner=0:0", image, f"{mib}M"],
        check=True, env=dict(os.environ, E2FSPROGS_FAKE_TIME=STAMP, PATH=path))


def make_moved(folder, mib):
    """Pieces of the old image at other places of the new one."""
    source = random.Random(3)
    old = os.path.join(folder, "old.img")
    merge_old = os.path.join(folder, "merge-old.img")
    merge_new = os.path.join(folder, "merge-new.img")
    # Without holes and zeros, so that every block is a block of its own.
    with open(old, "rb") as file, open(merge_old, "wb") as out:
        number = 0
        while True:
            block = file.read(4096)
            if not block:
                break
            out.write(number.to_bytes(8, "little") + block[8:])
            number += 1
    with open(merge_old, "rb") as file:
        data = file.read()
    new, at = bytearray(), 0
    blocks = mib * 256
    shift = 700
    while at < blocks:
        length = min(source.randrange(2000, 9000), blocks - at)
        # Content that was `shift` blocks away, up or down.
        begin = max(0, min(blocks - length, at - shift))
        new += data[begin * 4096:(begin + length) * 4096]
        at += length
        if source.random() < 0.2:
            shift = source.choice([-1, 1]) * source.randrange(600, 3000)
    with open(merge_new, "wb") as out:
        out.write(new)


def main():
    folder, mib = sys.argv[1], int(sys.argv[2])
    os.makedirs(folder, exist_ok=True)
    files, total = choose((mib << 20) * 3 // 4)
    trees = [os.path.join(folder, name) for name in ("old", "new")]
    for tree in trees:
        shutil.rmtree(tree, ignore_errors=True)
    for path in files:
        to = trees[0] + path
        os.makedirs(os.path.dirname(to), exist_ok=True)
        shutil.copyfile(path, to)
    shutil.copytree(trees[0], trees[1])
    Update(trees[1], files, total // 10).run()
    for tree in trees:
        make_image(tree, tree + ".img", mib)
        shutil.rmtree(tree)
    make_moved(folder, mib)


if __name__ == "__main__":
    main()

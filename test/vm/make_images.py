#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two raw images whose delta has every shape a merge must survive.

usage: make_images.py OLD NEW MIB

Deterministic. The new image has regions shifted by one block up and down (long
chains that overlap themselves, so that windows go through scratch), two regions
that swap places (a cycle), blocks that change a little (xors), single blocks
scattered, zeros, and fresh data both compressible and not.
"""
import random
import sys

BLOCK = 4096


def main():
    old_path, new_path, mib = sys.argv[1], sys.argv[2], int(sys.argv[3])
    count = mib * 256
    source = random.Random(20240607)
    old = [source.randbytes(BLOCK) for _ in range(count)]
    for i in range(0, count, 37):
        old[i] = bytes(BLOCK)
    new = list(old)
    part = count // 16

    def region(index):
        return index * part, (index + 1) * part

    first, end = region(1)  # everything one block down: copies read ahead
    new[first:end - 1] = old[first + 1:end]
    first, end = region(3)  # one block up: copies read behind
    new[first + 1:end] = old[first:end - 1]
    a, b = region(5), region(6)  # two regions swap places
    new[a[0]:a[1]], new[b[0]:b[1]] = old[b[0]:b[1]], old[a[0]:a[1]]
    first, end = region(7)  # a few bytes of each block: xors read what they write
    for i in range(first, end, 2):
        new[i] = old[i][:100] + source.randbytes(8) + old[i][108:]
    first, end = region(8)  # far move, shifted by 100 blocks
    new[first + 100:end] = old[first:end - 100]
    first, end = region(10)
    for i in range(first, end, 3):
        new[i] = source.randbytes(BLOCK)
    first, end = region(12)
    for i in range(first, end):
        new[i] = (b"line %08d of a text that compresses\n" % i * 128)[:BLOCK]
    first, end = region(14)
    for i in range(first, end):
        new[i] = bytes(BLOCK)
    first, end = region(15)  # single blocks from all over the old image
    for i in range(first, end, 2):
        new[i] = old[source.randrange(count)]

    for path, blocks in ((old_path, old), (new_path, new)):
        with open(path, "wb") as out:
            out.write(b"".join(blocks))


if __name__ == "__main__":
    main()

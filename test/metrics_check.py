#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Parses the text format of Prometheus more strictly than its readers do.

Reads standard input; ends with a sentence and status 1 at the first breach.
Prints every sample as a line of JSON: name, labels, value.

Beside the format's own rules: each family has HELP and TYPE, once, before its
samples, which are together; no sample twice; no timestamps; names with the
prefix dmuserd_ and base units; counters end with _total and nothing else does;
histograms rise to +Inf, which is their count.
"""
import json
import math
import re
import sys

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")
TYPES = ("counter", "gauge", "histogram")
OTHER_UNITS = ("_ms", "_us", "_kib", "_kb", "_percent", "_sectors", "_blocks")


def fail(number, line, why):
    sys.exit(f"line {number}: {why}: {line!r}")


def value_of(text):
    if text == "+Inf":
        return math.inf
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?", text):
        return None
    return float(text)


def unescape(text):
    return re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), text)


def check_family(name, kind, samples):
    if (kind == "counter") != name.endswith("_total"):
        sys.exit(f"{name}: a {kind} by the name of another type")
    if name.endswith(OTHER_UNITS) or not name.startswith("dmuserd_"):
        sys.exit(f"{name}: prefix or unit")
    if not samples:
        sys.exit(f"{name}: a family without a sample")
    if kind != "histogram":
        return
    series = {}
    for sample, labels, value in samples:
        rest = {key: text for key, text in labels.items() if key != "le"}
        one = series.setdefault(json.dumps(rest, sort_keys=True), {})
        part = sample[len(name):]
        if (part == "_bucket") != ("le" in labels):
            sys.exit(f"{sample}: le belongs to buckets")
        if part == "_bucket":
            limit = value_of(labels["le"])
            if limit is None:
                sys.exit(f"{sample}: le is no number: {labels}")
            one.setdefault("buckets", []).append((limit, value))
        else:
            one[part] = value
    for labels, one in series.items():
        buckets = one.get("buckets", [])
        limits = [limit for limit, _ in buckets]
        counts = [count for _, count in buckets]
        if limits != sorted(set(limits)) or counts != sorted(counts):
            sys.exit(f"{name}{labels}: buckets do not rise: {buckets}")
        if not buckets or limits[-1] != math.inf:
            sys.exit(f"{name}{labels}: no bucket +Inf")
        if counts[-1] != one.get("_count") or "_sum" not in one:
            sys.exit(f"{name}{labels}: count and sum: {one}")


def main():
    text = sys.stdin.read()
    if not text.endswith("\n"):
        sys.exit("the last line has no end")
    families, seen = {}, set()
    name = kind = None
    samples = []
    for number, line in enumerate(text[:-1].split("\n"), 1):
        if line.startswith("# HELP "):
            match = re.fullmatch(rf"# HELP ({NAME}) \S.*", line)
            if not match or match[1] in families:
                fail(number, line, "help")
            if name:
                check_family(name, kind, samples)
            name, kind, samples = match[1], None, []
            families[name] = samples
        elif line.startswith("# TYPE "):
            match = re.fullmatch(rf"# TYPE ({NAME}) (\w+)", line)
            if not match or match[1] != name or kind or match[2] not in TYPES:
                fail(number, line, "type")
            kind = match[2]
        else:
            match = SAMPLE.fullmatch(line)
            if not match or not kind:
                fail(number, line, "sample")
            suffixes = ("_bucket", "_sum", "_count")
            own = {name} if kind != "histogram" else {name + s for s in suffixes}
            if match[1] not in own:
                fail(number, line, f"not of the family {name}")
            pairs = re.findall(LABEL, match[2] or "")
            labels = {key: unescape(value) for key, value in pairs}
            value = value_of(match[match.lastindex])
            key = (match[1], json.dumps(labels, sort_keys=True))
            if len(labels) != len(pairs) or value is None or key in seen:
                fail(number, line, "labels, value, or twice")
            seen.add(key)
            samples.append((match[1], labels, value))
            print(json.dumps([match[1], labels, value]))
    if not name:
        sys.exit("no family at all")
    check_family(name, kind, samples)


main()

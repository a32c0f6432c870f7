#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what a run of `bazel test` did.

usage: count_tests.py LOG TESTLOGS STATUS

LOG is Bazel's output, TESTLOGS its folder of reports, STATUS its exit status.
A GoogleTest target counts by its cases, any other target as one; a target that
did not build, timed out or died counts as one that failed. Prints of each failed
target the cases that did not end well and the end of its log, a line for each
target that did not pass and, last, "N passed, N failed". Exit status: 0 only if
all passed.
"""
import os
import re
import sys
import xml.etree.ElementTree

LOG_LINES = 40
CASE_LINES = 25
CASES_SHOWN = 4

# GoogleTest colours what it prints to a guest's console.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

SUMMARY = re.compile(
    r"^(//\S+)\s+(?:\(cached\) )?(PASSED|FAILED TO BUILD|FAILED|TIMEOUT|"
    r"FLAKY|NO STATUS|INCOMPLETE)\b(.*)")


def cases(testlogs, target):
    """(passed, failed) from a target's report, or None without cases."""
    folder = os.path.join(testlogs, target[2:].replace(":", "/"))
    passed = failed = 0
    for root, _, files in os.walk(folder):
        if "test.xml" not in files:
            continue
        try:
            tree = xml.etree.ElementTree.parse(os.path.join(root, "test.xml"))
        except xml.etree.ElementTree.ParseError:
            return None
        for case in tree.iter("testcase"):
            # Bazel's own stand-in for programs that write no report.
            if case.get("classname") is None:
                return None
            # A case that did not run proves nothing: it does not count as
            # passed.
            if (case.find("failure") is not None or
                    case.find("error") is not None or
                    case.find("skipped") is not None or
                    case.get("result") in ("skipped", "suppressed") or
                    case.get("status") == "notrun"):
                failed += 1
            else:
                passed += 1
    return (passed, failed) if passed + failed else None


def bad_cases(lines):
    """Of each case of a GoogleTest log that began and did not pass, its lines."""
    bad, case = [], None
    for line in lines:
        if line.startswith("[ RUN      ]"):
            if case:
                bad.append(case)
            case = []
        if case is not None:
            case.append(line)
        if line.startswith("[       OK ]"):
            case = None
        elif line.startswith("[  FAILED  ]") and case:
            bad.append(case)
            case = None
    return bad + ([case] if case else [])


def print_log(testlogs, target):
    """What went wrong, as far as a target's log shows it."""
    path = os.path.join(testlogs, target[2:].replace(":", "/"), "test.log")
    try:
        with open(path, errors="replace") as log:
            lines = [COLOUR.sub("", line.rstrip()) for line in log]
    except OSError:
        return
    for case in bad_cases(lines)[:CASES_SHOWN]:
        print(f"FAIL: {target}, a case:")
        for line in case[:CASE_LINES]:
            print("  | " + line)
    print(f"FAIL: {target} ended with:")
    for line in lines[-LOG_LINES:]:
        print("  | " + line)


def main():
    log, testlogs, status = sys.argv[1], sys.argv[2], int(sys.argv[3])
    results = {}
    with open(log, errors="replace") as lines:
        for line in lines:
            match = SUMMARY.match(line)
            if match:
                results[match.group(1)] = (match.group(2), match.group(3))
    for target, (verdict, _) in sorted(results.items()):
        if verdict in ("FAILED", "TIMEOUT", "FLAKY"):
            print_log(testlogs, target)
    passed = failed = 0
    for target, (verdict, rest) in sorted(results.items()):
        counted = cases(testlogs, target) if verdict in ("PASSED",
                                                         "FAILED") else None
        good, bad = counted or ((1, 0) if verdict == "PASSED" else (0, 1))
        # A report that shows no failure does not make a failed target good.
        if verdict != "PASSED" and bad == 0:
            bad = 1
        passed += good
        failed += bad
        if verdict != "PASSED" or bad:
            print(f"{verdict:8} {target:40} {good} passed, {bad} failed{rest}")
    if status != 0 and failed == 0:
        print("bazel test ended with status %d: see its output above" % status)
        failed = 1
    print(f"{passed} passed, {failed} failed")
    sys.exit(0 if failed == 0 and passed > 0 else 1)


if __name__ == "__main__":
    main()

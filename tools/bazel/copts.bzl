# SPDX-License-Identifier: Apache-2.0
"""Compiler options, in one place."""

_WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Werror",
]

# Libraries and the daemon: no exceptions, no silent narrowing.
DMU_COPTS = _WARNINGS + [
    "-Wconversion",
    "-Wno-sign-conversion",
    "-fno-exceptions",
]

# Tools may link libraries that throw.
DMU_TOOL_COPTS = _WARNINGS + [
    "-Wconversion",
    "-Wno-sign-conversion",
]

DMU_TEST_COPTS = _WARNINGS + [
    # Test tables name the fields they are about.
    "-Wno-missing-field-initializers",
]

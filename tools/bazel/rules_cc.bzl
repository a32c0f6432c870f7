# SPDX-License-Identifier: Apache-2.0
"""The names Bazel's own tool packages load from @rules_cc.

Bazel 4.2 would download rules_cc for them; the rules themselves are native.
"""

_NATIVE = [
    "cc_binary",
    "cc_import",
    "cc_library",
    "cc_test",
    "cc_toolchain",
    "cc_toolchain_suite",
    "fdo_prefetch_hints",
    "fdo_profile",
    "objc_import",
    "objc_library",
]

RULES_CC_DEFS = "\n".join(
    ["%s = native.%s" % (name, name) for name in _NATIVE] +
    ["cc_flags_supplier = None", "compiler_flag = None", ""],
)

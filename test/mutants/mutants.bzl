# SPDX-License-Identifier: Apache-2.0
"""A test that a merge engine with a deliberate mistake is caught."""

load("//tools/bazel:copts.bzl", "DMU_COPTS")

def mutant_test(name, sources):
    """The hunt for the mutant `name` of mutate.py.

    Args:
      name: of the mutant; the test is NAME_test.
      sources: what of daemon/merge it changes. The mutated sources stand before
        the library in the link, which then takes nothing from their originals.
    """
    mutated = []
    for source in sources:
        out = name + "/" + source
        mutated.append(out)
        native.genrule(
            name = name + "_" + source.replace(".", "_"),
            testonly = True,
            srcs = ["mutate.py", "//daemon/merge:" + source],
            outs = [out],
            cmd = "python3 $(execpath mutate.py) %s $(execpath //daemon/merge:%s) $@" %
                  (name, source),
        )
    native.cc_test(
        name = name + "_test",
        size = "small",
        srcs = mutated,
        args = ["caught"],
        copts = DMU_COPTS,
        tags = ["mutant"],
        deps = [":hunt"],
    )

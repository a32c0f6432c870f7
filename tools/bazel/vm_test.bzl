# SPDX-License-Identifier: Apache-2.0
"""Tests that run in a virtual machine, by tools/vm."""

# Seconds of Bazel's limits, less what starting and judging a machine takes.
_LIMITS = {
    "short": 50,
    "moderate": 280,
    "long": 870,
    "eternal": 3500,
}

def vm_test(
        name,
        script,
        kernel = "6.1",
        args = [],
        bins = [],
        data = [],
        disks = [],
        disks_mib = [],
        mem = 0,
        smp = 1,
        module = "load",
        with_fio = False,
        boot = False,
        count = False,
        timeout = "moderate",
        tags = []):
    """A guest script under a Debian kernel with dm-user.ko.

    A GoogleTest program in the guest that is given
    `--gtest_output=xml:/mnt/share/test.xml` has its cases counted.

    Args:
      name: the test's name.
      script: bash script that runs as root in the guest, in the folder /vm.
      kernel: "6.1", "6.12", "sid" or "debug".
      args: arguments of the script, without blanks.
      bins: programs to put into the guest's PATH.
      data: files to put into /vm, under their base names.
      disks: images whose copies are /dev/vda and so on, writable.
      disks_mib: sizes of empty disks that follow those of `disks`.
      mem: memory in MiB; 0 is what tools/vm gives that kernel.
      smp: number of virtual CPUs.
      module: "load" dm-user.ko, have it "present" in /vm, or "none".
      with_fio: whether the script needs fio.
      boot: whether a whole Debian boots and systemd runs the script; dm-user.ko
        is in /vm then.
      count: whether its time is a count of instructions, the same in each run.
      timeout: Bazel's limit; the machine's own is a little shorter.
      tags: more tags than those every such test has.
    """
    flags = ["--boot"] if boot else []
    flags += ["--kernel", kernel, "--smp", str(smp)]
    if mem:
        flags += ["--mem", str(mem)]
    flags += ["--timeout", str(_LIMITS[timeout])]
    for label in bins:
        flags += ["--bin", "$(rootpath %s)" % label]
    for label in data:
        flags += ["--add", "$(rootpath %s)" % label]
    for label in disks:
        flags += ["--disk-copy", "$(rootpath %s)" % label]
    for size in disks_mib:
        flags += ["--disk-mib", str(size)]
    if with_fio:
        flags.append("--with-fio")
    if count:
        flags.append("--count")
    if module == "none":
        flags.append("--no-module")
    elif module == "present":
        flags.append("--no-load")
    elif module != "load":
        fail("module = %s: expected load, present or none" % repr(module))
    inputs = [script, "//tools:vm_files", "//dm-user:module_sources"]
    for label in bins + data + disks:
        if label not in inputs:
            inputs.append(label)
    native.sh_test(
        name = name,
        srcs = ["//tools/bazel:vm_test.sh"],
        args = flags + ["$(rootpath %s)" % script] + args,
        data = inputs,
        # QEMU needs the cache of kernels and builds outside of any sandbox.
        tags = ["vm", "no-sandbox", "local"] + tags,
        timeout = timeout,
    )

# SPDX-License-Identifier: Apache-2.0
"""Outside dependencies: the distribution's libraries, found by pkg-config.

Nothing is downloaded. Every repository here is a set of compiler and linker
flags under our own name, so BUILD files do not know where a library comes from.
"""

def _pkg_config(ctx, options, modules, package):
    result = ctx.execute(["pkg-config"] + options + modules)
    if result.return_code != 0:
        fail("pkg-config does not know %s: run tools/setup, or install the " %
             " ".join(modules) + "Debian package " + package + "\n" +
             result.stderr)
    return [word for word in result.stdout.strip().split(" ") if word]

def _system_library_impl(ctx):
    lines = ["package(default_visibility = [\"//visibility:public\"])"]
    for name, spec in ctx.attr.targets.items():
        if spec.startswith("-l"):
            lines.append("cc_library(name = \"%s\", linkopts = [\"%s\"])" %
                         (name, spec))
            continue
        modules = spec.split(" ")
        copts = _pkg_config(ctx, ["--cflags"], modules, ctx.attr.package)
        copts = [c for c in copts if not c.startswith("-std=")]
        # With what a static link needs beside them; a dynamic one drops it.
        wanted = ["--libs", "--static"] if ctx.attr.static else ["--libs"]
        libs = _pkg_config(ctx, wanted, modules, ctx.attr.package)
        defines = [c[2:] for c in copts if c.startswith("-D")]
        includes = [c for c in copts if c.startswith("-I") and c != "-I/usr/include"]
        if includes:
            fail("%s wants %s; only libraries of the standard include path " %
                 (name, includes) + "are supported")
        lines.append("""
cc_library(
    name = "{name}",
    defines = {defines},
    linkopts = {linkopts},
)""".format(
            name = name,
            defines = repr(defines),
            linkopts = repr(
                ["-Wl,--as-needed", "-Wl,--start-group"] + libs +
                ["-Wl,--end-group"],
            ),
        ))
    ctx.file("WORKSPACE", "workspace(name = \"%s\")\n" % ctx.name)
    ctx.file("BUILD.bazel", "\n".join(lines) + "\n")

system_library = repository_rule(
    implementation = _system_library_impl,
    attrs = {
        "targets": attr.string_dict(
            mandatory = True,
            doc = "target name -> pkg-config modules, separated by a space; " +
                  "or -lNAME of a library that pkg-config does not know",
        ),
        "static": attr.bool(
            doc = "whether the daemon, which is linked statically, uses it",
        ),
        "package": attr.string(
            mandatory = True,
            doc = "Debian package to name when it is missing",
        ),
    },
    local = True,
)

def _empty_repository_impl(ctx):
    ctx.file("WORKSPACE", "workspace(name = \"%s\")\n" % ctx.name)
    for path, content in ctx.attr.files.items():
        ctx.file(path, content)
    for path in ctx.attr.executables:
        ctx.file(path, "#!/bin/sh\nexit 1\n", executable = True)

inline_repository = repository_rule(
    implementation = _empty_repository_impl,
    attrs = {
        "files": attr.string_dict(doc = "path -> content"),
        "executables": attr.string_list(doc = "programs that only fail"),
    },
    doc = "A repository whose files are written down in the WORKSPACE.",
)

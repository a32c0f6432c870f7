# SPDX-License-Identifier: Apache-2.0
"""C++ from .proto files, by the system's protoc."""

def dmu_cc_proto(name, srcs, lite, visibility = None):
    """One cc_library for a set of .proto files that may import each other.

    Args:
      name: the library; headers are included as "proto/x.pb.h".
      srcs: .proto files of this package.
      lite: generate for protobuf-lite (the daemon) or the full runtime (the
        tools). Both declare the same symbols: never link both into one binary.
      visibility: as usual.
    """
    package = native.package_name()
    directory = name + "_gen"
    outs = []
    for src in srcs:
        stem = src[:-len(".proto")]
        outs += [
            "%s/%s/%s.pb.h" % (directory, package, stem),
            "%s/%s/%s.pb.cc" % (directory, package, stem),
        ]
    native.genrule(
        name = directory,
        srcs = srcs,
        outs = outs,
        cmd = "protoc --proto_path=. --cpp_out=%s$(RULEDIR)/%s $(SRCS)" % (
            "lite:" if lite else "",
            directory,
        ),
    )
    native.cc_library(
        name = name,
        srcs = [out for out in outs if out.endswith(".cc")],
        hdrs = [out for out in outs if out.endswith(".h")],
        includes = [directory],
        visibility = visibility,
        deps = ["@protobuf//:lite" if lite else "@protobuf//:full"],
    )

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The debug kernel, which Debian has not: a small one with KASAN, lockdep,
# kmemleak and fault injection (debug-kernel.config), built from Debian's
# linux-source. Its tools are unpacked beside it, so root is not needed. What is
# kept has the shape of the kernels that are fetched. Sourced by tools/kernels.

readonly DEBUG_SERIES=6.12
# Debian's programs the build needs and tools/setup does not install.
readonly DEBUG_TOOLS=(bc bison flex libelf-dev m4)
# Sources of drivers that the configuration cannot have, a third of all. Their
# Kconfig and Makefiles are read all the same.
readonly DEBUG_LEFT_OUT=(
  '*/Documentation/*.rst' '*/Documentation/*.yaml' '*/drivers/gpu/*.[ch]'
  '*/drivers/net/*/*.[ch]' '*/drivers/media/*.[ch]' '*/sound/*.[ch]'
)

# What is built, for the kernel's name: it changes with the configuration and
# with this file.
debug_recipe() {
  cat lib/debug-kernel.config lib/debug-kernel.sh | sha256sum | cut -c 1-8
}

# debug_make ARGUMENTS...: make in the source tree, with the unpacked tools.
# The kernel's objtool is linked so that it runs without them.
debug_make() {
  local tools=$work/tools/usr
  PATH=$tools/bin:$PATH BISON_PKGDATADIR=$tools/share/bison M4=$tools/bin/m4 \
    KBUILD_BUILD_TIMESTAMP=@0 KBUILD_BUILD_USER=dm-user \
    KBUILD_BUILD_HOST=debug \
    make -s -C "$work/source" LOCALVERSION="-debug-$recipe" \
    LIBELF_FLAGS="-I$tools/include" \
    LIBELF_LIBS="$tools/lib/x86_64-linux-gnu/libelf.a -lz" "$@"
}

# check_debug_config: every line of the configuration has been accepted. Kconfig
# drops one silently when something it depends on is not there.
check_debug_config() {
  local line lost=()
  while read -r line; do
    grep -qxF "$line" "$work/source/.config" || lost+=("$line")
  done < <(grep '^CONFIG_' lib/debug-kernel.config)
  ((${#lost[@]} == 0)) ||
    die "$EX_SOFTWARE" "this kernel does not have ${lost[*]}"
}

# unpack_debug_sources: sources and tools into $work.
unpack_debug_sources() {
  local deb
  mkdir -p "$work"/{debs,tools,source}
  (cd "$work/debs" && apt-get -q download "${DEBUG_TOOLS[@]}" >&2)
  for deb in "$work"/debs/*.deb; do
    dpkg-deb -x "$deb" "$work/tools"
    rm "$deb"
  done
  (cd "$work/debs" && apt-get -q download "linux-source-$DEBUG_SERIES" >&2)
  dpkg-deb --fsys-tarfile "$work"/debs/*.deb |
    tar -xO "./usr/src/linux-source-$DEBUG_SERIES.tar.xz" |
    tar -xJ -C "$work/source" --strip-components=1 \
      "${DEBUG_LEFT_OUT[@]/#/--exclude=}"
  rm -r "$work/debs"
}

# install_debug FOLDER RELEASE: image, modules, and what modules are built with.
install_debug() {
  local folder=$1 release=$2 headers
  headers=$folder/usr/src/linux-headers-$release
  mkdir -p "$folder/boot" "$headers"
  cp "$work/source/arch/x86/boot/bzImage" "$folder/boot/vmlinuz-$release"
  cp "$work/source/.config" "$folder/boot/config-$release"
  # Without an index, as packages come: tools/vm makes its own.
  debug_make modules_install INSTALL_MOD_PATH="$folder" DEPMOD=true >&2
  rm -f "$folder/lib/modules/$release"/{build,source}
  debug_make run-command \
    KBUILD_RUN_COMMAND="scripts/package/install-extmod-build $headers" >&2
  printf '%s\n' "$release" >"$folder/RELEASE"
}

# build_debug: the debug kernel of this recipe, unless it is there.
build_debug() {
  local recipe work release began=$SECONDS final
  recipe=$(debug_recipe)
  rm -rf "$KERNELS"/.build.*
  work=$(mktemp -d "$KERNELS/.build.XXXXXX")
  unpack_debug_sources
  debug_make KCONFIG_ALLCONFIG="$PWD/lib/debug-kernel.config" allnoconfig >&2
  check_debug_config
  release=$(debug_make kernelrelease)
  final=$KERNELS/$release
  if [[ ! -d $final ]]; then
    say "building Linux $release on $(nproc) processors: once, some minutes"
    debug_make -j "$(nproc)" bzImage modules >&2 ||
      die "$EX_SOFTWARE" "Linux $release does not build; see above"
    install_debug "$work/kernel" "$release"
    chmod 755 "$work/kernel"
    mv -T "$work/kernel" "$final"
    say "Linux $release took $((SECONDS - began)) s"
  fi
  rm -rf "$work"
  ln -sfnT "$release" "$KERNELS/.debug.new"
  mv -T "$KERNELS/.debug.new" "$KERNELS/debug"
}

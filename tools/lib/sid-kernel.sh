# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Debian sid's kernel: the newest there is, to see early what changes under the
# module. Its packages are cut otherwise than those of Debian 12, and what
# builds modules for it, sid's own compiler, wants a newer C library than the
# host has: all of it is unpacked beside the kernel and made to use the libraries
# unpacked with it. Sourced by tools/kernels after apt.sh.

# sid_tools PACKAGE...: the packages and what their programs run with. pahole
# is left out: modules are built without BTF.
sid_tools() {
  apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts \
    --no-breaks --no-replaces --no-enhances "$@" |
    grep -xE '(binutils|cpp|gcc|lib|linux-kbuild|zlib1g)[-a-z0-9.+]*' |
    grep -vE '^lib(a|hwa|l|t|ub)san|^libdw' | sort -u
}

# adapt_programs FOLDER FINAL: has the ELF programs of FOLDER, which will be
# FINAL, load FINAL's C library.
adapt_programs() {
  local folder=$1 final=$2 path
  while read -r path; do
    if [[ $(od -An -tx1 -N4 "$path" | tr -d ' ') == 7f454c46 ]]; then
      patchelf --set-interpreter "$final/usr/lib64/ld-linux-x86-64.so.2" \
        --force-rpath --set-rpath "$final/usr/lib/x86_64-linux-gnu" "$path" ||
        die "$EX_SOFTWARE" "cannot adapt $path; see above"
    fi
  done < <(find "$folder/usr/bin" "$folder/usr/libexec" \
    "$folder"/usr/lib/linux-kbuild-* -type f -perm -1 \
    ! -name '*.so')
}

# fetch_sid: the newest kernel, unless it is there.
fetch_sid() {
  local release image headers common kbuild gcc tmp final packages
  image=$(package_dependency linux-image-amd64 'linux-image-[0-9].*-amd64')
  headers=$(package_dependency linux-headers-amd64 \
    'linux-headers-[0-9].*-amd64')
  [[ -n $image && ${image#linux-image-} == "${headers#linux-headers-}" ]] ||
    die "$EX_UNAVAILABLE" "the mirror is being updated: '$image' and" \
      "'$headers' differ; try again later"
  release=${image#linux-image-}
  final=$KERNELS/$release
  kernel_builds "$release" || rm -rf "$final"
  if [[ ! -d $final ]]; then
    say "fetching Linux $release and its compiler"
    common=$(package_dependency "$headers" 'linux-headers-.*-common')
    kbuild=$(package_dependency "$headers" 'linux-kbuild-.*')
    gcc=$(package_dependency "$headers" 'gcc-[0-9]+(-for-host|-x86-64.*)?')
    [[ -n $common && -n $kbuild && -n $gcc ]] ||
      die "$EX_UNAVAILABLE" "$headers names no common headers, kbuild or" \
        "compiler package; the mirror may be in the middle of an update"
    gcc=$(grep -oE '^gcc-[0-9]+' <<<"$gcc")-x86-64-linux-gnu
    mapfile -t packages < <(sid_tools "$kbuild" "$gcc")
    tmp=$(mktemp -d "$KERNELS/.fetch.XXXXXX")
    download "$tmp" "$headers" "$common" "linux-binary-$release" \
      "linux-modules-$release" "linux-base-$release" "${packages[@]}"
    # Link-time optimisation is two thirds of the compiler, and not used.
    rm -f "$tmp"/usr/bin/*lto* "$tmp"/usr/libexec/gcc/*/*/lto1
    relocate_headers "$tmp" "$final" "$release"
    adapt_programs "$tmp" "$final"
    # As the packages of Debian 12 are laid out.
    mkdir "$tmp/boot"
    ln -s "../usr/lib/modules/$release/vmlinuz" "$tmp/boot/vmlinuz-$release"
    ln -s usr/lib "$tmp/lib"
    printf '%s\n' "$release" >"$tmp/RELEASE"
    chmod 755 "$tmp"
    mv -T "$tmp" "$final"
  fi
  ln -sfnT "$release" "$KERNELS/.sid.new"
  mv -T "$KERNELS/.sid.new" "$KERNELS/sid"
}

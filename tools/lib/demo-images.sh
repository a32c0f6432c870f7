# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# demo-images.sh - two ext4 images of real file trees: a Debian 12 system part
# before and after an upgrade. Sourced by tools/demo, after common.sh and apt.sh.
#
# Old: packages of bookworm. New: the same from bookworm-backports, one package
# removed, one added, one directory moved. Everything is cached; a second call
# finds the images and does nothing. Needs no root: the trees are unpacked with
# dpkg -x and the images filled by mke2fs -d.

# In both trees; the new tree takes those of the second line from backports.
DEMO_SAME=(golang-1.19-src vim-runtime)
DEMO_UPGRADED=(cmake cmake-data systemd udev qemu-utils linux-perf iproute2)
DEMO_REMOVED=(meson)
DEMO_ADDED=(bpftool)
DEMO_IMAGE_MIB=384
# Part of the cache key: raise when the recipe changes.
DEMO_RECIPE=1

# demo_unpack TREE SUITE PACKAGE... - downloads and unpacks.
demo_unpack() {
  local tree=$1 suite=$2 debs deb
  shift 2
  debs=$(mktemp -d "$tree.debs.XXXXXX")
  (cd "$debs" && apt-get -q download "${@/%//$suite}" >&2)
  for deb in "$debs"/*.deb; do
    dpkg -x "$deb" "$tree"
  done
  rm -rf "$debs"
}

# demo_image TREE IMAGE - a file system that depends on the tree alone.
demo_image() {
  local tree=$1 image=$2
  truncate -s "${DEMO_IMAGE_MIB}M" "$image"
  # A fixed UUID and hash seed: what differs between the images is the files.
  E2FSPROGS_FAKE_TIME=1700000000 mke2fs -q -F -t ext4 -b 4096 -m 0 \
    -O ^has_journal,^metadata_csum_seed \
    -U 6d2b4a6e-0000-4000-8000-646d75736572 \
    -E hash_seed=6d2b4a6e-0000-4000-8000-646d75736572,lazy_itable_init=0,root_owner=0:0 \
    -d "$tree" "$image"
}

# demo_manifest TREE FILE - one line per file with its checksum, one per link
# with its target: what the mounted device must show, no more and no less.
demo_manifest() {
  local tree=$1 out=$2
  (
    cd "$tree" || exit
    find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    find . -type l -printf 'link %p -> %l\n' | LC_ALL=C sort
  ) >"$out"
}

# demo_images DIR - makes DIR/{old,new}.img and DIR/new.manifest.
demo_images() {
  local dir=$1 work
  [ -e "$dir/complete-$DEMO_RECIPE" ] && return 0
  rm -rf "$dir"
  mkdir -p "$dir"
  work=$(mktemp -d "$dir/work.XXXXXX")
  mkdir "$work/old" "$work/new"
  say "fetching packages and making two images of $DEMO_IMAGE_MIB MiB (once)"
  private_apt_init "$(cache_dir)/apt"
  apt-get -q -o APT::Update::Error-Mode=any update >&2 ||
    die "$EX_UNAVAILABLE" "cannot read the package lists; is the network there?"
  demo_unpack "$work/old" bookworm "${DEMO_SAME[@]}" "${DEMO_UPGRADED[@]}" \
    "${DEMO_REMOVED[@]}"
  demo_unpack "$work/new" bookworm "${DEMO_SAME[@]}"
  demo_unpack "$work/new" bookworm-backports "${DEMO_UPGRADED[@]}" \
    "${DEMO_ADDED[@]}"
  # The move: the same files under another directory.
  mkdir -p "$work/new/opt"
  mv "$work/new/usr/share/vim" "$work/new/opt/vim"
  demo_image "$work/old" "$dir/old.img"
  demo_image "$work/new" "$dir/new.img"
  demo_manifest "$work/new" "$dir/new.manifest"
  rm -rf "$work"
  sync -f "$dir"
  touch "$dir/complete-$DEMO_RECIPE"
}

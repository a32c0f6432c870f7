# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Images the virtual machines start from: the host's own programs with their
# libraries, and a kernel's modules. A base image per kernel and an optional
# one with fio are cached under a hash of all that goes in; what belongs to one
# run is appended as a further archive, which the kernel unpacks in turn.
#
# Archives are not compressed: unpacking costs the guest more than reading.
# In an image /bin, /lib... are links into /usr. An archive must name files by
# their /usr path, since a folder entry would replace the link. Sourced.

# Programs of every guest, beside busybox's.
readonly BASE_PROGRAMS=(
  bash blockdev cmp dmsetup du dumpe2fs e2fsck find losetup mkfs.ext4 mount
  mkfs.xfs setpriv sha256sum sort umount xfs_repair
)

# Modules of every guest; what they depend on is added.
readonly BASE_MODULES=(
  virtio_pci virtio_blk 9p 9pnet_virtio ext4 xfs loop brd null_blk
  dm_mod dm_flakey dm_delay dm_log_writes dm_snapshot dm_verity dm_zero ublk_drv nbd
)

# guest_path PATH: the path below /usr that the guest's links lead to.
guest_path() {
  case $1 in
    /bin/* | /sbin/* | /lib/* | /lib64/*) printf '/usr%s\n' "$1" ;;
    *) printf '%s\n' "$1" ;;
  esac
}

# program_path NAME: the host's program.
program_path() {
  command -v "$1" ||
    die "$EX_UNAVAILABLE" "$1 is not installed: run tools/setup"
}

# libraries FILE: absolute paths of its libraries and its loader, if any.
libraries() {
  ldd "$1" 2>/dev/null | sed -nE 's/^\t(.* => )?(\/[^ ]+) \(.*$/\2/p' || true
}

# put SOURCE DESTINATION ROOT: copies one file, links followed.
put() {
  local to
  to=$3$(guest_path "$2")
  mkdir -p "${to%/*}"
  cp -L --preserve=mode,timestamps "$1" "$to"
  # Bazel's outputs are read-only, which must not stop the clean-up.
  chmod u+w "$to"
}

# put_libraries FILE ROOT [LIST]: adds the libraries FILE needs, save those a
# line of LIST has. Libraries that are not the system's (Bazel's shared ones)
# go to the folder LD_LIBRARY_PATH names in the guest.
put_libraries() {
  local library to
  while read -r library; do
    case $library in
      /lib/* | /lib64/* | /usr/lib/* | /usr/lib64/*)
        to=$(guest_path "$library")
        ;;
      *) to=/usr/local/lib/vm/${library##*/} ;;
    esac
    if [[ ! -e $2$to ]] && ! grep -qxF ".$to" "${3:-/dev/null}"; then
      put "$library" "$to" "$2"
    fi
  done < <(libraries "$1")
}

# pack ROOT ARCHIVE: the folder as an archive owned by root, in fixed order.
pack() {
  (cd "$1" && find . -mindepth 1 | LC_ALL=C sort |
    cpio --quiet -o -H newc -R 0:0) >"$2"
}

# file_key PATH...: text that changes when a file or a library of it does.
file_key() {
  local path
  for path; do
    printf '%s\n' "$path"
    libraries "$path"
  done | LC_ALL=C sort -u | xargs stat -L -c '%n %s %Y'
}

# module_closure TREE RELEASE MODULE...: paths of the modules in TREE and of
# all they depend on; built-in ones are left out.
module_closure() {
  local tree=$1 release=$2 module
  shift 2
  for module; do
    modprobe -d "$tree" -S "$release" --show-depends "$module" \
      2>/dev/null || true
  done | sed -nE 's/^insmod ([^ ]+).*$/\1/p' | LC_ALL=C sort -u
}

# put_modules SERIES ROOT [MODULE...]: the base modules and those, decompressed,
# with their index.
put_modules() {
  local series=$1 root=$2 release source tree path to
  shift 2
  release=$(kernel_release "$series")
  source=$(kernel_modules "$series")
  # The packages come without an index: make one beside, from links.
  tree=$root/index
  to=$tree/lib/modules/$release
  mkdir -p "$to"
  ln -s "$source/kernel" "$to/kernel"
  cp "$source"/modules.{order,builtin,builtin.modinfo} "$to"
  depmod -b "$tree" "$release"
  while read -r path; do
    to=$root/usr/lib/modules/$release/${path#"$tree/lib/modules/$release/"}
    mkdir -p "${to%/*}"
    case $path in
      *.xz) xz -dc "$path" >"${to%.xz}" ;;
      *.zst) zstd -qdc "$path" >"${to%.zst}" ;;
      *) cp -L "$path" "$to" ;;
    esac
  done < <(module_closure "$tree" "$release" "${BASE_MODULES[@]}" "$@")
  cp "$source"/modules.{order,builtin,builtin.modinfo} \
    "$root/usr/lib/modules/$release"
  rm -r "$tree"
  # depmod wants lib/modules, which the link of the image provides.
  depmod -b "$root" "$release"
}

# make_base SERIES ROOT: all files of the base image.
make_base() {
  local series=$1 root=$2 name busybox
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{dev,etc,mnt,proc,sys} \
    "$root"/{root,run,tmp,var}
  for name in bin sbin lib lib64; do
    ln -s "usr/$name" "$root/$name"
  done
  ln -s ../proc/mounts "$root/etc/mtab"
  printf 'root:x:0:0:root:/root:/bin/bash\n' >"$root/etc/passwd"
  printf 'root:x:0:\n' >"$root/etc/group"
  busybox=$(program_path busybox)
  put "$busybox" /bin/busybox "$root"
  while read -r name; do
    [[ $name == busybox ]] || ln -s busybox "$root/usr/bin/$name"
  done < <("$busybox" --list)
  for name in "${BASE_PROGRAMS[@]}"; do
    put_program "$name" "$root"
  done
  # glibc loads it by name when a thread is cancelled.
  name=/lib/x86_64-linux-gnu/libgcc_s.so.1
  put "$name" "$name" "$root"
  put /etc/mke2fs.conf /etc/mke2fs.conf "$root"
  put lib/guest/init /init "$root"
  put_modules "$series" "$root"
  ln -sf ../bin/busybox "$root/usr/sbin/modprobe"
}

# put_program NAME ROOT [LIST]: a host program in the place of busybox's.
put_program() {
  local path
  path=$(program_path "$1")
  rm -f "$2/usr/bin/$1" "$2/usr/sbin/$1"
  put "$path" "$path" "$2"
  put_libraries "$path" "$2" "${3:-}"
}

# cached_image NAME KEY MAKER...: the archive NAME-KEY.cpio of the cache, made
# if need be by `MAKER... ROOT`; beside it a .list of the files it holds.
cached_image() {
  local name=$1 key=$2 folder image tmp status
  shift 2
  folder=$(cache_dir)/images
  image=$folder/$name-$key.cpio
  if [[ ! -r $image ]]; then
    # Not "( ... ) || exit": there no command's failure would end it.
    (
      set -e
      take_lock "image-$name"
      [[ ! -r $image ]] || exit 0
      rm -rf "$folder/.$name".*
      mkdir -p "$folder"
      tmp=$(mktemp -d "$folder/.$name.XXXXXX")
      mkdir "$tmp/root"
      "$@" "$tmp/root"
      pack "$tmp/root" "$tmp/image"
      # Other trees may use other images of this cache: only stale ones go.
      find "$folder" -name "$name-*" -mtime +7 -delete
      (cd "$tmp/root" && find . -type f -o -type l) >"${image%.cpio}.list"
      mv "$tmp/image" "$image"
      rm -r "$tmp"
    )
    status=$?
    ((status == 0)) || exit "$status"
  fi
  touch -c "$image" "${image%.cpio}.list" # in use
  printf '%s\n' "$image"
}

base_image() {
  local programs=() name key
  for name in busybox "${BASE_PROGRAMS[@]}"; do
    programs+=("$(program_path "$name")")
  done
  key=$({
    kernel_modules "$1"
    file_key "${programs[@]}"
    cat lib/initramfs.sh lib/guest/init
  } | sha256sum | cut -c 1-16)
  cached_image "base-$1" "$key" make_base "$1"
}

# fio_image BASE: fio and those of its libraries that BASE has not.
fio_image() {
  local base=$1 fio key
  fio=$(program_path fio)
  key=$({
    printf '%s\n' "${base##*/}"
    file_key "$fio"
  } | sha256sum | cut -c 1-16)
  cached_image "fio-${base##*/base-}" "$key" make_fio "${base%.cpio}.list"
}

make_fio() { put_program fio "$2" "$1"; }

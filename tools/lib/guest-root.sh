# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The root file system that tools/vm boot starts from: Debian 12 as debootstrap
# makes it, with systemd and a kernel's modules, in an ext4 image; and the
# initramfs that Debian's own scripts make for it.
#
# Making it takes root, for chroot; no mount, no loop device. Both steps are
# cached: the tree under a hash of the packages, which it then keeps for good,
# and the image of a kernel under a hash of all that goes in. An image is never
# written to: who boots it boots a copy. Sourced after apt.sh, kernel.sh and
# initramfs.sh.

# Beside Debian's essential packages: what makes it boot, and what dmuserd and
# dmuserctl are linked against.
readonly ROOT_PACKAGES=(
  systemd systemd-sysv udev dbus dmsetup e2fsprogs kmod
  initramfs-tools busybox zstd
  libabsl20220623 libbrotli1 libdevmapper1.02.1 liblz4-1 libprotobuf32 libssl3
  liburing2 libxxhash0 libzstd1 zlib1g
)
# Part of the tree's key: raise when how it is made changes.
readonly ROOT_RECIPE=1
readonly ROOT_IMAGE_MIB=1024
readonly ROOT_UUID=646d7573-6572-4000-8000-726f6f740001

# Modules beside BASE_MODULES.
readonly ROOT_MODULES=(
  overlay squashfs vfat nls_ascii nls_cp437 dm_mirror dm_crypt dm_verity
  autofs4 efivarfs configfs fuse binfmt_misc
)

# Units that a machine which runs for a minute, and that nobody logs in to, does
# without: each is a few starts of programs, of which an emulated machine does
# some ten in a second.
readonly ROOT_MASKED=(
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
  e2scrub_all.timer e2scrub_reap.service fstrim.timer
  getty@tty1.service serial-getty@ttyS1.service
  dbus.service dbus.socket systemd-logind.service systemd-user-sessions.service
  modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service
  modprobe@fuse.service dev-hugepages.mount dev-mqueue.mount
  sys-kernel-config.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount
  proc-sys-fs-binfmt_misc.automount systemd-binfmt.service
  systemd-pstore.service systemd-sysusers.service
  systemd-update-utmp.service systemd-update-utmp-runlevel.service
)

readonly ROOT_MASKED_GENERATORS=(
  systemd-bless-boot-generator systemd-cryptsetup-generator
  systemd-gpt-auto-generator systemd-hibernate-resume-generator
  systemd-integritysetup-generator systemd-rc-local-generator
  systemd-run-generator systemd-system-update-generator
  systemd-sysv-generator systemd-veritysetup-generator
)

root_folder() { printf '%s/guest-root\n' "$(cache_dir)"; }

# root_tree: the path of the cached tree, made if need be.
root_tree() {
  local folder tree tmp key mirror
  key=$(printf '%s\n' "$ROOT_RECIPE" "${ROOT_PACKAGES[@]}" | sha256sum |
    cut -c 1-16)
  folder=$(root_folder)
  tree=$folder/tree-$key
  if [[ ! -d $tree ]]; then
    [[ $(id -u) -eq 0 ]] || die "$EX_UNAVAILABLE" "making a root file system" \
      "takes root, once: sudo DMU_CACHE=$(cache_dir) tools/guest-root 6.1 6.12"
    need_program debootstrap chroot
    mirror=${DMU_MIRROR:-$(apt_mirror bookworm http://deb.debian.org/debian)}
    say "making a Debian root file system (once)"
    mkdir -p "$folder"
    rm -rf "$folder"/.tree.*
    tmp=$(mktemp -d "$folder/.tree.XXXXXX")
    chmod 755 "$tmp"
    use_apt_proxy
    local IFS=,
    debootstrap --variant=minbase --include="${ROOT_PACKAGES[*]}" \
      --keyring="$APT_KEYRING" bookworm "$tmp/root" "$mirror" \
      >"$tmp/log" 2>&1 || {
      tail -n 20 "$tmp/log" >&2
      [[ ! -r $tmp/root/debootstrap/debootstrap.log ]] ||
        tail -n 20 "$tmp/root/debootstrap/debootstrap.log" >&2
      die "$EX_UNAVAILABLE" "debootstrap failed; look at the lines above." \
        "Is the network there? DMU_MIRROR names another mirror"
    }
    rm -rf "$tmp"/root/var/{cache/apt,lib/apt/lists,log}/* "$tmp"/root/run/*
    mv -T "$tmp/root" "$tree"
    rm -rf "$tmp"
  fi
  printf '%s\n' "$tree"
}

# The host's proxy is apt's affair; debootstrap only looks at the environment.
use_apt_proxy() {
  local proxy
  proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy 2>/dev/null) ||
    proxy=
  [[ -z $proxy || -n ${http_proxy:-} ]] || export http_proxy=$proxy
}

# put_root_files ROOT: what makes the tree the guest of tools/vm.
put_root_files() {
  local root=$1 unit
  printf 'vm\n' >"$root/etc/hostname"
  printf '127.0.0.1 localhost vm\n' >"$root/etc/hosts"
  # Fixed, and there: else the first boot would be one that sets up all units.
  printf '646d757365724000800000000000766d\n' >"$root/etc/machine-id"
  printf '/dev/disk/by-id/virtio-root / ext4 noatime 0 0\n' >"$root/etc/fstab"
  for unit in "${ROOT_MASKED[@]}"; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  # Emulated, on a busy machine, with hardly a share of it.
  install -D -m 644 /dev/stdin "$root/etc/systemd/system.conf.d/vm.conf" <<'CONF'
[Manager]
DefaultTimeoutStartSec=10min
DefaultDeviceTimeoutSec=10min
CONF
  # Nobody is there to press Enter.
  install -D -m 644 /dev/stdin \
    "$root/etc/systemd/system/emergency.service.d/vm.conf" <<'CONF'
[Service]
ExecStartPre=
ExecStart=
ExecStart=/bin/sh -c 'exec >/dev/ttyS0; echo "vm: emergency mode"; \
journalctl -b -p warning -n 40 --no-pager; systemctl poweroff -ff'
CONF
  mkdir -p "$root/etc/systemd/system-generators"
  for unit in "${ROOT_MASKED_GENERATORS[@]}"; do
    ln -sf /dev/null "$root/etc/systemd/system-generators/$unit"
  done
  mkdir -p "$root/vm-disk" "$root/mnt/share"
  ln -sfn vm-disk/vm "$root/vm"
  install -D -m 755 lib/guest/root/run "$root/usr/local/lib/vm/run"
  install -D -m 644 lib/guest/root/vm.service \
    "$root/etc/systemd/system/vm.service"
  ln -sfn ../vm.service \
    "$root/etc/systemd/system/multi-user.target.wants/vm.service"
}

# put_kernel SERIES ROOT: modules, and the initramfs as Debian makes it.
put_kernel() {
  local series=$1 root=$2 release from
  release=$(kernel_release "$series")
  from=$(kernel_dir "$series")
  put_modules "$series" "$root" "${ROOT_MODULES[@]}"
  cp "$(kernel_image "$series")" "$root/boot/vmlinuz-$release"
  [[ ! -r $from/boot/config-$release ]] ||
    cp "$from/boot/config-$release" "$root/boot/config-$release"
  printf '%s\n' virtio_pci virtio_blk ext4 \
    >>"$root/etc/initramfs-tools/modules"
  # The guest unpacks it faster than it decompresses.
  printf 'COMPRESS=zstd\nCOMPRESSLEVEL=1\n' \
    >"$root/etc/initramfs-tools/conf.d/vm"
  DEBIAN_FRONTEND=noninteractive chroot "$root" \
    update-initramfs -c -k "$release" >"$root/var/log/initramfs.log" 2>&1 ||
    die "$EX_SOFTWARE" "update-initramfs failed:" \
      "$(tail -n 5 "$root/var/log/initramfs.log")"
}

# guest_root SERIES: the path of the image for that kernel, made if need be;
# beside it, with .initrd for .ext4, its initramfs, and a .list of its files.
guest_root() {
  local series=$1 folder image key tree tmp release status
  release=$(kernel_release "$series")
  key=$({
    printf '%s\n' "$ROOT_RECIPE" "${ROOT_PACKAGES[@]}" "$(kernel_dir "$series")"
    cat lib/guest-root.sh lib/initramfs.sh lib/guest/root/*
  } | sha256sum | cut -c 1-16)
  folder=$(root_folder)
  image=$folder/$series-$key.ext4
  if [[ ! -r $image ]]; then
    # Not "( ... ) || exit": there no command's failure would end it.
    (
      set -e
      take_lock guest-root
      [[ ! -r $image ]] || exit 0
      tree=$(root_tree)
      [[ $(id -u) -eq 0 ]] || die "$EX_UNAVAILABLE" "making a root file" \
        "system takes root, once: sudo DMU_CACHE=$(cache_dir)" \
        "tools/guest-root $series"
      say "making the root file system for Linux $release (once)"
      rm -rf "$folder"/.image.*
      tmp=$(mktemp -d "$folder/.image.XXXXXX")
      cp -a "$tree" "$tmp/root"
      put_root_files "$tmp/root"
      put_kernel "$series" "$tmp/root"
      cp "$tmp/root/boot/initrd.img-$release" "$tmp/initrd"
      truncate -s "${ROOT_IMAGE_MIB}M" "$tmp/image"
      E2FSPROGS_FAKE_TIME=1700000000 mke2fs -q -F -t ext4 -b 4096 -m 0 \
        -L root -U "$ROOT_UUID" \
        -E "hash_seed=$ROOT_UUID,lazy_itable_init=1,root_owner=0:0" \
        -d "$tmp/root" "$tmp/image"
      (cd "$tmp/root" && find . -type f -o -type l) >"$tmp/list"
      # Other trees may use other images of this cache: only stale ones go.
      find "$folder" -maxdepth 1 -type f -mtime +7 -delete
      chmod 644 "$tmp/initrd" "$tmp/image"
      mv "$tmp/initrd" "${image%.ext4}.initrd"
      mv "$tmp/list" "${image%.ext4}.list"
      mv "$tmp/image" "$image"
      rm -rf "$tmp"
    )
    status=$?
    ((status == 0)) || exit "$status"
  fi
  touch -c "${image%.ext4}".* 2>/dev/null || true # in use
  printf '%s\n' "$image"
}

# make_files_disk FOLDER IMAGE: a disk with the files of one run.
make_files_disk() {
  local mib
  mib=$(du -sm "$1" | cut -f 1)
  truncate -s "$((mib + mib / 8 + 8))M" "$2"
  mke2fs -q -F -t ext4 -O ^has_journal -m 0 -E root_owner=0:0 -d "$1" "$2"
}

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The machine that tools/ota-proof updates: a Debian root file system before and
# after an update, the kernel's initramfs as Debian's own scripts make it with
# our hook, and the COW file between the two.
#
# Making them takes root, for chroot. All is cached under a hash of what goes
# in; only copies are written to. Runs in tools/, as guest-root.sh does.
# Sourced after apt.sh, kernel.sh, initramfs.sh and guest-root.sh.

# Part of the key: raise when how they are made changes.
readonly OTA_RECIPE=1
readonly OTA_IMAGE_MIB=224
readonly OTA_STATE_MIB=320

# What no emulated machine can afford to start twice in a minute. The journal
# goes with it: what units say is in the kernel's log, which outlives a crash.
readonly OTA_MASKED=(
  systemd-journald.service systemd-journald.socket
  systemd-journald-dev-log.socket systemd-journald-audit.socket
  systemd-journal-flush.service systemd-journal-catalog-update.service
  systemd-random-seed.service systemd-sysctl.service
  systemd-modules-load.service systemd-remount-fs.service
  systemd-tmpfiles-setup-dev.service systemd-tmpfiles-setup.service
  systemd-tmpfiles-clean.timer kmod-static-nodes.service
  modprobe@dm_mod.service modprobe@loop.service
  systemd-machine-id-commit.service systemd-firstboot.service
  systemd-update-done.service systemd-hwdb-update.service
  sys-kernel-debug.mount vm.service
)

# put_ota_system ROOT BIN: both systems have it.
put_ota_system() {
  local root=$1 bin=$2 unit
  rm -rf "$root"/usr/share/{doc,locale,man,info,i18n,lintian,perl5} \
    "$root"/usr/lib/udev/hwdb.* "$root"/var/lib/dpkg/info \
    "$root"/usr/lib/x86_64-linux-gnu/gconv
  put_root_files "$root"
  rm "$root/etc/systemd/system/vm.service" \
    "$root/etc/systemd/system/multi-user.target.wants/vm.service"
  for unit in "${OTA_MASKED[@]}"; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  # Images are never written but by updates.
  cat >"$root/etc/fstab" <<'TEXT'
tmpfs /tmp tmpfs mode=1777 0 0
tmpfs /var tmpfs mode=0755 0 0
TEXT
  # Straight into the kernel's log.
  for unit in dm-user-bless dm-user-merge ota-machine; do
    mkdir -p "$root/etc/systemd/system/$unit.service.d"
    printf '[Service]\nStandardOutput=file:/dev/kmsg\nStandardError=inherit\n' \
      >"$root/etc/systemd/system/$unit.service.d/ota-machine.conf"
  done
  mkdir -p "$root/etc/systemd/system.conf.d" \
    "$root/etc/systemd/system/systemd-udev-trigger.service.d" \
    "$root"/proof/{old,new}
  printf '[Manager]\nDefaultStandardOutput=null\n' \
    >"$root/etc/systemd/system.conf.d/ota-machine.conf"
  printf '[Service]\nExecStart=\nExecStart=%s\n' \
    '-udevadm trigger --type=devices --subsystem-match=block' \
    >"$root/etc/systemd/system/systemd-udev-trigger.service.d/ota-machine.conf"
  mkdir "$root/binaries"
  strip -o "$root/binaries/dmuserd" "$bin/daemon/dmuserd"
  strip -o "$root/binaries/dmuserctl" "$bin/tools/dmuserctl/dmuserctl"
  ./install --root "$root" --prefix /usr --binaries "$root/binaries" \
    --with-initramfs 2>/dev/null
  rm -r "$root/binaries"
  install -D -m 755 lib/guest/ota/agent "$root/usr/lib/ota-machine/agent"
  # A terminal on the console, which nobody sits at.
  ln -sf /dev/null \
    "$root/etc/systemd/system-generators/systemd-getty-generator"
  put_units "$root" lib/guest/ota/ota-machine.service
  # When to merge the proof says, which wants to read meanwhile.
  enable_units "$root" ota-machine dm-user-bless
  printf '1\n' >"$root/etc/proof-version"
}

put_units() {
  local root=$1 unit
  shift
  for unit; do
    install -m 644 "$unit" "$root/etc/systemd/system/"
  done
}

enable_units() {
  local root=$1 unit
  shift
  for unit; do
    systemctl --quiet --root="$root" enable "$unit"
  done
}

# change_system ROOT IMAGE: the update, several hundred files of all kinds. In the
# image as it is, so that what did not change stays where it was, as on a file
# system that packages are upgraded on.
change_system() {
  local root=$1 image=$2 file path number=0
  printf '2\n' >"$root/etc/proof-version"
  {
    replace_file /etc/proof-version "$root/etc/proof-version"
    while read -r file; do
      number=$((number + 1))
      path=${file#"$root"}
      # Some go, some move, some grow, some change where they are.
      case $((number % 8)) in
        0) echo "rm $path" ;;
        1) printf 'ln %s %s.moved\nunlink %s\n' "$path" "$path" "$path" ;;
        2 | 3)
          head -c 9000 /dev/urandom >>"$file"
          replace_file "$path" "$file"
          ;;
        *)
          printf 'of the new system\n' >>"$file"
          replace_file "$path" "$file"
          ;;
      esac
    done < <(find "$root"/usr/share/{zoneinfo,bash-completion,common-licenses} \
      -type f ! -name '[[]*' ! -name '* *' -print | LC_ALL=C sort)
    echo "ln /usr/share/bash-completion /usr/share/moved-completion"
    echo "unlink /usr/share/bash-completion"
    [[ -d $root/etc/systemd/system/sysinit.target.wants ]] ||
      echo "mkdir /etc/systemd/system/sysinit.target.wants"
    for file in bad-{panic,hang}; do
      printf 'cd /etc/systemd/system\nwrite %s %s\n' \
        "$PWD/lib/guest/ota/$file.service" "$file.service"
      printf 'cd /etc/systemd/system/sysinit.target.wants\nsymlink %s %s\n' \
        "$file.service" "/etc/systemd/system/$file.service"
    done
  } >"$root.changes"
  (($(wc -l <"$root.changes") >= 900)) ||
    die "$EX_SOFTWARE" "there are too few files to change"
  E2FSPROGS_FAKE_TIME=1700000000 debugfs -w -f "$root.changes" "$image" \
    >"$root.log" 2>&1
  ! grep -E '^[a-z0-9_]+: .' "$root.log" | grep -v '^debugfs' >&2 ||
    die "$EX_SOFTWARE" "debugfs cannot change the image"
  E2FSPROGS_FAKE_TIME=1700000000 e2fsck -fy "$image" >"$root.log" 2>&1 ||
    (($? == 1)) || die "$EX_SOFTWARE" "e2fsck: $(tail -n 3 "$root.log")"
}

# replace_file PATH SOURCE: debugfs's commands for it.
replace_file() {
  printf 'rm %s\ncd %s\nwrite %s %s\n' "$1" "${1%/*}" "$2" "${1##*/}"
}

# ota_file_system TREE IMAGE: depends on the tree alone.
ota_file_system() {
  truncate -s "${OTA_IMAGE_MIB}M" "$2"
  E2FSPROGS_FAKE_TIME=1700000000 mke2fs -q -F -t ext4 -b 4096 -m 0 -L root \
    -U "$ROOT_UUID" -N 16384 -J size=4 \
    -E "hash_seed=$ROOT_UUID,lazy_itable_init=0,root_owner=0:0" -d "$1" "$2"
}

# ota_initramfs SERIES ROOT MODULE: has initramfs-tools make the image in /boot.
ota_initramfs() {
  local series=$1 root=$2 module=$3 release
  release=$(kernel_release "$series")
  install -D -m 644 initramfs-tools/ota.conf "$root/etc/dm-user/ota.conf"
  # Emulated, on a busy host, udev takes its time.
  sed -i -e 's/^STATE_DEVICE=.*/STATE_DEVICE=LABEL=state/' \
    -e 's/^DEVICE_SECONDS=.*/DEVICE_SECONDS=600/' "$root/etc/dm-user/ota.conf"
  # As DKMS does it.
  strip -g -o "$root/dm-user.ko" "$module"
  install -D -m 644 "$root/dm-user.ko" \
    "$root/usr/lib/modules/$release/extra/dm-user.ko"
  rm "$root/dm-user.ko"
  printf 'MODULES=list\n' >"$root/etc/initramfs-tools/conf.d/machine"
  put_kernel "$series" "$root"
}

# ota_update OLD NEW FOLDER NAME: FOLDER/NAME.cow and its manifest.
ota_update() {
  local folder=$3 name=$4
  "$bin/tools/dmuserctl/dmuserctl" cow create "$1" "$2" \
    -o "$folder/$name.cow" --compression zstd --quiet
  cat >"$folder/$name.manifest" <<TEXT
update: "$name"
boots_max: 2
image {
  name: "root"
  base: "/dev/disk/by-id/virtio-root"
  cow: "$name.cow"
  cow_sha256: "$(sha256sum <"$folder/$name.cow" | cut -d ' ' -f 1)"
  undo_log: "root.undo"
}
TEXT
}

# ota_images SERIES BIN: the path of a folder with old.img, new.img, initrd,
# state.img and medium/, made if need be. BIN is Bazel's folder of binaries.
ota_images() {
  local series=$1 bin=$2 folder images key tree module tmp release status
  release=$(kernel_release "$series")
  module=$(./module "$series")
  key=$({
    printf '%s\n' "$OTA_RECIPE" "$ROOT_RECIPE" "${ROOT_PACKAGES[@]}" \
      "$(kernel_dir "$series")"
    cat lib/guest-root.sh lib/initramfs.sh lib/ota-images.sh lib/guest/ota/* \
      install initramfs/ota-boot.sh initramfs-tools/{hooks,local-top}/dm-user \
      initramfs-tools/ota.conf systemd/* "$module" "$bin/daemon/dmuserd" "$bin/tools/dmuserctl/dmuserctl"
  } | sha256sum | cut -c 1-16)
  folder=$(cache_dir)/ota-machine
  images=$folder/$series-$key
  if [[ ! -d $images ]]; then
    # Not "( ... ) || exit": there no command's failure would end it.
    (
      set -e
      take_lock ota-machine
      [[ ! -d $images ]] || exit 0
      tree=$(root_tree)
      [[ $(id -u) -eq 0 ]] || die "$EX_UNAVAILABLE" "making a root file" \
        "system takes root, once: sudo DMU_CACHE=$(cache_dir) tools/ota-proof"
      say "making two systems and the update between them (once)"
      rm -rf "$folder"/.images.*
      mkdir -p "$folder"
      tmp=$(mktemp -d "$folder/.images.XXXXXX")
      mkdir "$tmp/images" "$tmp/images/medium" "$tmp/empty"
      cp -a "$tree" "$tmp/root"
      put_ota_system "$tmp/root" "$bin"
      ota_initramfs "$series" "$tmp/root" "$module"
      # Outside of both systems, as a boot loader would have them.
      mv "$tmp/root/boot/initrd.img-$release" "$tmp/images/initrd"
      rm "$tmp/root/boot/vmlinuz-$release"
      ota_file_system "$tmp/root" "$tmp/images/old.img"
      cp --sparse=always "$tmp/images/old.img" "$tmp/images/new.img"
      change_system "$tmp/root" "$tmp/images/new.img"
      rm -rf "$tmp/root"
      truncate -s "${OTA_STATE_MIB}M" "$tmp/images/state.img"
      mke2fs -q -F -t ext4 -m 0 -L state -d "$tmp/empty" -J size=4 \
        "$tmp/images/state.img"
      ota_update "$tmp/images/old.img" "$tmp/images/new.img" \
        "$tmp/images/medium" update
      ota_update "$tmp/images/new.img" "$tmp/images/old.img" \
        "$tmp/images/medium" wrong
      # Other trees may use other images of this cache: only stale ones go.
      find "$folder" -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} +
      mv -T "$tmp/images" "$images"
      rm -rf "$tmp"
    )
    status=$?
    ((status == 0)) || exit "$status"
  fi
  touch -c "$images" # in use
  printf '%s\n' "$images"
}

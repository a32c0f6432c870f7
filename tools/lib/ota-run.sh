# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Runs the machine of tools/ota-proof: QEMU with its disks, boot after boot,
# whatever ended one, until the guest says that it is done. Sourced after
# common.sh and kernel.sh.
#
# The machine's disks are files of a folder: root.img and state.img are its own;
# medium.img and the new system's new.img are read only. What QEMU has written
# before it is killed stays.

# Lines of the console for people; the rest is in FOLDER/console.log.
readonly OTA_SHOWN='proof: |dmuserctl: |dmuserd: |Kernel panic'
readonly OTA_BOOTS_MAX=16
# Seconds for one boot; only a machine that is stuck comes to its end.
readonly OTA_BOOT_LIMIT=${DMU_OTA_BOOT_LIMIT:-3000}

qemu_pid=
qemu_words=() words_of_boot=() cuts_at=() cuts_ms=()
ended='' boots=0 cuts_made=0 said=''
# Of all machines: what the guest had said last when its power was cut, in each
# boot that was.
cuts_behind=()

# new_machine IMAGES FOLDER: one that has the old system, and no update.
new_machine() {
  local images=$1 folder=$2
  rm -rf "$folder"
  mkdir -p "$folder"
  cp --sparse=always --no-preserve=mode "$images/old.img" "$folder/root.img"
  cp --sparse=always --no-preserve=mode "$images/state.img" \
    "$folder/state.img"
  cp -r "$images/medium" "$folder/medium"
  cp lib/ota-guest.sh "$folder/medium/guest.sh"
  cp ota/HOWTO.md "$folder/medium/HOWTO.md"
  cp lib/ota-guest-cases.sh "$folder/medium/guest-cases.sh"
  truncate -s "$(($(du -sm "$folder/medium" | cut -f 1) + 4))M" \
    "$folder/medium.img"
  mke2fs -q -F -t ext4 -O ^has_journal -m 0 -E root_owner=0:0 \
    -d "$folder/medium" "$folder/medium.img"
  : >"$folder/console.log"
}

# start_machine SERIES IMAGES FOLDER WORDS [QEMU_OPTIONS...]: its console is
# FOLDER/console, a fifo; sets qemu_pid.
start_machine() {
  local series=$1 images=$2 folder=$3 words=$4 disk file options arguments
  shift 4
  rm -f "$folder/console"
  mkfifo "$folder/console"
  # shellcheck disable=SC2054 # the commas are QEMU's
  arguments=(
    -machine q35 -m 512 -smp 1 -nodefaults -display none -no-reboot
    -kernel "$(kernel_image "$series")" -initrd "$images/initrd"
    -chardev stdio,id=console,signal=off -serial chardev:console
    -accel tcg -cpu 'max,-erms,-fsrm'
  )
  for disk in root state medium new; do
    case $disk in
      new) file=$images/$disk.img options=readonly=on ;;
      medium) file=$folder/$disk.img options=readonly=on ;;
      *) file=$folder/$disk.img options=readonly=off ;;
    esac
    # shellcheck disable=SC2054
    arguments+=(
      -drive "if=none,id=$disk,format=raw,cache=unsafe,$options,file=${file//,/,,}"
      -device "virtio-blk-pci,drive=$disk,serial=$disk"
    )
  done
  qemu-system-x86_64 "${arguments[@]}" "$@" -append "\
root=/dev/disk/by-id/virtio-root ro console=ttyS0 panic=-1 oops=panic \
printk.devkmsg=on no_timer_check mitigations=off log_buf_len=1M \
systemd.show_status=no $words" </dev/null >"$folder/console" 2>"$folder/qemu.log" &
  qemu_pid=$!
}

# cut_power: as when somebody pulls the plug.
cut_power() {
  [[ -z $qemu_pid ]] || kill -9 "$qemu_pid" 2>/dev/null || true
}

now_ms() { echo $((10#${EPOCHREALTIME/[.,]/} / 1000)); }

# follow IMAGES FOLDER SHOW CUT_AT CUT_MS: reads the console until the machine
# ends, and has its power cut so many ms after a line that matches CUT_AT; the
# first of all lines is "start". Where the guest asks for it, compares its disk.
# Sets `ended`: the guest's last words; "cut"; "reset" when it wants to boot
# again; "hangs"; "stuck"; what is wrong. And `said`: the last line of the guest's
# script, "" when it said none.
follow() {
  local images=$1 folder=$2 show=$3 cut_at=$4 cut_ms=$5 line=start console now
  local deadline cut=''
  deadline=$(($(now_ms) + OTA_BOOT_LIMIT * 1000))
  ended=reset said=''
  exec {console}<"$folder/console"
  while :; do
    line=${line%$'\r'}
    if [[ $line != start ]]; then
      printf '%s\n' "$line" >>"$folder/console.log"
      if [[ $line =~ (.*proof: )disk:\ (old|new)$ ]]; then
        same_disk "$folder" "$images/${BASH_REMATCH[2]}.img" || {
          ended="FAILED: the disk is not the ${BASH_REMATCH[2]} image: $line"
          break
        }
        line="${BASH_REMATCH[1]}the disk is the ${BASH_REMATCH[2]} image bit by bit"
      fi
      [[ $show == no ]] || [[ ! $line =~ $OTA_SHOWN ]] || print_event "$line"
      [[ $line != *'proof: '* ]] || said=${line##*'proof: '}
    fi
    case $line in
      *'proof: end '*)
        ended=${line#*'proof: end '}
        break
        ;;
      *'proof: the new system hangs'*)
        ended=hangs
        break
        ;;
    esac
    if [[ -n $cut_at && -z $cut && $line =~ $cut_at ]]; then
      cut=$(($(now_ms) + cut_ms))
    fi
    # Until a line, the cut, or the end of patience.
    now=$(now_ms)
    if [[ -n $cut ]] && ((now >= cut)); then
      ended='cut'
      break
    fi
    if ((now >= deadline)); then
      ended=stuck
      break
    fi
    read_line "$console" $(((${cut:-$deadline} < deadline ? \
      ${cut:-$deadline} : deadline) - now)) || break
  done
  cut_power
  wait "$qemu_pid" 2>/dev/null || true
  qemu_pid=
  exec {console}<&-
}

# same_disk FOLDER IMAGE: what QEMU was given to write is in the file.
same_disk() { cmp "$1/root.img" "$2" >&2; }

# read_line FD MS: sets `line`; "" when the time is over. Fails at the end.
read_line() {
  local seconds status=0
  printf -v seconds '%d.%03d' $(($2 / 1000)) $(($2 % 1000))
  line=
  IFS= read -r -t "$seconds" line <&"$1" || status=$?
  # A part of a line is none: the time is over at a cut only, or at the end of
  # patience.
  ((status <= 128)) || line=
  ((status == 0 || status > 128))
}

# print_event LINE: "[   12.345678] text" as "  12.3 s  text"; what a program of
# the initramfs says has no clock.
print_event() {
  local stamp='' text=$1
  if [[ $1 =~ ^\[\ *([0-9]+\.[0-9])[0-9]*\]\ (.*)$ ]]; then
    stamp="${BASH_REMATCH[1]} s" text=${BASH_REMATCH[2]}
  fi
  printf '  %10s  %s\n' "$stamp" "${text#proof: }"
}

# run_machine SERIES IMAGES FOLDER WORDS [SHOW]: boots until it ends; sets
# `ended`, `boots` and `cuts_made`. Power cuts: the arrays cuts_at and cuts_ms, one entry per
# boot; hangs are cut like a watchdog would. words_of_boot: more
# for the kernel, per boot; qemu_words: more options of QEMU.
run_machine() {
  local series=$1 images=$2 folder=$3 words=$4 show=${5:-no}
  boots=0 cuts_made=0
  while ((boots < OTA_BOOTS_MAX)); do
    boots=$((boots + 1))
    [[ $show == no ]] || echo "power on, boot $boots"
    printf -- '---- boot %d: %s\n' "$boots" "$words" >>"$folder/console.log"
    start_machine "$series" "$images" "$folder" \
      "$words ${words_of_boot[boots - 1]:-}" "${qemu_words[@]}"
    follow "$images" "$folder" "$show" "${cuts_at[boots - 1]:-}" \
      "${cuts_ms[boots - 1]:-0}"
    case $ended in
      reset) [[ $show == no ]] || echo "reset" ;;
      cut)
        cuts_made=$((cuts_made + 1))
        cuts_behind+=("$said")
        [[ $show == no ]] || echo "power cut"
        ;;
      hangs) [[ $show == no ]] || echo "reset by the watchdog" ;;
      *) return 0 ;;
    esac
  done
  ended="FAILED: $OTA_BOOTS_MAX boots were not enough"
}

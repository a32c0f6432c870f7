# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What every tool of this folder shares: messages, exit codes, the cache folder
# and its locks. Sourced, never run.

# Exit codes of sysexits.h, so that callers can tell the cases apart.
readonly EX_USAGE=64
readonly EX_NOINPUT=66
readonly EX_UNAVAILABLE=69
readonly EX_SOFTWARE=70
export EX_USAGE EX_NOINPUT EX_UNAVAILABLE EX_SOFTWARE

# Debian gives only root the folders of depmod, dmsetup and the like.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# Bazel has its tests look in the working folder first: in this one, our own
# "install" would be taken for the system's.
PATH=${PATH#.:}

DMU_TOOL=${0##*/}

say() { printf '%s: %s\n' "$DMU_TOOL" "$*" >&2; }

# die CODE MESSAGE...
die() {
  local code=$1
  shift
  say "$*"
  exit "$code"
}

# Folder for everything that can be fetched or built again.
cache_dir() {
  if [[ -n ${DMU_CACHE:-} ]]; then
    printf '%s\n' "$DMU_CACHE"
  elif [[ -n ${XDG_CACHE_HOME:-} ]]; then
    printf '%s\n' "$XDG_CACHE_HOME/dm-user"
  else
    printf '%s\n' "${HOME:?set HOME or DMU_CACHE}/.cache/dm-user"
  fi
}

# take_lock NAME: waits for the cache's lock NAME; held until the caller (a
# subshell or the tool itself) ends, however it ends.
take_lock() {
  local folder fd
  folder=$(cache_dir)/locks
  mkdir -p "$folder"
  exec {fd}>"$folder/$1"
  flock "$fd"
}

# need_program PROGRAM...: ends with the way out if one is missing.
need_program() {
  local program
  for program; do
    command -v "$program" >/dev/null ||
      die "$EX_UNAVAILABLE" "$program is not installed: run tools/setup"
  done
}

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Debian packages without installing them: a private apt state in the cache, so
# neither root nor the host's source list is needed. The host's acquire settings
# (proxies, certificates) are taken over, its hooks are not. Sourced.

readonly APT_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# The host's mirror for a suite, or the fallback.
apt_mirror() {
  local suite=$1 fallback=$2 found
  found=$(apt-get indextargets "Created-By: Packages" "Component: main" \
    --format "\$(RELEASE) \$(REPO_URI)" 2>/dev/null |
    awk -v suite="$suite" '$1 == suite && $2 ~ /\/debian(-security)?\/?$/ \
      { print $2; exit }') || found=
  printf '%s\n' "${found:-$fallback}"
}

# private_apt_init FOLDER [sid]: makes the state, for Debian 12 with its
# backports or for sid; sets APT_CONFIG for apt's tools.
private_apt_init() {
  local folder=$1 suite=${2:-bookworm} main security signed expired=
  [[ -r $APT_KEYRING ]] ||
    die "$EX_UNAVAILABLE" "$APT_KEYRING is missing:" \
      "sudo apt-get install debian-archive-keyring"
  main=${DMU_MIRROR:-$(apt_mirror bookworm http://deb.debian.org/debian)}
  security=${DMU_SECURITY_MIRROR:-$(apt_mirror bookworm-security \
    http://deb.debian.org/debian-security)}
  mkdir -p "$folder"/{lists/partial,cache/archives/partial,empty}
  signed="deb [arch=amd64 signed-by=$APT_KEYRING]"
  if [[ $suite == sid ]]; then
    # Its lists are good for a week only, and a mirror may stand still for longer.
    # They are signed all the same; an older kernel than sid's serves as well.
    expired='Acquire::Check-Valid-Until "false";'
    printf '%s %s sid main\n' "$signed" "$main" >"$folder/sources.list"
  else
    cat >"$folder/sources.list" <<LIST
$signed $main bookworm main
$signed $main bookworm-backports main
$signed $security bookworm-security main
LIST
  fi
  {
    apt-config dump | grep '^Acquire::' || true
    cat <<CONF
APT::Architecture "amd64";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
$expired
Acquire::Retries "3";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "$folder/empty";
Dir::Etc::SourceList "$folder/sources.list";
Dir::Etc::SourceParts "$folder/empty";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "$folder/empty";
Dir::State "$folder";
Dir::State::Lists "$folder/lists";
Dir::State::status "/dev/null";
Dir::Cache "$folder/cache";
CONF
  } >"$folder/apt.conf"
  export APT_CONFIG="$folder/apt.conf"
}

# package_dependency PACKAGE PATTERN: the newest dependency of any version of
# PACKAGE whose name matches the extended regular expression; nothing if none.
package_dependency() {
  apt-cache show "$1" | sed -n 's/^Depends: //p' | sed 's/[,|]/\n/g' |
    sed 's/^ *//; s/ .*//' | grep -xE "$2" | sort -Vu | tail -n 1 || true
}

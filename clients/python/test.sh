#!/usr/bin/env bash
# Checks, builds and tests the Python client against the built hub. What it does, in order, it says:
#
#   1. makes a virtual environment in .tools/python (with the system's package manager, where python3 lacks venv and pip)
#   2. installs into it what requirements.txt pins by hash; skipped while that is unchanged, and the folder where it was
#   3. checks format and lints (ruff) and types (mypy --strict)
#   4. builds the wheel and installs it, so that the tests run on what would be shipped
#   5. builds target/debug/central-hub, unless CENTRAL_HUB_PROGRAM names another, and runs pytest on real servers
#
# Arguments go to pytest. PYTHON names the interpreter, 3.10 or newer; python3 without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PYTHON=${PYTHON:-python3}
VENV=$PWD/.tools/python
CLIENT=$PWD/clients/python

say() { printf 'python: %s\n' "$*"; }
fail() { printf 'python: %s\n' "$*" >&2; exit 1; }

quietly() {
  local output
  if ! output=$("$@" 2>&1); then
    printf '%s\n' "$output" | tail -n 30 >&2
    return 1
  fi
}

as_root() { if [[ $(id -u) == 0 ]]; then "$@"; else sudo -n "$@"; fi; }

# --- 1. the environment ----------------------------------------------------------------------------------------------

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
  || fail "$PYTHON is missing or older than 3.10: name another in PYTHON"

make_venv() { "$PYTHON" -m venv --clear "$VENV" >/dev/null 2>&1; }

# Debian has venv and pip in packages of their own; one of the two is enough.
make_venv_with_own_pip() {
  "$PYTHON" -m pip --version >/dev/null 2>&1 && "$PYTHON" -m venv --clear --without-pip "$VENV" >/dev/null 2>&1
}

wanted=$({ "$PYTHON" -V; echo "$VENV"; cat "$CLIENT/requirements.txt"; } | sha256sum)
if [[ $(cat "$VENV/installed" 2>/dev/null) != "$wanted" ]]; then
  say "making a virtual environment in .tools/python ($("$PYTHON" -V))"
  mkdir -p "$(dirname "$VENV")"
  if ! make_venv && ! make_venv_with_own_pip; then
    command -v apt-get >/dev/null || fail "$PYTHON has neither venv nor pip: install one of them and run this again"
    say "installing venv: apt-get install python3-venv"
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 update \
      || say "apt-get update failed; trying with the package lists there are"
    quietly as_root env DEBIAN_FRONTEND=noninteractive \
      apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends python3-venv \
      || fail "\`apt-get install python3-venv\` failed: see above; run it as root, then this again"
    make_venv || fail "$PYTHON still makes no virtual environment: python3-venv is for the system's python3"
  fi
fi

pip() {
  if [[ -x $VENV/bin/pip ]]; then
    "$VENV/bin/pip" --disable-pip-version-check "$@"
  else
    "$PYTHON" -m pip --disable-pip-version-check --python "$VENV/bin/python" "$@"
  fi
}

# --- 2. what is needed -----------------------------------------------------------------------------------------------

if [[ $(cat "$VENV/installed" 2>/dev/null) != "$wanted" ]]; then
  say "installing what clients/python/requirements.txt pins"
  # nkeys comes as source only.
  quietly pip install --quiet --require-hashes --only-binary :all: --no-binary nkeys --requirement "$CLIENT/requirements.txt" \
    || fail "the packages could not be installed: see above"
  printf '%s\n' "$wanted" >"$VENV/installed"
fi

# --- 3. checks -------------------------------------------------------------------------------------------------------

cd "$CLIENT"
export RUFF_CACHE_DIR=$VENV/cache/ruff MYPY_CACHE_DIR=$VENV/cache/mypy
say "checking format, lints and types"
"$VENV/bin/ruff" format --quiet --check .
"$VENV/bin/ruff" check --quiet .
"$VENV/bin/mypy" --no-error-summary

# --- 4. the wheel ----------------------------------------------------------------------------------------------------

say "building the wheel"
rm -rf "$VENV/wheel"
quietly "$VENV/bin/python" -m build --wheel --no-isolation --outdir "$VENV/wheel" . || fail "the wheel can't be built"
quietly pip install --quiet --no-deps --force-reinstall "$VENV"/wheel/*.whl || fail "the wheel can't be installed"

# --- 5. the tests ----------------------------------------------------------------------------------------------------

if [[ -z ${CENTRAL_HUB_PROGRAM:-} ]]; then
  (cd ../.. && quietly "${CARGO:-cargo}" build --locked) || fail "the hub can't be built"
fi
say "testing"
exec "$VENV/bin/python" -m pytest -o "cache_dir=$VENV/cache/pytest" "$@"

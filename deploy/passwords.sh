#!/usr/bin/env bash
# Makes up the passwords that compose.yaml and deploy/nats/roles.conf ask for:
#
#   deploy/passwords.sh .env
#
# Adds what the file lacks, for instance after roles.conf got another user, and leaves what it has. Each password begins
# with a letter and holds letters and digits only, so that no reader of the file takes it for anything but text.
set -euo pipefail

[[ $# == 1 ]] || { echo "usage: deploy/passwords.sh FILE" >&2; exit 2; }
file=$1
roles=$(dirname "${BASH_SOURCE[0]}")/nats/roles.conf

umask 077
touch "$file"
for name in $(sed -n 's/^ *password: \$\([A-Z0-9_]*\)$/\1/p' "$roles") POSTGRES_PASSWORD; do
  if ! grep -q "^$name=." "$file"; then
    printf '%s=p%s\n' "$name" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >>"$file"
  fi
done

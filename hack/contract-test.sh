#!/bin/sh
# Holds the API at URL to its contract, /openapi.json: schemathesis asks it whatever the contract allows, and what
# it does not, and looks at the answers.
set -eu

[ $# = 1 ] || { echo "usage: contract-test.sh URL" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
home=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-contract-$(cksum <"$root/tests/contract/requirements.txt" | tr ' ' '-')
if [ ! -x "$home/bin/schemathesis" ]; then
  echo "Installing schemathesis, once; it goes to $home" >&2
  rm -rf "$home"
  python3 -m venv "$home"
  "$home/bin/pip" install --quiet --disable-pip-version-check -r "$root/tests/contract/requirements.txt" >&2 ||
    { rm -rf "$home"; exit 1; }
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# Left out: the live feed, which does not end; that all valid data is accepted, since what a field's words mean
# (an address that may be called, a cursor that was handed out) no schema tells; that a job is gone after its
# DELETE, which calls it off and keeps its record.
"$home/bin/schemathesis" run "$1/openapi.json" --exclude-path-regex events --seed 1 --max-examples 25 \
  --exclude-checks positive_data_acceptance,use_after_free --no-color

#!/bin/sh
# What others wrote against the API's contract, web/openapi.json: linters, generators of clients, and the libraries of
# Standard Webhooks. Their packages are pinned in tests/api_clients and installed once, into the user's cache.
#
#   install                           installs them, and answers the environment in which they are found
#   lint FILE                         holds a contract to the rules of Redocly and Spectral; a warning is a failure
#   typescript URL FILM [TOKEN]       generates a client from URL's contract, compiles it, and takes FILM to its end
#   python URL FILM [TOKEN]           the same in Python
#   validate                          holds what the API answered to its contract; see tests/api_clients/validate.py
#   receiver node|python SECRET WRONG a receiver of webhooks; see tests/api_clients/receiver.mjs
set -eu

usage() { sed -n '5,10s/^# *//p' "$0" >&2; exit 2; }
[ $# -ge 1 ] || usage
what=$1
shift

cd "$(dirname "$0")/.."
here=$PWD/tests/api_clients
# shellcheck source=hack/npm.sh
. hack/npm.sh
# shellcheck source=hack/python.sh
. hack/python.sh
npm_node
PATH="$(dirname "$npm_node"):$PATH"
npm_modules tests/api_clients
python_packages tests/api_clients
# openapi-python-client asks ruff to clean up after it.
PATH="$npm_modules/.bin:$python_packages/bin:$PATH"
export PATH
# They are asked about files here; nobody else needs to hear of it.
export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true

in_work_folder() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  trap 'exit 1' INT TERM
  ln -s "$npm_modules" "$work/node_modules"
  cp "$@" "$work/"
  cd "$work"
}

case $what in
install)
  echo "PATH=$PATH"
  echo "NODE_MODULES=$npm_modules"
  ;;
lint)
  [ $# = 1 ] || usage
  found=$(redocly lint --config "$here/redocly.yaml" --format=stylish "$1" 2>&1) || { echo "$found"; exit 1; }
  echo "$found"
  # Redocly ends well with warnings.
  case $found in *[Ww]arning*) exit 1 ;; esac
  spectral lint --ruleset "$here/spectral.yaml" --fail-severity=hint "$1"
  ;;
typescript)
  [ $# -ge 2 ] || usage
  in_work_folder "$here/client.ts" "$here/package.json"
  openapi-typescript "$1/openapi.json" -o tcoder.d.ts >&2
  tsc --strict --noUncheckedIndexedAccess --exactOptionalPropertyTypes --target es2023 --module nodenext client.ts >&2
  node client.js "$@"
  ;;
python)
  [ $# -ge 2 ] || usage
  in_work_folder "$here/client.py"
  curl -sf "$1/openapi.json" >openapi.json
  openapi-python-client generate --fail-on-warning --path openapi.json --output-path generated >&2
  mv generated/tcoder_client .
  mypy --strict client.py tcoder_client >&2
  python client.py "$@"
  ;;
validate)
  python "$here/validate.py"
  ;;
receiver)
  [ $# = 3 ] || usage
  kind=$1
  shift
  case $kind in
  node) NODE_MODULES=$npm_modules exec node "$here/receiver.mjs" "$@" ;;
  python) exec python "$here/receiver.py" "$@" ;;
  *) usage ;;
  esac
  ;;
*) usage ;;
esac

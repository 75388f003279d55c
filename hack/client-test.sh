#!/bin/sh
# The original TCoder's client package, unchanged, against the API at URL, with the film FILM and perhaps TOKEN.
set -eu

[ $# -ge 2 ] || { echo "usage: client-test.sh URL FILM [TOKEN]" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=hack/npm.sh
. "$root/hack/npm.sh"
npm_modules "$root/tests/client"
CLIENT_MODULES=$npm_modules
export CLIENT_MODULES
exec node "$root/tests/client/client.mjs" "$@"

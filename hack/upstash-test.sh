#!/bin/sh
# Upstash's official client, as it is published, against the REST interface at URL.
set -eu

[ $# = 3 ] || { echo "usage: upstash-test.sh URL TOKEN PREFIX" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=hack/npm.sh
. "$root/hack/npm.sh"
npm_modules "$root/tests/upstash"
UPSTASH_MODULES=$npm_modules
export UPSTASH_MODULES
exec node "$root/tests/upstash/client.mjs" "$@"

#!/bin/sh
# Clients of Fly Machines that others wrote, against the Machines API at URL with the token FLY_TOKEN: they make,
# change, stop and destroy machines of APP.
set -eu

[ $# = 2 ] || { echo "usage: FLY_TOKEN=... fly-client-test.sh URL APP" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=hack/npm.sh
. "$root/hack/npm.sh"
npm_modules "$root/tests/fly"
FLY_CLIENT_MODULES=$npm_modules
export FLY_CLIENT_MODULES
exec node "$root/tests/fly/clients.mjs" "$@"

#!/bin/sh
# Runs a Node script of tests/, whose first lines say which arguments it takes: `node.sh SCRIPT [ARGUMENT]...`. The
# script finds in NODE_MODULES the packages that its folder's lock file names, and in CHROMIUM the browser, if there is one.
set -eu

[ $# -ge 1 ] || { echo "usage: node.sh SCRIPT [ARGUMENT]..." >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
script=$root/$1
shift
# shellcheck source=hack/npm.sh
. "$root/hack/npm.sh"
cd "$root"
npm_node
npm_modules "$(dirname "$script")"
NODE_MODULES=$npm_modules
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
export NODE_MODULES CHROMIUM
exec "$npm_node" "$script" "$@"

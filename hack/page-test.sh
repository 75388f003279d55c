#!/bin/sh
# Drives the page in Chromium by a script of tests/page, whose first lines say which arguments it takes.
set -eu

[ $# -gt 1 ] || { echo "usage: page-test.sh SCRIPT ARGUMENT..." >&2; exit 2; }
script=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=hack/npm.sh
. "$root/hack/npm.sh"
npm_modules "$root/tests/page"
PAGE_MODULES=$npm_modules
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$CHROMIUM" ] || { echo "There is no Chromium here; Debian: apt-get install chromium" >&2; exit 1; }
export PAGE_MODULES CHROMIUM
exec node "$root/tests/page/$script" "$@"

#!/bin/sh
# Drives the page at URL in Chromium with the film FILM, and HEAVY, which goes up in two parts; screenshots go to SHOTS.
set -eu

[ $# = 4 ] || { echo "usage: page-test.sh URL FILM HEAVY SHOTS" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=hack/npm.sh
. "$root/hack/npm.sh"
npm_modules "$root/tests/page"
PAGE_MODULES=$npm_modules
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$CHROMIUM" ] || { echo "There is no Chromium here; Debian: apt-get install chromium" >&2; exit 1; }
export PAGE_MODULES CHROMIUM
exec node "$root/tests/page/page.mjs" "$1" "$2" "$3" "$4"

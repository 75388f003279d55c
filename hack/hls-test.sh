#!/bin/sh
# HLS output in parsers and players that others wrote: `hls-test.sh check FOLDER...` holds each folder to RFC 8216,
# `hls-test.sh play FOLDER` plays its master playlist in Chromium, trick play included.
set -eu

[ $# -ge 2 ] || { echo "usage: hls-test.sh check FOLDER... | play FOLDER" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=hack/npm.sh
. "$root/hack/npm.sh"
npm_modules "$root/tests/hls"
HLS_MODULES=$npm_modules
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
export HLS_MODULES CHROMIUM
what=$1
shift
[ "$what" != play ] || [ -n "$CHROMIUM" ] || { echo "There is no Chromium here; Debian: apt-get install chromium" >&2; exit 1; }
exec node "$root/tests/hls/$what.mjs" "$@"

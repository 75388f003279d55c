#!/bin/sh
# Brings the page's video player, hls.js of the version in web/vendor/README.md, from npm into web/vendor.
set -eu

cd "$(dirname "$0")/.."
version=$(sed -n 's/^version: *//p' web/vendor/README.md)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
(cd "$folder" && npm init -y >/dev/null && npm install --ignore-scripts --no-audit --no-fund "hls.js@$version" >/dev/null)
# The whole one: the light one leaves out renditions that share their sound.
grep -v '^//# sourceMappingURL=' "$folder/node_modules/hls.js/dist/hls.min.mjs" >web/vendor/hls.min.mjs
cp "$folder/node_modules/hls.js/LICENSE" web/vendor/hls.LICENSE
sha256sum web/vendor/hls.min.mjs

#!/bin/sh
# Runs the built Worker in workerd for the tests: tests/edge/host.mjs, whose orders come by stdin.
set -eu

cd "$(dirname "$0")/.."
PATH="$HOME/.cargo/bin:$PATH"
# shellcheck source=hack/npm.sh
. hack/npm.sh
# shellcheck source=hack/edge-tools.sh
. hack/edge-tools.sh
edge_tools
[ -f edge/build/index.js ] || { echo "The Worker is not built yet: run hack/edge-build.sh" >&2; exit 1; }
export CLOUDFLARE_CF_FETCH_ENABLED=false WRANGLER_SEND_METRICS=false
exec "$EDGE_NODE" tests/edge/host.mjs wrangler.toml

#!/bin/sh
# Builds the Cloudflare Worker into edge/build: index.js and index_bg.wasm, as `wrangler deploy` takes them.
# With rustup's wasm32 target where it is there, else with Debian's Rust (hack/wasm-toolchain.sh).
set -eu

cd "$(dirname "$0")/.."
PATH="$HOME/.cargo/bin:$PATH"
hack/setup.sh edge
# shellcheck source=hack/wasm-toolchain.sh
. hack/wasm-toolchain.sh
# shellcheck source=hack/npm.sh
. hack/npm.sh
# shellcheck source=hack/edge-tools.sh
. hack/edge-tools.sh
edge_tools
wasm_toolchain
# Small, since an isolate that starts compiles all of it.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=s CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
# wasm-bindgen reads what a strip would take away; it strips itself.
export CARGO_PROFILE_RELEASE_PANIC=abort CARGO_PROFILE_RELEASE_STRIP=none
# worker-build shares the crate's own lock file.
exec "$WORKER_BUILD" --release edge -- --locked

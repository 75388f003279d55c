#!/bin/sh
# Lints, and with that compiles, the part of the library that runs at the edge.
set -eu

cd "$(dirname "$0")/.."
PATH="$HOME/.cargo/bin:$PATH"
# shellcheck source=hack/wasm-toolchain.sh
. hack/wasm-toolchain.sh
wasm_toolchain
# Not `cargo clippy`: where two Rusts are installed, cargo may find the other one's.
exec cargo-clippy clippy --locked --lib -p tcoder -p tcoder-edge --target $wasm_target -- -D warnings

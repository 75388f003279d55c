#!/bin/sh
# Builds the package in benches/peers and runs it: `bench-peers.sh [queue|encode]...`. With DOCS=1 it writes its section of
# docs/figures.md, with PEERS_QUICK=1 it only checks quickly that everything runs.
set -eu

cd "$(dirname "$0")/.."
case ${CARGO_TARGET_DIR:=target} in
/*) ;;
*) CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR ;;
esac
export CARGO_TARGET_DIR
"${CARGO:-cargo}" build --locked --release --manifest-path benches/peers/Cargo.toml
[ -z "${DOCS:-}" ] || set -- --docs docs/figures.md "$@"
exec "$CARGO_TARGET_DIR/release/peers" "$@"

# shellcheck shell=sh
# The programs that build and run the edge. To be sourced by scripts under `set -eu`, in the project's
# folder, after hack/wasm-toolchain.sh and hack/npm.sh; it defines one function:
#
#   edge_tools   installs what is missing and sets WORKER_BUILD, WASM_BINDGEN_BIN, WASM_OPT_BIN, ESBUILD_BIN,
#                EDGE_NODE (Node 22 or newer) and EDGE_MODULES (wrangler, miniflare)
#
# Everything goes to the user's cache, by version; nothing is downloaded but by cargo and npm.

edge_version() {
  # The version of the package $1 in Cargo.lock.
  sed -n "/^name = \"$1\"$/{n;s/^version = \"\(.*\)\"$/\1/p;}" Cargo.lock
}

edge_tools() {
  edge_home=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-edge
  # worker-build goes with the crate `worker`, and the tool wasm-bindgen with its crate, to the digit.
  edge_cargo worker-build "$(edge_version worker)"
  WORKER_BUILD=$edge_bin/worker-build
  edge_cargo wasm-bindgen-cli "$(edge_version wasm-bindgen)"
  export WASM_BINDGEN_BIN="$edge_bin/wasm-bindgen"

  npm_modules edge
  EDGE_MODULES=$npm_modules
  npm_node
  EDGE_NODE=$npm_node
  # npm's launchers find Node on the PATH.
  PATH="$(dirname "$EDGE_NODE"):$PATH"
  export EDGE_MODULES EDGE_NODE WORKER_BUILD PATH
  export WASM_OPT_BIN="$EDGE_MODULES/.bin/wasm-opt" ESBUILD_BIN="$EDGE_MODULES/.bin/esbuild"
}

# The program of the crate $1 in version $2; sets edge_bin to its folder.
edge_cargo() {
  edge_bin=$edge_home/$1-$2/bin
  [ -d "$edge_bin" ] && return 0
  echo "Compiling $1 $2, once; it goes to $edge_home" >&2
  mkdir -p "$edge_home"
  edge_new=$(mktemp -d "$edge_home/new.XXXXXX")
  # Of the machine's own Rust, not the one for wasm32. Debug builds: they do the same, and compile in a
  # third of the time.
  env -u RUSTC -u SYSROOT -u CARGO_TARGET_DIR -u CARGO_BUILD_TARGET \
    cargo install --quiet --locked --debug --root "$edge_new" "$1@$2" >&2
  # Somebody else may have installed it meanwhile.
  mv -T "$edge_new" "$edge_home/$1-$2" 2>/dev/null || rm -rf "$edge_new"
}

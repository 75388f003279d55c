# shellcheck shell=sh
# Which Rust compiles to wasm32-unknown-unknown. To be sourced by scripts under `set -eu`; it only
# defines functions:
#
#   wasm_missing     prints what apt has to install first, as Debian's package names
#   wasm_toolchain   sets the environment so that cargo, cargo-clippy and rustc build for wasm32
#
# The Rust on the PATH where it has that target (rustup target add wasm32-unknown-unknown). Otherwise
# Debian's, whose package leaves the target out but whose sources hold it: the standard library is
# compiled once, and kept in the user's cache until the compiler changes.

wasm_target=wasm32-unknown-unknown

wasm_has_target() {
  wasm_libs=$(rustc --print target-libdir --target $wasm_target 2>/dev/null) && [ -d "$wasm_libs" ]
}

wasm_missing() {
  wasm_has_target && return 0
  for wasm_package in rustc-web rust-web-src rust-web-clippy lld-19; do
    dpkg-query --show --showformat='${Status}' $wasm_package 2>/dev/null | grep -q ' installed$' ||
      printf ' %s' $wasm_package
  done
}

wasm_toolchain() {
  wasm_has_target && return 0
  wasm_sysroot=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-wasm-sysroot
  wasm_build_sysroot "$wasm_sysroot" /usr/bin
  # Tools look for rustc in the one or the other; clippy takes its sysroot from a variable of its own.
  export PATH="$wasm_sysroot/bin:$PATH" RUSTC="$wasm_sysroot/bin/rustc" SYSROOT="$wasm_sysroot"
  export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld-19
}

# A sysroot at $1 for the compiler in the folder $2: its own, and the standard library for wasm32.
wasm_build_sysroot() (
  set -eu
  version=$("$2/rustc" -vV)
  [ "$(cat "$1/version" 2>/dev/null)" != "$version" ] || exit 0
  echo "Compiling Rust's standard library for $wasm_target, once; it goes to $1" >&2
  host=$(printf '%s\n' "$version" | sed -n 's/^host: //p')
  base=$("$2/rustc" --print sysroot)
  # Moved into place when complete, so that nobody meets half of it.
  mkdir -p "$(dirname "$1")"
  new=$(mktemp -d "$1.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  trap 'exit 1' HUP INT TERM

  mkdir -p "$new/bin" "$new/lib/rustlib/$wasm_target/lib" "$new/seed/src"
  ln -s "$base/lib/rustlib/$host" "$base/lib/rustlib/src" "$new/lib/rustlib/"
  ln -s "$2/cargo-clippy" "$2/clippy-driver" "$new/bin/"
  printf '#!/bin/sh\nexec %s/rustc --sysroot %s "$@"\n' "$2" "'$1'" >"$new/bin/rustc"
  chmod +x "$new/bin/rustc"

  # Cargo compiles a standard library only for a crate that uses it.
  printf '[package]\nname = "seed"\nedition = "2024"\n[profile.release]\nopt-level = "s"\n[workspace]\n' \
    >"$new/seed/Cargo.toml"
  echo '#![no_std]' >"$new/seed/src/lib.rs"
  cd "$new/seed"
  # With bitcode, or link-time optimisation could not be used later. The unstable option is the way
  # to do this with a stable compiler.
  env -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET -u RUSTC_WRAPPER -u RUSTC_WORKSPACE_WRAPPER \
    RUSTC="$2/rustc" RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Cembed-bitcode=yes CARGO_TARGET_DIR="$new/seed/target" \
    cargo build --quiet --release --target $wasm_target -Zbuild-std=std,panic_abort,proc_macro,test
  for library in target/$wasm_target/release/deps/*.rlib; do
    case $library in
    */libseed-*) ;;
    *) mv "$library" "$new/lib/rustlib/$wasm_target/lib/" ;;
    esac
  done
  cd "$new"
  rm -rf seed
  printf '%s\n' "$version" >version
  chmod 755 "$new"
  rm -rf "$1"
  mv "$new" "$1"
)

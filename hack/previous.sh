#!/bin/sh
# Builds the version of tcoder from which an upgrade may start, and prints the path of its binary. The build is kept
# outside the checkout. After a release, pin that release here, and record its scripts in tests/it/queue/previous.
set -eu

commit=b5e2cdda3ee0c2fd28046b386a2708200704c641
here=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-previous
binary=$cache/tcoder-$commit

if [ ! -x "$binary" ]; then
  git -C "$here" cat-file -e "$commit^{commit}" 2>/dev/null || {
    echo "The commit $commit is not here; fetch the whole history: git fetch --unshallow" >&2
    exit 1
  }
  rm -rf "$cache/source"
  mkdir -p "$cache/source"
  git -C "$here" archive "$commit" | tar -xf - -C "$cache/source"
  (cd "$cache/source" && CARGO_TARGET_DIR="$cache/target" "${CARGO:-cargo}" build --locked >&2)
  cp "$cache/target/debug/tcoder" "$binary.new"
  mv "$binary.new" "$binary"
fi
echo "$binary"

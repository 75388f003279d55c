#!/bin/sh
# Prints the folder of Kueue's sources in the version of hack/kueue/go.mod, for its definitions (config/components/crd/bases),
# which the tests of the operator apply. With the argument `controller` it prints the path of Kueue's controller, which
# `make test-kueue` runs: from the cache, or a build with Go, which takes some minutes, once.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/download.sh
. "$here/download.sh"
version=$(sed -n 's#^[[:space:]]*sigs.k8s.io/kueue v\([0-9.]*\).*#\1#p' "$here/kueue/go.mod")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-kueue

go_can_build || {
  echo "The tests of the operator need the sources of Kueue $version, which Go fetches: install Go 1.21 or later" >&2
  echo "(https://go.dev/dl), then run the same command again." >&2
  exit 1
}

# Go fetches a newer Go by itself where go.mod asks for one.
in_module() { (cd "$here/kueue" && GOTOOLCHAIN=${GOTOOLCHAIN:-auto} GOFLAGS=-trimpath CGO_ENABLED=0 go "$@"); }

case ${1:-} in
  "")
    in_module mod download sigs.k8s.io/kueue >&2
    in_module list -m -f '{{.Dir}}' sigs.k8s.io/kueue
    ;;
  controller)
    controller=$cache/kueue-$version
    if [ ! -x "$controller" ]; then
      mkdir -p "$cache"
      work=$(mktemp -d "$cache/new.XXXXXX")
      trap 'rm -rf "$work"' EXIT
      trap 'exit 1' INT TERM
      echo "Building Kueue $version with Go, once; this takes about four minutes." >&2
      in_module build -ldflags "-s -w" -o "$work/kueue" sigs.k8s.io/kueue/cmd/kueue >&2
      # In one step: another run may do the same at this time.
      mv "$work/kueue" "$controller"
    fi
    echo "$controller"
    ;;
  *)
    echo "usage: kueue.sh [controller]" >&2
    exit 2
    ;;
esac

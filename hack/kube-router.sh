#!/bin/sh
# Prints the path of kube-router in the version of hack/node/policies/go.mod, which keeps the NetworkPolicies in the tests on a
# node: from the cache, or a build with Go, which takes about two minutes, once.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/download.sh
. "$here/download.sh"
version=$(sed -n 's#^[[:space:]]*github.com/cloudnativelabs/kube-router/v2 v\([0-9.]*\).*#\1#p' "$here/node/policies/go.mod")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-kube-router
program=$cache/kube-router-$version

if [ ! -x "$program" ]; then
  go_can_build || {
    echo "The tests on a node need kube-router $version, which is built with Go. Install Go 1.21 or later" >&2
    echo "(https://go.dev/dl), then run the same command again." >&2
    exit 1
  }
  echo "Building kube-router $version with Go, once; this takes about two minutes." >&2
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  trap 'exit 1' INT TERM
  # Go fetches a newer Go by itself where go.mod asks for one.
  (cd "$here/node/policies" && CGO_ENABLED=0 GOTOOLCHAIN=${GOTOOLCHAIN:-auto} GOFLAGS=-trimpath \
    go build -ldflags "-s -w" -o "$work/kube-router" github.com/cloudnativelabs/kube-router/v2/cmd/kube-router >&2)
  # In one step: another run may do the same at this time.
  mv "$work/kube-router" "$program"
fi
echo "$program"

#!/bin/sh
# Prints the path of Helm, which the tests of the chart run. It is built once from hack/helm/go.mod, which takes about
# two minutes; without Go, it is the user's own.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n 's#^[[:space:]]*helm.sh/helm/v4 v\([0-9.]*\).*#\1#p' "$here/helm/go.mod")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-helm
helm=$cache/helm-$version

if [ ! -x "$helm" ]; then
  if command -v go >/dev/null 2>&1; then
    echo "Building Helm $version with Go, once; this takes about two minutes." >&2
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' INT TERM
    # Go fetches a newer Go by itself where go.mod asks for one.
    (cd "$here/helm" && CGO_ENABLED=0 GOTOOLCHAIN=${GOTOOLCHAIN:-auto} GOFLAGS=-trimpath \
      go build -ldflags "-s -w" -o "$work/helm" helm.sh/helm/v4/cmd/helm >&2)
    # In one step: another run may build it at the same time.
    mv "$work/helm" "$helm"
  elif command -v helm >/dev/null 2>&1; then
    helm=$(command -v helm)
  else
    echo "The tests of the chart need Helm: install Go (https://go.dev/dl), with which this script builds it, or Helm." >&2
    exit 1
  fi
fi
echo "$helm"

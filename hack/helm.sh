#!/bin/sh
# Prints the path of Helm in the version of hack/helm/go.mod, which the tests of the chart run: from the cache, or the
# official release, or a build with Go, which takes about two minutes, once.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/download.sh
. "$here/download.sh"
version=$(sed -n 's#^[[:space:]]*helm.sh/helm/v4 v\([0-9.]*\).*#\1#p' "$here/helm/go.mod")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-helm
helm=$cache/helm-$version

# Both write the program to $1.
download() {
  release_arch || return 1
  name=helm-v$version-linux-$arch.tar.gz
  fetch "https://get.helm.sh/$name.sha256sum" "$work/sum" && fetch "https://get.helm.sh/$name" "$work/$name" &&
    verify "$work/$name" "$(cut -d ' ' -f 1 <"$work/sum")" && tar -xzf "$work/$name" -C "$work" &&
    mv "$work/linux-$arch/helm" "$1"
}

build_with_go() {
  has go || return 1
  echo "Building Helm $version with Go, once; this takes about two minutes." >&2
  # Go fetches a newer Go by itself where go.mod asks for one.
  (cd "$here/helm" && CGO_ENABLED=0 GOTOOLCHAIN=${GOTOOLCHAIN:-auto} GOFLAGS=-trimpath \
    go build -ldflags "-s -w" -o "$1" helm.sh/helm/v4/cmd/helm >&2)
}

if [ ! -x "$helm" ]; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  trap 'exit 1' INT TERM
  download "$work/helm" || build_with_go "$work/helm" || {
    echo "The tests of the chart need Helm $version: its release cannot be fetched from here, and there is no Go to" >&2
    echo "build it with. Install Go (https://go.dev/dl), then run the same command again." >&2
    exit 1
  }
  # In one step: another run may do the same at this time.
  mv "$work/helm" "$helm"
fi
echo "$helm"

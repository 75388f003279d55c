#!/bin/sh
# Finds or makes the Kubernetes API server that the operator's tests run on: a folder with kube-apiserver, etcd and
# kubectl. Prints the folder's path. It tries, in this order:
#
#   1. $KUBEBUILDER_ASSETS, as setup-envtest fills it. What it lacks is taken from the places below.
#   2. the cache, filled by an earlier run
#   3. the official release of the version that hack/envtest/go.mod requires
#   4. a build of that version with Go, from hack/envtest/go.mod
#
# With KUBERNETES=oldest the version is the oldest one that tcoder supports, of hack/envtest/oldest/go.mod; only 2, 3 and 4 are
# tried. With the argument `node` the folder also has kubelet, kube-scheduler, kube-controller-manager and kube-proxy.
# These two files are the only place where the versions are written; tests hold the documents to them.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/download.sh
. "$here/download.sh"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-envtest
which=${KUBERNETES:-newest}
case $which in
  newest) modules=$here/envtest ;;
  oldest) modules=$here/envtest/oldest ;;
  *) echo "KUBERNETES is $which; it must be newest or oldest" >&2; exit 2 ;;
esac
case ${1:-} in
  "" | node) with=${1:-} ;;
  *) echo "usage: envtest.sh [node]" >&2; exit 2 ;;
esac
# The version of the module $1 in go.mod, without its "v".
required() { sed -n "s#^[[:space:]]*$1 v\([0-9.]*\).*#\1#p" "$modules/go.mod" | head -n 1; }
kubernetes=$(required k8s.io/kubernetes)
etcd_version=$(required go.etcd.io/etcd/server/v3)
current=$cache/kubernetes-$kubernetes
node_programs="kubelet kube-scheduler kube-controller-manager kube-proxy"

log() { echo "$*" >&2; }

give_up() {
  cat >&2 <<TEXT
The operator's tests need a Kubernetes API server, and none could be had: $*.

  Go 1.21+        https://go.dev/dl; then this script builds Kubernetes $kubernetes itself
  setup-envtest   export KUBEBUILDER_ASSETS="\$(setup-envtest use -p path)"
  by hand         a folder with kube-apiserver (1.33 or newer), etcd (3.5 or newer) and kubectl, and
                  KUBEBUILDER_ASSETS set to it

Then run the same command again.
TEXT
  exit 1
}

# Whether version $1 (MAJOR.MINOR...) is at least $2.
at_least() {
  [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# What `$1 $2...` says its version is.
version_of() { "$@" 2>/dev/null | sed -n 's/^[^0-9]*\([0-9][0-9]*\.[0-9][0-9]*\).*/\1/p' | head -n 1; }

is_complete() { has_all "$1" kube-apiserver etcd kubectl; }

# Whether the folder $1 has these programs.
has_all() {
  folder_of_programs=$1
  shift
  for program in "$@"; do
    [ -x "$folder_of_programs/$program" ] || return 1
  done
}

# Kubernetes and etcd as their makers built them, into the folder $1. There is no API server for macOS among them.
download() {
  release_arch || return 1
  download_programs "$1" kube-apiserver kubectl || return 1
  name=etcd-v$etcd_version-linux-$arch
  from=https://github.com/etcd-io/etcd/releases/download/v$etcd_version
  fetch "$from/SHA256SUMS" "$1/SHA256SUMS" && fetch "$from/$name.tar.gz" "$1/$name.tar.gz" &&
    verify "$1/$name.tar.gz" "$(sed -n "s/  $name.tar.gz\$//p" "$1/SHA256SUMS")" &&
    tar -xzf "$1/$name.tar.gz" -C "$1" && mv "$1/$name/etcd" "$1/etcd"
}

# These programs of Kubernetes into the folder $1.
download_programs() {
  release_arch || return 1
  to=$1
  shift
  for program in "$@"; do
    from=https://dl.k8s.io/v$kubernetes/bin/linux/$arch/$program
    fetch "$from.sha256" "$to/$program.sha256" && fetch "$from" "$to/$program" &&
      verify "$to/$program" "$(cat "$to/$program.sha256")" || return 1
    chmod +x "$to/$program"
  done
}

# The same from their Go modules.
build_with_go() {
  go_can_build || return 1
  log "Building Kubernetes $kubernetes and etcd $etcd_version with Go, once; this takes about five minutes."
  go_build "$1" k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl go.etcd.io/etcd/server/v3 || return 1
  # The package is named after its folder.
  mv "$1/server" "$1/etcd" 2>/dev/null || mv "$1/v3" "$1/etcd"
}

# Builds packages into the folder $1.
go_build() {
  to=$1
  shift
  stamp=k8s.io/component-base/version
  minor=${kubernetes#*.}
  (
    cd "$modules"
    CGO_ENABLED=0 GOTOOLCHAIN=${GOTOOLCHAIN:-auto} GOFLAGS=-trimpath go build -o "$to/" \
      -ldflags "-s -w -X $stamp.gitVersion=v$kubernetes -X $stamp.gitMajor=${kubernetes%%.*} \
        -X $stamp.gitMinor=${minor%%.*}" "$@" >&2
  )
}

# Adds the programs of a node to the folder $1.
add_node_programs() {
  # shellcheck disable=SC2086 # a list of programs
  has_all "$1" $node_programs && return 0
  work=$(mktemp -d "$cache/new.XXXXXX")
  # shellcheck disable=SC2086
  if ! download_programs "$work" $node_programs && go_can_build; then
    log "Building the programs of a node of Kubernetes $kubernetes with Go, once; this takes some minutes."
    # shellcheck disable=SC2046
    go_build "$work" $(printf 'k8s.io/kubernetes/cmd/%s ' $node_programs) || log "The build failed."
  fi
  for program in $node_programs; do
    [ ! -x "$work/$program" ] || mv "$work/$program" "$1/$program"
  done
  rm -rf "$work"
  # shellcheck disable=SC2086
  has_all "$1" $node_programs
}

# Fills the cache's folder $1 by the command that follows. Nothing appears there before all three programs work.
fill() {
  folder=$1
  shift
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/new.XXXXXX")
  if "$@" "$work" && is_complete "$work"; then
    mkdir "$work/programs"
    mv "$work/kube-apiserver" "$work/etcd" "$work/kubectl" "$work/programs/"
    # Another run may have been faster; what is not complete is of no use to anybody.
    is_complete "$folder" || rm -rf "$folder"
    mv -T "$work/programs" "$folder" 2>/dev/null || true
  fi
  rm -rf "$work"
  is_complete "$folder"
}

# A folder of its own for the programs of $1 and, where it has none, those of the folder $2.
complete_with() {
  folder=$cache/sets/$(printf '%s:%s' "$1" "$2" | cksum | cut -d ' ' -f 1)
  mkdir -p "$folder"
  for program in kube-apiserver etcd kubectl; do
    if [ -x "$1/$program" ]; then from=$1; else from=$2; fi
    ln -sf "$from/$program" "$folder/$program"
  done
  echo "$folder"
}

see_to_current() {
  has openssl || give_up "the program openssl is missing"
  is_complete "$current" || fill "$current" download || fill "$current" build_with_go ||
    give_up "neither the official release nor a build"
}

if [ "$which" = oldest ] || [ -n "$with" ]; then
  see_to_current
  [ -z "$with" ] || add_node_programs "$current" || give_up "no build of the programs of a node"
  echo "$current"
  exit
fi
assets=${KUBEBUILDER_ASSETS:-}
if [ -n "$assets" ] && is_complete "$assets"; then
  echo "$assets"
  exit
fi
see_to_current
found=$current
if [ -n "$assets" ] && [ -x "$assets/kube-apiserver" ]; then
  found=$(complete_with "$assets" "$found")
fi
echo "$found"

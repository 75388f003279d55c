#!/bin/sh
# Finds or makes the Kubernetes API server that the operator's tests run on: a folder with kube-apiserver, etcd and
# kubectl. Prints the folder's path. It tries, in this order:
#
#   1. $KUBEBUILDER_ASSETS, as setup-envtest fills it. What it lacks is taken from the places below.
#   2. the cache, filled by an earlier run
#   3. the official release of the version that hack/envtest/go.mod requires
#   4. a build of that version with Go, from hack/envtest/go.mod
#   5. a build of Kubernetes 1.20 from Debian's source package, for a machine without Go
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-envtest
# The version of the module $1 in go.mod, without its "v".
required() { sed -n "s#^[[:space:]]*$1 v\([0-9.]*\).*#\1#p" "$here/envtest/go.mod" | head -n 1; }
kubernetes=$(required k8s.io/kubernetes)
etcd_version=$(required go.etcd.io/etcd/server/v3)
current=$cache/kubernetes-$kubernetes
debian=$cache/kubernetes-1.20-debian
# Older versions of kubectl cannot build the overlays in manifests/.
oldest_kubectl=1.21

log() { echo "$*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

give_up() {
  cat >&2 <<TEXT
The operator's tests need a Kubernetes API server, and none could be had: $*.

  Go 1.21+        https://go.dev/dl; then this script builds Kubernetes $kubernetes itself
  setup-envtest   export KUBEBUILDER_ASSETS="\$(setup-envtest use -p path)"
  by hand         a folder with kube-apiserver, etcd (3.5 or newer) and kubectl ($oldest_kubectl or newer),
                  and KUBEBUILDER_ASSETS set to it

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

is_complete() {
  for program in kube-apiserver etcd kubectl; do
    [ -x "$1/$program" ] || return 1
  done
}

fetch() {
  if has curl; then
    curl -fsSL --connect-timeout 10 --max-time 600 -o "$2" "$1"
  else
    wget -q --connect-timeout=10 --tries=1 -O "$2" "$1"
  fi 2>/dev/null
}

# Checks the file $1 against the SHA-256 sum $2.
verify() {
  sum=$({ sha256sum "$1" 2>/dev/null || shasum -a 256 "$1"; } | cut -d ' ' -f 1)
  [ "$sum" = "$2" ] || { log "$1 has the SHA-256 sum $sum instead of $2"; return 1; }
}

# Kubernetes and etcd as their makers built them, into the folder $1. There is no API server for macOS among them.
download() {
  [ "$(uname -s)" = Linux ] || return 1
  case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) return 1 ;;
  esac
  for program in kube-apiserver kubectl; do
    from=https://dl.k8s.io/v$kubernetes/bin/linux/$arch/$program
    fetch "$from.sha256" "$1/$program.sha256" && fetch "$from" "$1/$program" &&
      verify "$1/$program" "$(cat "$1/$program.sha256")" || return 1
    chmod +x "$1/$program"
  done
  name=etcd-v$etcd_version-linux-$arch
  from=https://github.com/etcd-io/etcd/releases/download/v$etcd_version
  fetch "$from/SHA256SUMS" "$1/SHA256SUMS" && fetch "$from/$name.tar.gz" "$1/$name.tar.gz" &&
    verify "$1/$name.tar.gz" "$(sed -n "s/  $name.tar.gz\$//p" "$1/SHA256SUMS")" &&
    tar -xzf "$1/$name.tar.gz" -C "$1" && mv "$1/$name/etcd" "$1/etcd"
}

# The same from their Go modules. Go fetches a newer Go by itself where go.mod asks for one.
build_with_go() {
  has go && at_least "$(version_of go version)" 1.21 || return 1
  log "Building Kubernetes $kubernetes and etcd $etcd_version with Go, once; this takes about five minutes."
  stamp=k8s.io/component-base/version
  minor=${kubernetes#*.}
  (
    cd "$here/envtest"
    CGO_ENABLED=0 GOTOOLCHAIN=${GOTOOLCHAIN:-auto} GOFLAGS=-trimpath go build -o "$1/" \
      -ldflags "-s -w -X $stamp.gitVersion=v$kubernetes -X $stamp.gitMajor=${kubernetes%%.*} \
        -X $stamp.gitMinor=${minor%%.*}" \
      k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl go.etcd.io/etcd/server/v3 >&2
  ) || return 1
  # The package is named after its folder.
  mv "$1/server" "$1/etcd" 2>/dev/null || mv "$1/v3" "$1/etcd"
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

build_from_debian() {
  # Current releases of kubectl and etcd do for the old API server; Debian's own kubectl is too old.
  kubectl=$(command -v kubectl || true)
  if [ -z "$kubectl" ] || ! at_least "$(version_of "$kubectl" version --client)" $oldest_kubectl; then
    log "There is no kubectl $oldest_kubectl or newer to go with Debian's Kubernetes."
    return 1
  fi
  "$here/envtest/build-from-debian.sh" "$1" >&2 && ln -s "$kubectl" "$1/kubectl"
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

assets=${KUBEBUILDER_ASSETS:-}
if [ -n "$assets" ] && is_complete "$assets"; then
  echo "$assets"
  exit
fi
has openssl || give_up "the program openssl is missing"
if is_complete "$current" || fill "$current" download; then
  found=$current
else
  is_complete "$debian" || log "The official release of Kubernetes cannot be fetched from here."
  if fill "$current" build_with_go; then
    found=$current
  elif is_complete "$debian" || fill "$debian" build_from_debian; then
    log "The operator's tests run on Kubernetes 1.20, which knows no validation rules (CEL); Go brings a current one."
    found=$debian
  else
    give_up "neither the official release nor a build"
  fi
fi
if [ -n "$assets" ] && [ -x "$assets/kube-apiserver" ]; then
  found=$(complete_with "$assets" "$found")
fi
echo "$found"

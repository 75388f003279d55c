#!/bin/sh
# Finds or makes what the operator's tests run on, a folder with kube-apiserver, etcd and kubectl, and
# prints its path. In this order: $KUBEBUILDER_ASSETS (as setup-envtest fills it), our cache, the official
# release, a build from Debian's source package. etcd and kubectl may come from the PATH.
set -eu

cache=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-envtest
release=1.34.1
# Older ones cannot build the overlays in manifests/.
oldest_kubectl=21

say() { echo "$*" >&2; }

give_up() {
  cat >&2 <<TEXT
The operator's tests need a Kubernetes API server, and none could be had: $*.

  setup-envtest:  export KUBEBUILDER_ASSETS="\$(setup-envtest use -p path)"
  by hand:        a folder with kube-apiserver, etcd and kubectl (1.$oldest_kubectl or newer) of one release,
                  and KUBEBUILDER_ASSETS set to it

Then run the same command again.
TEXT
  exit 1
}

found() {
  for folder in "${KUBEBUILDER_ASSETS:-}" "$cache/bin"; do
    if [ -n "$folder" ] && [ -x "$folder/$1" ]; then
      echo "$folder/$1"
      return
    fi
  done
  command -v "$1" || :
}

kubectl_is_new_enough() {
  minor=$("$1" version --client 2>/dev/null | sed -n 's/.*v1\.\([0-9]*\).*/\1/p' | head -n 1)
  [ -n "$minor" ] && [ "$minor" -ge $oldest_kubectl ]
}

found_kubectl() {
  at=$(found kubectl)
  if [ -n "$at" ] && kubectl_is_new_enough "$at"; then echo "$at"; fi
}

fetch() {
  if command -v curl >/dev/null; then
    curl -fsSL --connect-timeout 10 --max-time 600 -o "$2" "$1"
  else
    wget -q --connect-timeout=10 --tries=1 -O "$2" "$1"
  fi
}

# The programs of the official release, all three of one version.
download() {
  case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) return 1 ;;
  esac
  name=envtest-v$release-$(uname -s | tr '[:upper:]' '[:lower:]')-$arch.tar.gz
  from=https://github.com/kubernetes-sigs/controller-tools/releases/download/envtest-v$release
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/download.XXXXXX")
  if fetch "$from/$name" "$work/$name" 2>/dev/null &&
    fetch "$from/$name.sha512" "$work/$name.sha512" 2>/dev/null &&
    (cd "$work" && { sha512sum -c "$name.sha512" || shasum -a 512 -c "$name.sha512"; } >/dev/null 2>&1) &&
    tar -xzf "$work/$name" -C "$work"; then
    mkdir -p "$cache/bin"
    mv "$work"/controller-tools/envtest/* "$cache/bin/"
    rm -rf "$work"
    return 0
  fi
  rm -rf "$work"
  return 1
}

# Kubernetes 1.20 from Debian bookworm's source package, for machines that reach packages only.
build() {
  command -v apt-get >/dev/null || return 1
  root=
  [ "$(id -u)" = 0 ] || root=sudo
  [ -z "$root" ] || command -v sudo >/dev/null || return 1
  say "Building kube-apiserver from Debian's source package; this takes some minutes, once."
  version=1.20.5+really1.20.2-1.1+deb12u1
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/build.XXXXXX")
  # A process of its own, which ends at the first failure; a function in a condition would not.
  failed=0
  "$0" --build-in "$work" "$version" "$root" >&2 || failed=1
  if [ $failed = 0 ]; then
    mkdir -p "$cache/bin"
    mv "$work/kube-apiserver" "$cache/bin/"
  fi
  # Go keeps its modules read-only.
  chmod -R u+w "$work"
  rm -rf "$work"
  return $failed
}

build_in() {
  root=$3
  export DEBIAN_FRONTEND=noninteractive
  $root apt-get update -qq
  $root apt-get install -y -qq --no-install-recommends \
    golang-1.19-go golang-github-modern-go-reflect2-dev dpkg-dev xz-utils >/dev/null
  cd "$1"
  # From where packages come already, by a list of our own: the system's is left as it is.
  # shellcheck disable=SC2016 # apt fills it in
  site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -n 1)
  mkdir lists
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site bookworm main" >sources.list
  ours="-o Dir::Etc::sourcelist=$1/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$1/lists"
  # shellcheck disable=SC2086 # a list of options
  apt-get $ours update -qq
  # shellcheck disable=SC2086
  apt-get $ours source -qq --download-only "kubernetes=$2"
  export GOPATH="$1/go" GOCACHE="$1/cache" GO111MODULE=off CGO_ENABLED=0 PATH="/usr/lib/go-1.19/bin:$PATH"
  tree=$GOPATH/src/k8s.io/kubernetes
  mkdir -p "$tree"
  tar -xf kubernetes_*.orig.tar.* -C "$tree" --strip-components=1
  cd "$tree"
  # The vendored one, with a Go of 1.18 or newer, makes a server that crashes at the first write.
  rm -rf vendor/github.com/modern-go/reflect2
  cp -r /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/
  # Debian's tarball leaves generated code out.
  go build -o "$1/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  packages=$(grep -rl --include='*.go' --exclude='zz_generated*' --exclude='*_test.go' '+k8s:openapi-gen=' \
    pkg cmd staging/src/k8s.io | grep -v /testdata/ |
    sed -e 's#/[^/]*$##' -e 's#^staging/src/#vendor/#' -e 's#^#k8s.io/kubernetes/#' | sort -u | paste -sd, -)
  "$1/openapi-gen" --input-dirs "$packages" --output-package k8s.io/kubernetes/pkg/generated/openapi \
    --output-file-base zz_generated.openapi --output-base "$GOPATH/src" \
    --go-header-file hack/boilerplate/boilerplate.generatego.txt
  at=k8s.io/kubernetes/vendor/k8s.io/component-base/version
  go build -o "$1/kube-apiserver" \
    -ldflags "-s -w -X $at.gitVersion=v1.20.2 -X $at.gitMajor=1 -X $at.gitMinor=20" ./cmd/kube-apiserver
}

if [ "${1:-}" = --build-in ]; then
  shift
  build_in "$@"
  exit
fi
if [ -z "$(found kube-apiserver)" ] || [ -z "$(found etcd)" ] || [ -z "$(found_kubectl)" ]; then
  download || say "The official release of Kubernetes cannot be fetched from here."
fi
[ -n "$(found kube-apiserver)" ] || build || give_up "no release, and no build"
[ -n "$(found etcd)" ] || give_up "etcd is missing (Debian: apt-get install etcd-server)"
[ -n "$(found_kubectl)" ] || give_up "kubectl is missing, or older than 1.$oldest_kubectl"
command -v openssl >/dev/null || give_up "the program openssl is missing"

api_server=$(found kube-apiserver) etcd=$(found etcd) kubectl=$(found_kubectl)
# One folder for each set, so that two runs with different ones do not disturb each other.
set_of=$(printf '%s:%s:%s' "$api_server" "$etcd" "$kubectl" | cksum | cut -d ' ' -f 1)
folder=$cache/sets/$set_of
mkdir -p "$folder"
for program in "$api_server" "$etcd" "$kubectl"; do
  ln -sf "$program" "$folder/"
done
echo "$folder"

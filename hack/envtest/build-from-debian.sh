#!/bin/sh
# Builds the API server of Kubernetes 1.20 from Debian bookworm's source package, and takes etcd from Debian: for
# machines that reach Debian's packages and have no Go. Usage: build-from-debian.sh FOLDER
#
# The packages are installed, the build's own files are removed. It takes about five minutes on two cores.
set -eu

destination=${1:?usage: build-from-debian.sh FOLDER}
command -v apt-get >/dev/null || exit 1
root=
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || exit 1
  root=sudo
fi
version=1.20.5+really1.20.2-1.1+deb12u1
echo "Building kube-apiserver 1.20 from Debian's source package; this takes some minutes, once."
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq
$root apt-get install -y -qq --no-install-recommends \
  golang-1.19-go golang-github-modern-go-reflect2-dev dpkg-dev xz-utils etcd-server >/dev/null
work=$(mktemp -d "$destination/build.XXXXXX")
# Go keeps its modules read-only.
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"
# From the mirror that serves this system already, by a list of our own: the system's is left as it is.
# shellcheck disable=SC2016 # apt fills it in
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -n 1)
mkdir lists
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site bookworm main" >sources.list
ours="-o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$work/lists"
# shellcheck disable=SC2086 # a list of options
apt-get $ours update -qq
# shellcheck disable=SC2086
apt-get $ours source -qq --download-only "kubernetes=$version"
export GOPATH="$work/go" GOCACHE="$work/cache" GO111MODULE=off CGO_ENABLED=0 PATH="/usr/lib/go-1.19/bin:$PATH"
tree=$GOPATH/src/k8s.io/kubernetes
mkdir -p "$tree"
tar -xf kubernetes_*.orig.tar.* -C "$tree" --strip-components=1
cd "$tree"
# The vendored one, with a Go of 1.18 or newer, makes a server that crashes at the first write.
rm -rf vendor/github.com/modern-go/reflect2
cp -r /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/
# Debian's tarball leaves generated code out.
go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
packages=$(grep -rl --include='*.go' --exclude='zz_generated*' --exclude='*_test.go' '+k8s:openapi-gen=' \
  pkg cmd staging/src/k8s.io | grep -v /testdata/ |
  sed -e 's#/[^/]*$##' -e 's#^staging/src/#vendor/#' -e 's#^#k8s.io/kubernetes/#' | sort -u | paste -sd, -)
"$work/openapi-gen" --input-dirs "$packages" --output-package k8s.io/kubernetes/pkg/generated/openapi \
  --output-file-base zz_generated.openapi --output-base "$GOPATH/src" \
  --go-header-file hack/boilerplate/boilerplate.generatego.txt
stamp=k8s.io/kubernetes/vendor/k8s.io/component-base/version
go build -o "$destination/kube-apiserver" \
  -ldflags "-s -w -X $stamp.gitVersion=v1.20.2 -X $stamp.gitMajor=1 -X $stamp.gitMinor=20" ./cmd/kube-apiserver
ln -s "$(command -v etcd)" "$destination/etcd"

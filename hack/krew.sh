#!/bin/sh
# The archives and the manifest of the kubectl plugin for krew.
#
#   krew.sh archive PROGRAM ARCH FOLDER    writes kubectl-tcoder-linux-ARCH.tar.gz into the folder, of this tcoder program
#   krew.sh manifest OWNER VERSION FOLDER  prints manifests/krew/tcoder.yaml for the archives in the folder; VERSION has its "v"
#   krew.sh validator                      prints the path of krew's own validator of manifests, which Go builds once
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/download.sh
. "$here/download.sh"

sum() { { sha256sum "$1" 2>/dev/null || shasum -a 256 "$1"; } | cut -d ' ' -f 1; }

case ${1:-} in
  archive)
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # kubectl finds a plugin by this name, and the program behaves as the plugin under it.
    cp "$2" "$work/kubectl-tcoder"
    cp "$here/../LICENSE" "$work/LICENSE"
    chmod 755 "$work/kubectl-tcoder"
    tar -czf "$4/kubectl-tcoder-linux-$3.tar.gz" -C "$work" kubectl-tcoder LICENSE
    ;;
  manifest)
    amd64=$(sum "$4/kubectl-tcoder-linux-amd64.tar.gz")
    arm64=$(sum "$4/kubectl-tcoder-linux-arm64.tar.gz")
    # The comment in front is about the file with the placeholders.
    sed -e '/^#/d' -e "s/OWNER/$2/g" -e "s/VERSION/$3/g" -e "s/SHA256_OF_LINUX_AMD64/$amd64/" \
      -e "s/SHA256_OF_LINUX_ARM64/$arm64/" "$here/../manifests/krew/tcoder.yaml"
    ;;
  validator)
    version=$(sed -n 's#^[[:space:]]*sigs.k8s.io/krew v\([0-9.]*\).*#\1#p' "$here/krew/go.mod")
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-krew
    validator=$cache/validate-krew-manifest-$version
    if [ ! -x "$validator" ]; then
      go_can_build || { echo "The validator of krew $version is built with Go: install it (https://go.dev/dl)." >&2; exit 1; }
      mkdir -p "$cache"
      work=$(mktemp -d "$cache/new.XXXXXX")
      trap 'rm -rf "$work"' EXIT
      (cd "$here/krew" && GOTOOLCHAIN=${GOTOOLCHAIN:-auto} GOFLAGS=-trimpath CGO_ENABLED=0 \
        go build -o "$work/validator" sigs.k8s.io/krew/cmd/validate-krew-manifest >&2)
      mv "$work/validator" "$validator"
    fi
    echo "$validator"
    ;;
  *)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

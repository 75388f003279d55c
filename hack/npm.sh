# shellcheck shell=sh
# npm's packages in the user's cache. To be sourced by scripts under `set -eu`; it defines one function:
#
#   npm_modules DIR    installs what DIR's lock file says, once, and sets npm_modules to where it lies

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
  mv "$npm_new" "${npm_modules%/node_modules}" 2>/dev/null || rm -rf "$npm_new"
}

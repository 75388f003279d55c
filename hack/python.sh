# shellcheck shell=sh
# PyPI's packages in the user's cache. To be sourced by scripts under `set -eu`; it defines one function:
#
#   python_packages DIR    installs what DIR's requirements.txt says, once, and sets python_packages to the folder of
#                          that environment

python_packages() {
  python_home=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-python
  python_packages=$python_home/$(cksum <"$1/requirements.txt" | tr ' ' '-')
  [ ! -d "$python_packages" ] || return 0
  echo "Installing the packages of $1, once; they go to $python_home" >&2
  mkdir -p "$python_home"
  python_new=$(mktemp -d "$python_home/new.XXXXXX")
  python3 -m venv "$python_new" &&
    "$python_new/bin/python" -m pip install --quiet --disable-pip-version-check -r "$1/requirements.txt" >&2 ||
    { rm -rf "$python_new"; return 1; }
  # Its scripts name the folder that it is going to.
  grep -lI "$python_new" "$python_new"/bin/* | while read -r script; do
    sed "s|$python_new|$python_packages|g" "$script" >"$python_new/script" && cat "$python_new/script" >"$script"
  done
  # Somebody else may have installed it meanwhile.
  if [ -d "$python_packages" ]; then rm -rf "$python_new"; else mv "$python_new" "$python_packages"; fi
}

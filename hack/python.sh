# shellcheck shell=sh
# PyPI's packages in the user's cache. To be sourced by scripts under `set -eu`; it defines one function:
#
#   python_packages DIR    installs what DIR/requirements.txt says, once, and sets python_packages to the virtual
#                          environment that has it

python_packages() {
  python_home=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-python/$(cksum <"$1/requirements.txt" | tr ' ' '-')
  python_packages=$python_home/venv
  [ ! -e "$python_home/complete" ] || return 0
  # Several tests ask for it at a time: the first one installs, the others wait for it.
  python3 - "$1/requirements.txt" "$python_home" <<'PY' >&2
import fcntl, pathlib, subprocess, sys, venv

requirements, home = sys.argv[1], pathlib.Path(sys.argv[2])
home.mkdir(parents=True, exist_ok=True)
with (home / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (home / "complete").exists():
        print(f"Installing the packages of {requirements}, once; they go to {home}", flush=True)
        venv.create(home / "venv", clear=True, with_pip=True)
        pip = [home / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
        subprocess.run(pip, check=True)
        (home / "complete").touch()
PY
}

# shellcheck shell=sh
# Python's packages of tests/s3 in the user's cache. To be sourced by scripts under `set -eu`; it defines one function:
#
#   s3_venv DIR    installs what DIR/requirements.txt says, once, and sets s3_venv to where it is

s3_venv() {
  s3_venv=${XDG_CACHE_HOME:-$HOME/.cache}/tcoder-s3-$(cksum <"$1/requirements.txt" | tr ' ' '-')
  [ ! -e "$s3_venv/complete" ] || return 0
  # Several tests ask for it at a time: the first one installs, the others wait for it.
  python3 - "$1/requirements.txt" "$s3_venv" <<'PY' >&2
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

#!/bin/bash
# Makes the images of the tests on a node out of programs of this machine and their libraries, since no registry can be
# reached, as archives in $NODE_WORK/images. User, entry point and command of tcoder's are those of the Dockerfile.
set -euo pipefail
shopt -s inherit_errexit
out=$NODE_WORK/images
mkdir -p "$out"

# The libraries of programs and of the libraries that they load later, by absolute path.
libraries() { ldd "$@" 2>/dev/null | grep -oE '/[^ :]+' | grep -v ':$' | sort -u || true; }

# Copies files to the same place below the folder $1, and for links what they lead to.
add() {
  local root=$1
  shift
  printf '%s\n' "$@" | sort -u | xargs -r cp -L -n --parents -t "$root"
}

# Copies programs with their libraries to the same place below the folder $1.
add_programs() {
  local root=$1
  shift
  # shellcheck disable=SC2046 # paths without spaces
  add "$root" "$@" $(libraries "$@")
}

# A new root folder with what every image of a distribution has.
new_root() {
  local root
  root=$(mktemp -d "$NODE_WORK/root.XXXXXX")
  mkdir -p "$root"/{etc,tmp,data}
  chmod 1777 "$root/tmp"
  printf 'root:x:0:0::/:/usr/sbin/nologin\ntcoder:x:65532:65532::/tmp:/usr/sbin/nologin\n' >"$root/etc/passwd"
  printf 'root:x:0:\ntcoder:x:65532:\n' >"$root/etc/group"
  if [ -e /etc/ssl/certs/ca-certificates.crt ]; then add "$root" /etc/ssl/certs/ca-certificates.crt; fi
  # The loader's path does not depend on the distribution.
  for link in bin lib lib64 sbin; do
    if [ -L "/$link" ]; then mkdir -p "$root/usr/$link" && ln -sf "usr/$link" "$root/$link"; fi
  done
  echo "$root"
}

# Packs the folder $2 as the image $1 with the configuration $3, JSON.
pack() {
  local work
  work=$(mktemp -d "$NODE_WORK/pack.XXXXXX")
  chmod -R a+rX "$2"
  tar -C "$2" --owner=0 --group=0 -cf "$work/layer.tar" .
  jq -n --arg diff "sha256:$(sha256sum "$work/layer.tar" | cut -d ' ' -f 1)" --arg arch "$(go_arch)" --argjson config "$3" \
    '{architecture: $arch, os: "linux", config: $config, rootfs: {type: "layers", diff_ids: [$diff]}}' >"$work/config.json"
  jq -n --arg name "$1" '[{Config: "config.json", RepoTags: [$name], Layers: ["layer.tar"]}]' >"$work/manifest.json"
  tar -C "$work" -cf "$out/$(echo "$1" | tr '/:' '__').tar" manifest.json config.json layer.tar
  rm -rf "$work" "$2"
}

go_arch() { case $(uname -m) in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) uname -m ;; esac; }

# The configuration of the stage $1 of the Dockerfile, as JSON.
stage() {
  awk -v stage="$1" '
    $1 == "FROM" { here = ($3 == "AS" && $4 == stage) }
    here && $1 == "USER" { user = $2 }
    here && $1 == "WORKDIR" { dir = $2 }
    here && $1 == "ENTRYPOINT" { sub(/^ENTRYPOINT /, ""); entry = $0 }
    here && $1 == "CMD" { sub(/^CMD /, ""); command = $0 }
    END {
      printf "{\"User\": \"%s\", \"WorkingDir\": \"%s\", \"Entrypoint\": %s, \"Cmd\": %s, ", user, dir, entry, command
      print "\"Env\": [\"PATH=/usr/local/bin:/usr/bin:/bin\"]}"
    }' Dockerfile
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
strip -o "$NODE_WORK/tcoder" "$NODE_TCODER"
for image in controller worker; do
  root=$(new_root)
  # shellcheck disable=SC2046
  add "$root" $(libraries "$NODE_WORK/tcoder")
  install -D "$NODE_WORK/tcoder" "$root/usr/local/bin/tcoder"
  [ $image = controller ] || add_programs "$root" "$(command -v ffmpeg)" "$(command -v ffprobe)"
  pack "ghcr.io/tcoder/tcoder-$image:$version" "$root" "$(stage $image)"
done

root=$(new_root)
redis=$(command -v redis-server)
add_programs "$root" "$(readlink -f "$redis")" "$redis"
pack docker.io/library/redis:7 "$root" '{"Entrypoint": ["redis-server"], "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}'

# In place of SeaweedFS: moto, which also is an S3 server that somebody else wrote.
root=$(new_root)
python=$(readlink -f "$NODE_PYTHON/bin/python3")
library=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["stdlib"])')
add_programs "$root" "$python"
mkdir -p "$root/$library" "$root/$NODE_PYTHON"
tar -C "$library" --exclude=./test --exclude=./site-packages --exclude=./dist-packages --exclude='*/__pycache__' -cf - . | tar -C "$root/$library" -xf -
# Of the packages of tests/s3 it needs moto and boto3.
tar -C "$NODE_PYTHON" --exclude='*/site-packages/awscli' --exclude='*/__pycache__' -cf - . | tar -C "$root/$NODE_PYTHON" -xf -
# shellcheck disable=SC2046
add "$root" $(find "$library/lib-dynload" "$NODE_PYTHON/lib" -name '*.so*' -print0 | xargs -0 ldd 2>/dev/null |
  grep -oE '=> /[^ ]+' | cut -c 4- | sort -u)
install -D -m 644 hack/node/s3.py "$root/usr/local/lib/s3.py"
pack localhost/s3:1 "$root" "$(jq -n --arg python "$NODE_PYTHON/bin/python3" \
  '{Entrypoint: [$python, "/usr/local/lib/s3.py"], Env: ["PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp"]}')"

# The process that keeps the namespaces of a pod.
root=$(new_root)
printf '#include <signal.h>\n#include <stdlib.h>\n#include <unistd.h>\nstatic void end(int s) { exit(0); }\nint main(void) { signal(SIGTERM, end); for (;;) pause(); }\n' |
  cc -static -O1 -x c -o "$root/pause" -
pack localhost/pause:1 "$root" '{"Entrypoint": ["/pause"], "User": "65535:65535"}'

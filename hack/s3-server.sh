#!/bin/sh
# Runs an S3 server that somebody else wrote, with the buckets `input` and `output` where it has them by itself.
set -eu

[ $# = 3 ] || { echo "usage: s3-server.sh moto|s3rver PORT DIR" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
case $1 in
moto)
  # shellcheck source=hack/python.sh
  . "$root/hack/python.sh"
  python_packages "$root/tests/s3"
  exec "$python_packages/bin/moto_server" -H 127.0.0.1 -p "$2"
  ;;
s3rver)
  # shellcheck source=hack/npm.sh
  . "$root/hack/npm.sh"
  cd "$root"
  npm_node
  npm_modules tests/s3
  exec "$npm_node" "$npm_modules/s3rver/bin/s3rver.js" --silent --address 127.0.0.1 --port "$2" --directory "$3" \
    --configure-bucket input --configure-bucket output
  ;;
*)
  echo "s3-server.sh: no server $1" >&2
  exit 2
  ;;
esac

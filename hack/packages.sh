#!/bin/sh
# Installs the packages from npm and PyPI that the tests use, each once, into the user's cache. A test installs by
# itself what is missing; this keeps the time for it out of the tests' time limits.
set -eu

cd "$(dirname "$0")/.."
# shellcheck source=hack/npm.sh
. hack/npm.sh
# shellcheck source=hack/python.sh
. hack/python.sh
npm_node
PATH="$(dirname "$npm_node"):$PATH"
for list in tests/*/package-lock.json; do
  npm_modules "${list%/*}"
done
for list in tests/*/requirements.txt; do
  python_packages "${list%/*}"
done

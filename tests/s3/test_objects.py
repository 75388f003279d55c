"""Objects: what a write may and may not do to what stands there, conditions, ranges, headers, copies."""

import base64
import hashlib
import time
import urllib.parse
import zlib
from datetime import timedelta

import pytest
import requests
from conftest import ENDPOINT, client, keys, text_of

ZEROES = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32}


@pytest.mark.parametrize("algorithm", ZEROES)
def test_put_with_a_wrong_checksum_is_refused_and_the_old_object_stands(s3, bucket, refused, algorithm):
    s3.put_object(Bucket=bucket, Key="a", Body=b"old", ContentType="text/old")
    wrong = base64.b64encode(bytes(ZEROES[algorithm])).decode()
    with refused("BadDigest", 400):
        s3.put_object(Bucket=bucket, Key="a", Body=b"new", **{f"Checksum{algorithm}": wrong})
    found = s3.get_object(Bucket=bucket, Key="a")
    assert (found["Body"].read(), found["ContentType"]) == (b"old", "text/old")


def test_put_with_a_wrong_content_md5_is_refused_and_the_old_object_stands(s3, bucket, refused):
    s3.put_object(Bucket=bucket, Key="a", Body=b"old")
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with refused("BadDigest", 400):
        s3.put_object(Bucket=bucket, Key="a", Body=b"new", ContentMD5=wrong)
    with refused("InvalidDigest", 400):
        s3.put_object(Bucket=bucket, Key="a", Body=b"new", ContentMD5="rubbish")
    assert text_of(s3, bucket, "a") == b"old"


def test_put_with_a_body_other_than_the_signed_one_is_refused_and_the_old_object_stands(s3, bucket, signed):
    s3.put_object(Bucket=bucket, Key="a", Body=b"old")
    answer = signed("PUT", f"/{bucket}/a", b"signed", instead=b"other!")
    assert answer.status_code == 400 and "XAmzContentSHA256Mismatch" in answer.text
    assert text_of(s3, bucket, "a") == b"old"


def test_a_checksum_after_the_body_is_compared_and_kept(s3, bucket, signed):
    def put(checksum):
        headers = {
            "Content-Encoding": "aws-chunked",
            "X-Amz-Decoded-Content-Length": "3",
            "X-Amz-Trailer": "x-amz-checksum-crc32",
        }
        body = f"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:{checksum}\r\n\r\n".encode()
        return signed("PUT", f"/{bucket}/a", body, headers, trailer=True)

    wrong = put("AAAAAA==")
    assert (wrong.status_code, "BadDigest" in wrong.text) == (400, True)
    assert keys(s3, bucket) == []
    right = base64.b64encode(zlib.crc32(b"abc").to_bytes(4, "big")).decode()
    assert put(right).status_code == 200
    found = s3.get_object(Bucket=bucket, Key="a", ChecksumMode="ENABLED")
    assert (found["ChecksumCRC32"], found["Body"].read()) == (right, b"abc")
    assert "ContentEncoding" not in found


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_object_checksum_is_kept_and_given_to_who_asks(s3, bucket, algorithm):
    field = f"Checksum{algorithm}"
    put = s3.put_object(Bucket=bucket, Key="a", Body=b"abc", ChecksumAlgorithm=algorithm)
    assert put[field]
    head = s3.head_object(Bucket=bucket, Key="a", ChecksumMode="ENABLED")
    assert (head[field], head["ChecksumType"]) == (put[field], "FULL_OBJECT")
    assert field not in s3.head_object(Bucket=bucket, Key="a")
    assert field not in s3.get_object(Bucket=bucket, Key="a", ChecksumMode="ENABLED", Range="bytes=0-1")


def test_a_key_and_keys_below_it_are_objects_beside_each_other(s3, bucket):
    names = ["a", "a/", "a/b", "a/b/c", "a//b", "/a", "a\\b", "a b+c&d", "ü/é", "x" * 1024, "é" * 512]
    for name in names:
        s3.put_object(Bucket=bucket, Key=name, Body=name.encode())
    assert keys(s3, bucket) == sorted(names, key=str.encode)
    assert all(text_of(s3, bucket, name) == name.encode() for name in names)
    s3.delete_object(Bucket=bucket, Key="a")
    assert text_of(s3, bucket, "a/b") == b"a/b"


def test_a_key_of_more_than_1024_bytes_is_refused(s3, bucket, refused):
    with refused("KeyTooLongError", 400):
        s3.put_object(Bucket=bucket, Key="é" * 513, Body=b"x")


def test_put_if_none_match_writes_once(s3, bucket, refused):
    s3.put_object(Bucket=bucket, Key="a", Body=b"first", IfNoneMatch="*")
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="a", Body=b"second", IfNoneMatch="*")
    assert text_of(s3, bucket, "a") == b"first"


def test_put_if_match_replaces_the_version_it_names(s3, bucket, refused):
    with refused("NoSuchKey", 404):
        s3.put_object(Bucket=bucket, Key="a", Body=b"x", IfMatch='"abc"')
    tag = s3.put_object(Bucket=bucket, Key="a", Body=b"first")["ETag"]
    s3.put_object(Bucket=bucket, Key="a", Body=b"second", IfMatch=tag)
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="a", Body=b"third", IfMatch=tag)
    assert text_of(s3, bucket, "a") == b"second"


def test_delete_if_match_deletes_the_version_it_names(s3, bucket, refused):
    tag = s3.put_object(Bucket=bucket, Key="a", Body=b"first")["ETag"]
    with refused("PreconditionFailed", 412):
        s3.delete_object(Bucket=bucket, Key="a", IfMatch='"abc"')
    s3.delete_object(Bucket=bucket, Key="a", IfMatch=tag)
    assert keys(s3, bucket) == []


@pytest.mark.parametrize("operation", ["get_object", "head_object"])
def test_conditional_reads(s3, bucket, operation, refused):
    read = getattr(s3, operation)
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    found = s3.head_object(Bucket=bucket, Key="a")
    tag, date = found["ETag"], found["LastModified"]
    later, earlier = date + timedelta(seconds=1), date - timedelta(seconds=1)
    failed = "412" if operation == "head_object" else "PreconditionFailed"
    for query in [{"IfMatch": tag}, {"IfNoneMatch": '"abc"'}, {"IfModifiedSince": earlier}, {"IfUnmodifiedSince": date}]:
        assert read(Bucket=bucket, Key="a", **query)["ETag"] == tag
    for query in [{"IfMatch": '"abc"'}, {"IfUnmodifiedSince": earlier}]:
        with refused(failed, 412):
            read(Bucket=bucket, Key="a", **query)
    for query in [{"IfNoneMatch": tag}, {"IfModifiedSince": later}]:
        with refused("304", 304):
            read(Bucket=bucket, Key="a", **query)


def test_an_unchanged_object_is_answered_with_its_tag_and_no_body(s3, bucket, signed):
    tag = s3.put_object(Bucket=bucket, Key="a", Body=b"x")["ETag"]
    answer = signed("GET", f"/{bucket}/a", headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)


@pytest.mark.parametrize(
    ("asked", "body", "content_range"),
    [
        ("bytes=0-0", b"0", "bytes 0-0/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
        ("bytes=-99", b"0123456789", "bytes 0-9/10"),
    ],
)
def test_ranges(s3, bucket, asked, body, content_range):
    s3.put_object(Bucket=bucket, Key="a", Body=b"0123456789")
    found = s3.get_object(Bucket=bucket, Key="a", Range=asked)
    assert found["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert (found["Body"].read(), found["ContentRange"]) == (body, content_range)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=-0"])
def test_ranges_outside_the_object_are_refused(s3, bucket, signed, asked):
    s3.put_object(Bucket=bucket, Key="a", Body=b"0123456789")
    answer = signed("GET", f"/{bucket}/a", headers={"Range": asked})
    assert answer.status_code == 416 and "InvalidRange" in answer.text
    assert answer.headers["Content-Range"] == "bytes */10"


def test_a_download_that_goes_on_gets_the_rest_only_of_the_same_object(s3, bucket, signed):
    tag = s3.put_object(Bucket=bucket, Key="a", Body=b"0123456789")["ETag"]
    same = signed("GET", f"/{bucket}/a", headers={"Range": "bytes=5-", "If-Range": tag})
    assert (same.status_code, same.content) == (206, b"56789")
    changed = signed("GET", f"/{bucket}/a", headers={"Range": "bytes=5-", "If-Range": '"abc"'})
    assert (changed.status_code, changed.content) == (200, b"0123456789")


def test_headers_and_metadata_come_back_as_they_were_given(s3, bucket):
    given = {
        "ContentType": "video/mp4",
        "CacheControl": "max-age=60",
        "ContentDisposition": 'attachment; filename="a.mp4"',
        "ContentLanguage": "de",
        "ContentEncoding": "gzip",
        "Metadata": {"name": "value", "other-name": "a b"},
    }
    s3.put_object(Bucket=bucket, Key="a", Body=b"x", **given)
    found = s3.head_object(Bucket=bucket, Key="a")
    assert {name: found[name] for name in given} == given
    s3.put_object(Bucket=bucket, Key="b", Body=b"x")
    plain = s3.head_object(Bucket=bucket, Key="b")
    assert "ContentEncoding" not in plain and plain["Metadata"] == {}


def test_a_presigned_address_names_the_headers_of_its_answer(s3, bucket):
    s3.put_object(Bucket=bucket, Key="a b", Body=b"x", ContentType="text/plain")
    overrides = {
        "ResponseContentType": "video/mp4",
        "ResponseContentDisposition": 'attachment; filename="x.mp4"',
        "ResponseCacheControl": "no-store",
        "ResponseContentLanguage": "de",
    }
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "a b", **overrides})
    answer = requests.get(url, timeout=60)
    assert answer.status_code == 200
    names = ["Content-Type", "Content-Disposition", "Cache-Control", "Content-Language"]
    assert [answer.headers[name] for name in names] == list(overrides.values())


def test_nobody_else_names_the_headers_of_a_public_object(s3):
    s3.put_object(Bucket="output", Key="public", Body=b"x", ContentType="text/plain")
    assert requests.get(f"{ENDPOINT}/output/public", timeout=60).headers["Content-Type"] == "text/plain"
    answer = requests.get(f"{ENDPOINT}/output/public?response-content-type=text/html", timeout=60)
    assert answer.status_code == 400 and "InvalidRequest" in answer.text
    s3.delete_object(Bucket="output", Key="public")


def test_a_copy_keeps_or_replaces_the_headers(s3, bucket, refused):
    s3.put_object(Bucket=bucket, Key="a", Body=b"x", ContentType="text/a", Metadata={"name": "value"})
    source = {"Bucket": bucket, "Key": "a"}
    copied = s3.copy_object(Bucket=bucket, Key="b", CopySource=source)["CopyObjectResult"]
    kept = s3.head_object(Bucket=bucket, Key="b")
    assert (kept["ContentType"], kept["Metadata"]) == ("text/a", {"name": "value"})
    assert kept["ETag"] == copied["ETag"]
    s3.copy_object(
        Bucket=bucket, Key="b", CopySource=source, MetadataDirective="REPLACE", ContentType="text/b", Metadata={}
    )
    replaced = s3.head_object(Bucket=bucket, Key="b")
    assert (replaced["ContentType"], replaced["Metadata"]) == ("text/b", {})
    s3.delete_object(Bucket=bucket, Key="a")
    assert text_of(s3, bucket, "b") == b"x"
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=bucket, Key="b", CopySource={"Bucket": bucket, "Key": "b"})
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=source)
    with refused("NoSuchBucket", 404):
        s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": "not-there", "Key": "a"})


def test_delete_objects_quietly_and_not(s3, bucket, refused):
    names = ["a", "b/c", "d e&f"]
    for name in names:
        s3.put_object(Bucket=bucket, Key=name, Body=b"x")
    deleted = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": name} for name in [*names, "no"]]})
    assert [item["Key"] for item in deleted["Deleted"]] == [*names, "no"] and "Errors" not in deleted
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}], "Quiet": True})
    assert "Deleted" not in quiet and "Errors" not in quiet
    assert keys(s3, bucket) == []
    with refused("MalformedXML", 400):
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": str(n)} for n in range(1001)]})


def test_a_reader_gets_the_object_it_began_to_read(s3, bucket):
    size = 8 << 20
    s3.put_object(Bucket=bucket, Key="a", Body=b"a" * size)
    reading = s3.get_object(Bucket=bucket, Key="a")["Body"]
    first = reading.read(1000)
    s3.put_object(Bucket=bucket, Key="a", Body=b"b" * size)
    rest = reading.read()
    assert first + rest == b"a" * size


def test_buckets(s3, bucket, refused):
    assert {"input", "output", bucket} <= {item["Name"] for item in s3.list_buckets()["Buckets"]}
    assert s3.get_bucket_location(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200
    s3.head_bucket(Bucket=bucket)
    with refused("404", 404):
        s3.head_bucket(Bucket="not-there")
    with refused("BucketAlreadyOwnedByYou", 409):
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket=bucket)
    s3.delete_object(Bucket=bucket, Key="a")
    s3.delete_bucket(Bucket=bucket)
    with refused("NoSuchBucket", 404):
        s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    with refused("AccessDenied", 403):
        s3.delete_bucket(Bucket="output")


def test_what_there_is_not_is_said_so(s3, bucket, refused):
    with refused("NotImplemented", 501):
        s3.get_bucket_versioning(Bucket=bucket)
    with refused("NotImplemented", 501):
        s3.put_object(Bucket=bucket, Key="a", Body=b"x", SSECustomerAlgorithm="AES256", SSECustomerKey=b"k" * 32)
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="a")


def test_a_refusal_before_the_body_ends_the_connection(bucket, signed):
    headers = {"Expect": "100-continue", "Content-MD5": "rubbish"}
    answer = signed("PUT", f"/{bucket}/a", b"x", headers)
    assert (answer.status_code, answer.headers["Connection"]) == (400, "close")


def test_addresses_of_both_signature_versions_open_and_expire(s3, bucket):
    s3.put_object(Bucket=bucket, Key="ü", Body=b"x")
    for version in ["s3v4", "s3"]:
        url = client(signature_version=version).generate_presigned_url(
            "get_object", {"Bucket": bucket, "Key": "ü"}, ExpiresIn=1
        )
        assert requests.get(url, timeout=60).content == b"x"
        deadline = time.monotonic() + 30
        while (answer := requests.get(url, timeout=60)).status_code == 200:
            assert time.monotonic() < deadline
        assert answer.status_code == 403
        assert urllib.parse.urlsplit(url).path == f"/{bucket}/%C3%BC"

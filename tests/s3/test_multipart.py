"""Uploads in parts."""

import base64
import hashlib
import zlib

import pytest
from conftest import keys, text_of

MIB = 1 << 20
FIVE = b"a" * (5 * MIB)


def begin(s3, bucket, key="a", **options):
    return s3.create_multipart_upload(Bucket=bucket, Key=key, **options)["UploadId"]


def put_part(s3, bucket, upload, number, body, key="a", **options):
    tag = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body, **options)["ETag"]
    return {"PartNumber": number, "ETag": tag}


def complete(s3, bucket, upload, parts, key="a", **options):
    return s3.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **options
    )


def etag(*bodies):
    digests = b"".join(hashlib.md5(body).digest() for body in bodies)
    return f'"{hashlib.md5(digests).hexdigest()}-{len(bodies)}"'


def test_parts_with_gaps_become_one_object_with_the_headers_of_its_upload(s3, bucket):
    upload = begin(s3, bucket, ContentType="video/mp4", Metadata={"name": "value"})
    parts = [put_part(s3, bucket, upload, number, body) for number, body in [(10_000, b"end"), (3, FIVE)]]
    put_part(s3, bucket, upload, 7, b"left out")
    done = complete(s3, bucket, upload, sorted(parts, key=lambda part: part["PartNumber"]))
    assert done["ETag"] == etag(FIVE, b"end")
    found = s3.get_object(Bucket=bucket, Key="a")
    assert (found["ContentType"], found["Metadata"], found["ETag"]) == ("video/mp4", {"name": "value"}, done["ETag"])
    assert found["Body"].read() == FIVE + b"end"
    assert text_of(s3, bucket, "a", Range=f"bytes={5 * MIB - 1}-{5 * MIB}") == b"ae"
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_a_part_that_is_sent_again_replaces_the_first(s3, bucket):
    upload = begin(s3, bucket)
    put_part(s3, bucket, upload, 1, b"first")
    complete(s3, bucket, upload, [put_part(s3, bucket, upload, 1, b"second")])
    assert text_of(s3, bucket, "a") == b"second"


def test_an_upload_belongs_to_its_key(s3, bucket, refused):
    upload = begin(s3, bucket, "a")
    part = put_part(s3, bucket, upload, 1, b"x", "a")
    with refused("NoSuchUpload", 404):
        put_part(s3, bucket, upload, 1, b"x", "b")
    with refused("NoSuchUpload", 404):
        complete(s3, bucket, upload, [part], "b")
    with refused("NoSuchUpload", 404):
        s3.list_parts(Bucket=bucket, Key="b", UploadId=upload)
    with refused("NoSuchUpload", 404):
        s3.abort_multipart_upload(Bucket=bucket, Key="b", UploadId=upload)
    complete(s3, bucket, upload, [part], "a")


def test_a_wrong_list_of_parts_is_refused_and_the_upload_goes_on(s3, bucket, refused):
    s3.put_object(Bucket=bucket, Key="a", Body=b"old")
    upload = begin(s3, bucket)
    first, second = put_part(s3, bucket, upload, 1, b"small"), put_part(s3, bucket, upload, 2, b"x")
    for parts, code in [
        ([first, second], "EntityTooSmall"),
        ([second, first], "InvalidPartOrder"),
        ([{"PartNumber": 1, "ETag": second["ETag"]}], "InvalidPart"),
        ([first, {"PartNumber": 3, "ETag": first["ETag"]}], "InvalidPart"),
        ([], "MalformedXML"),
    ]:
        with refused(code, 400):
            complete(s3, bucket, upload, parts)
    assert text_of(s3, bucket, "a") == b"old"
    complete(s3, bucket, upload, [second])
    assert text_of(s3, bucket, "a") == b"x"


@pytest.mark.parametrize("number", [0, 10_001])
def test_part_numbers_go_from_1_to_10000(s3, bucket, refused, number):
    upload = begin(s3, bucket)
    with refused("InvalidArgument", 400):
        put_part(s3, bucket, upload, number, b"x")


def test_an_aborted_upload_is_gone(s3, bucket, refused):
    upload = begin(s3, bucket)
    part = put_part(s3, bucket, upload, 1, b"x")
    s3.abort_multipart_upload(Bucket=bucket, Key="a", UploadId=upload)
    with refused("NoSuchUpload", 404):
        complete(s3, bucket, upload, [part])
    with refused("NoSuchUpload", 404):
        s3.abort_multipart_upload(Bucket=bucket, Key="a", UploadId=upload)
    assert keys(s3, bucket) == []


def test_a_completion_whose_answer_was_lost_may_be_asked_for_again(s3, bucket):
    upload = begin(s3, bucket)
    parts = [put_part(s3, bucket, upload, 1, b"x")]
    assert complete(s3, bucket, upload, parts)["ETag"] == complete(s3, bucket, upload, parts)["ETag"]


def test_completion_if_none_match_writes_once(s3, bucket, refused):
    upload = begin(s3, bucket)
    parts = [put_part(s3, bucket, upload, 1, b"x")]
    s3.put_object(Bucket=bucket, Key="a", Body=b"first")
    with refused("PreconditionFailed", 412):
        complete(s3, bucket, upload, parts, IfNoneMatch="*")
    assert text_of(s3, bucket, "a") == b"first"
    s3.delete_object(Bucket=bucket, Key="a")
    complete(s3, bucket, upload, parts, IfNoneMatch="*")
    assert text_of(s3, bucket, "a") == b"x"


def test_list_parts_in_pages(s3, bucket):
    upload = begin(s3, bucket)
    for number in [1, 5, 9]:
        put_part(s3, bucket, upload, number, b"x" * number)
    pages = s3.get_paginator("list_parts").paginate(
        Bucket=bucket, Key="a", UploadId=upload, PaginationConfig={"PageSize": 2}
    )
    pages = list(pages)
    assert [page["IsTruncated"] for page in pages] == [True, False]
    parts = [(part["PartNumber"], part["Size"]) for page in pages for part in page["Parts"]]
    assert parts == [(1, 1), (5, 5), (9, 9)]


def test_list_multipart_uploads_by_prefix_delimiter_and_page(s3, bucket):
    names = ["a", "a/b", "a/c d", "b", "b"]
    # Ids of one key are in the order of time.
    ids = [(name, begin(s3, bucket, name)) for name in names]
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
    found = [(item["Key"], item["UploadId"]) for page in pages for item in page["Uploads"]]
    assert found == ids
    folded = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [item["Prefix"] for item in folded["CommonPrefixes"]] == ["a/"]
    assert [item["Key"] for item in folded["Uploads"]] == ["a", "b", "b"]
    below = s3.list_multipart_uploads(Bucket=bucket, Prefix="a/", EncodingType="url")
    assert [item["Key"] for item in below["Uploads"]] == ["a/b", "a/c%20d"]
    later = s3.list_multipart_uploads(Bucket=bucket, KeyMarker="a/b")
    assert [item["Key"] for item in later["Uploads"]] == ["a/c d", "b", "b"]


def test_a_part_with_a_wrong_checksum_is_refused_and_the_old_part_stands(s3, bucket, refused):
    upload = begin(s3, bucket)
    part = put_part(s3, bucket, upload, 1, b"old")
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with refused("BadDigest", 400):
        put_part(s3, bucket, upload, 1, b"new", ContentMD5=wrong)
    complete(s3, bucket, upload, [part])
    assert text_of(s3, bucket, "a") == b"old"


def test_multipart_checksum_sha256(s3, bucket, refused):
    """A composite checksum: that of the parts' checksums."""
    upload = begin(s3, bucket, ChecksumAlgorithm="SHA256")
    sums = [hashlib.sha256(body).digest() for body in (FIVE, b"end")]
    parts = [
        {
            **put_part(s3, bucket, upload, number, body, ChecksumAlgorithm="SHA256"),
            "ChecksumSHA256": base64.b64encode(digest).decode(),
        }
        for number, body, digest in [(1, FIVE, sums[0]), (2, b"end", sums[1])]
    ]
    whole = base64.b64encode(hashlib.sha256(b"".join(sums)).digest()).decode()
    with refused("InvalidPart", 400):
        complete(s3, bucket, upload, [{**parts[0], "ChecksumSHA256": parts[1]["ChecksumSHA256"]}, parts[1]])
    with refused("BadDigest", 400):
        complete(s3, bucket, upload, parts, ChecksumSHA256=parts[0]["ChecksumSHA256"])
    done = complete(s3, bucket, upload, parts, ChecksumSHA256=whole)
    assert (done["ChecksumSHA256"], done["ChecksumType"]) == (f"{whole}-2", "COMPOSITE")
    head = s3.head_object(Bucket=bucket, Key="a", ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == f"{whole}-2"


def test_multipart_checksum_of_the_full_object(s3, bucket, refused):
    upload = begin(s3, bucket, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    parts = [
        put_part(s3, bucket, upload, number, body, ChecksumAlgorithm="CRC32")
        for number, body in [(1, FIVE), (2, b"end")]
    ]
    crc = base64.b64encode(zlib.crc32(FIVE + b"end").to_bytes(4, "big")).decode()
    with refused("BadDigest", 400):
        complete(s3, bucket, upload, parts, ChecksumCRC32="AAAAAA==", ChecksumType="FULL_OBJECT")
    done = complete(s3, bucket, upload, parts, ChecksumCRC32=crc, ChecksumType="FULL_OBJECT")
    assert (done["ChecksumCRC32"], done["ChecksumType"]) == (crc, "FULL_OBJECT")
    found = s3.get_object(Bucket=bucket, Key="a", ChecksumMode="ENABLED")
    assert found["ChecksumCRC32"] == crc and found["Body"].read() == FIVE + b"end"


def test_a_checksum_of_another_algorithm_than_the_uploads_is_refused(s3, bucket, refused):
    upload = begin(s3, bucket, ChecksumAlgorithm="SHA256")
    with refused("InvalidRequest", 400):
        put_part(s3, bucket, upload, 1, b"x", ChecksumAlgorithm="SHA1")
    with refused("InvalidRequest", 400):
        begin(s3, bucket, ChecksumAlgorithm="SHA256", ChecksumType="FULL_OBJECT")


def test_one_part_of_an_object_is_read_by_its_number(s3, bucket, refused):
    upload = begin(s3, bucket)
    complete(s3, bucket, upload, [put_part(s3, bucket, upload, n, body) for n, body in [(1, FIVE), (2, b"end")]])
    second = s3.get_object(Bucket=bucket, Key="a", PartNumber=2)
    assert (second["PartsCount"], second["Body"].read()) == (2, b"end")
    assert second["ContentRange"] == f"bytes {5 * MIB}-{5 * MIB + 2}/{5 * MIB + 3}"
    head = s3.head_object(Bucket=bucket, Key="a", PartNumber=1)
    assert (head["PartsCount"], head["ContentLength"]) == (2, 5 * MIB)
    with refused("InvalidPartNumber", 416):
        s3.get_object(Bucket=bucket, Key="a", PartNumber=3)


def test_upload_part_copy_of_a_range(s3, bucket, refused):
    s3.put_object(Bucket=bucket, Key="source", Body=b"0123456789")
    upload = begin(s3, bucket)
    source = {"Bucket": bucket, "Key": "source"}

    def copy(number, **query):
        done = s3.upload_part_copy(
            Bucket=bucket, Key="a", UploadId=upload, PartNumber=number, CopySource=source, **query
        )
        return {"PartNumber": number, "ETag": done["CopyPartResult"]["ETag"]}

    part = copy(1, CopySourceRange="bytes=2-4")
    with refused("InvalidRange", 416):
        copy(2, CopySourceRange="bytes=5-10")
    with refused("InvalidArgument", 400):
        copy(2, CopySourceRange="bytes=5-")
    complete(s3, bucket, upload, [part])
    assert text_of(s3, bucket, "a") == b"234"


def test_a_copy_of_an_object_of_parts_outlives_it(s3, bucket):
    upload = begin(s3, bucket)
    complete(s3, bucket, upload, [put_part(s3, bucket, upload, n, body) for n, body in [(1, FIVE), (2, b"end")]])
    s3.copy_object(Bucket=bucket, Key="b", CopySource={"Bucket": bucket, "Key": "a"})
    s3.delete_object(Bucket=bucket, Key="a")
    assert text_of(s3, bucket, "b") == FIVE + b"end"

"""Listings, in both versions."""

import re

import pytest
from conftest import keys

NAMES = ["a", "a!", "a/b", "a/c/d", "a/ü", "a0", "b c", "b+c&<d>", "é", "\U00010348"]


@pytest.fixture
def filled(s3, bucket):
    for name in NAMES:
        s3.put_object(Bucket=bucket, Key=name, Body=name.encode())
    return bucket


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_pages_are_together_the_whole_in_the_order_of_the_bytes(s3, filled, operation, size):
    pages = s3.get_paginator(operation).paginate(Bucket=filled, PaginationConfig={"PageSize": size})
    found = [item["Key"] for page in pages for item in page.get("Contents", [])]
    assert found == sorted(NAMES, key=str.encode)


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_pages_with_a_delimiter_have_each_prefix_once(s3, filled, operation, size):
    pages = s3.get_paginator(operation).paginate(Bucket=filled, Delimiter="/", PaginationConfig={"PageSize": size})
    pages = list(pages)
    prefixes = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]
    found = [item["Key"] for page in pages for item in page.get("Contents", [])]
    assert prefixes == ["a/"]
    assert found == sorted((name for name in NAMES if "/" not in name), key=str.encode)
    below = s3.list_objects_v2(Bucket=filled, Prefix="a/", Delimiter="/")
    assert [item["Key"] for item in below["Contents"]] == ["a/b", "a/ü"]
    assert [item["Prefix"] for item in below["CommonPrefixes"]] == ["a/c/"]


def test_keys_are_encoded_for_who_asks(s3, filled, signed):
    raw = signed("GET", f"/{filled}?encoding-type=url&delimiter=%2F&list-type=2&start-after=a%21&prefix=").text
    assert re.findall("<Key>([^<]*)</Key>", raw) == ["a0", "b%20c", "b%2Bc%26%3Cd%3E", "%C3%A9", "%F0%90%8D%88"]
    assert "<Prefix>a/</Prefix>" in raw and "<StartAfter>a%21</StartAfter>" in raw
    assert "<EncodingType>url</EncodingType>" in raw
    plain = signed("GET", f"/{filled}?list-type=2").text
    assert "<Key>b c</Key>" in plain and "<Key>b+c&amp;&lt;d&gt;</Key>" in plain and "EncodingType" not in plain


def test_keys_with_control_characters_are_listed_and_deleted(s3, bucket):
    names = ["line\nbreak", "tab\tkey", "\x01control", "return\r"]
    for name in names:
        s3.put_object(Bucket=bucket, Key=name, Body=b"x")
    assert keys(s3, bucket) == sorted(names)
    for name in names:
        s3.delete_object(Bucket=bucket, Key=name)
    assert keys(s3, bucket) == []


def test_start_after_marker_and_limits(s3, filled, refused):
    later = s3.list_objects_v2(Bucket=filled, StartAfter="a/c", MaxKeys=2)
    assert [item["Key"] for item in later["Contents"]] == ["a/c/d", "a/ü"]
    assert (later["KeyCount"], later["MaxKeys"], later["IsTruncated"]) == (2, 2, True)
    marked = s3.list_objects(Bucket=filled, Marker="a/c", MaxKeys=2)
    assert [item["Key"] for item in marked["Contents"]] == ["a/c/d", "a/ü"]
    none = s3.list_objects_v2(Bucket=filled, MaxKeys=0)
    assert (none["KeyCount"], none["IsTruncated"], "Contents" in none) == (0, False, False)
    with refused("InvalidArgument", 400):
        s3.list_objects_v2(Bucket=filled, MaxKeys=-1)
    with refused("InvalidArgument", 400):
        s3.list_objects_v2(Bucket=filled, ContinuationToken="no token!")
    with refused("NoSuchBucket", 404):
        s3.list_objects_v2(Bucket="not-there")


def test_an_entry_says_what_a_head_says(s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"abc")
    entry = s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]
    head = s3.head_object(Bucket=bucket, Key="a")
    assert (entry["Size"], entry["ETag"], entry["StorageClass"]) == (3, head["ETag"], "STANDARD")
    assert entry["LastModified"].replace(microsecond=0) == head["LastModified"]
    assert "Owner" in entry

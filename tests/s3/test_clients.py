"""What people do with an S3 client, with the clients themselves: the command line of AWS and boto3's transfers."""

import filecmp
import random

from boto3.s3.transfer import TransferConfig
from conftest import keys, text_of

MIB = 1 << 20
NAMES = ["plain.txt", "a b.txt", "a+b&c=d.txt", "ü/é.txt", "deep/er/file", "deep/er.txt", "100%.txt"]


def random_file(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(size).randbytes(size))
    return path


def test_aws_s3_sync_brings_a_folder_there_and_back(s3, bucket, aws):
    for name in NAMES:
        random_file(aws.folder / "from" / name, len(name))
    assert aws("s3", "sync", "from", f"s3://{bucket}/below").count("upload:") == len(NAMES)
    assert keys(s3, bucket) == sorted((f"below/{name}" for name in NAMES), key=str.encode)
    assert aws("s3", "sync", "from", f"s3://{bucket}/below") == ""
    aws("s3", "sync", f"s3://{bucket}/below", "to")
    compared = filecmp.dircmp(aws.folder / "from", aws.folder / "to")
    assert (compared.left_only, compared.right_only, compared.diff_files) == ([], [], [])
    (aws.folder / "from" / NAMES[0]).unlink()
    assert "delete:" in aws("s3", "sync", "--delete", "from", f"s3://{bucket}/below")
    assert f"below/{NAMES[0]}" not in keys(s3, bucket)


def test_aws_s3_rm_recursive_leaves_nothing(s3, bucket, aws):
    for name in [*NAMES, "line\nbreak", "folder/"]:
        s3.put_object(Bucket=bucket, Key=name, Body=b"x")
    aws("s3", "rm", "--recursive", f"s3://{bucket}/")
    assert keys(s3, bucket) == []
    aws("s3", "rb", f"s3://{bucket}")


def test_aws_s3_cp_and_mv_in_parts(s3, bucket, aws):
    file = random_file(aws.folder / "film.mp4", 20 * MIB + 1)
    aws("s3", "cp", "film.mp4", f"s3://{bucket}/film.mp4")
    head = s3.head_object(Bucket=bucket, Key="film.mp4")
    assert head["ETag"].endswith('-3"') and head["ContentType"] == "video/mp4"
    aws("s3", "cp", f"s3://{bucket}/film.mp4", f"s3://{bucket}/copies/film.mp4")
    aws("s3", "mv", f"s3://{bucket}/copies/film.mp4", "back.mp4")
    assert filecmp.cmp(file, aws.folder / "back.mp4", shallow=False)
    assert keys(s3, bucket) == ["film.mp4"]
    listed = aws("s3", "ls", "--recursive", f"s3://{bucket}")
    assert str(20 * MIB + 1) in listed and "film.mp4" in listed


def test_aws_s3api_pages_by_itself(s3, bucket, aws):
    for n in range(7):
        s3.put_object(Bucket=bucket, Key=f"{n}", Body=b"x")
    listed = aws.json("s3api", "list-objects-v2", "--bucket", bucket, "--page-size", "2")
    assert [item["Key"] for item in listed["Contents"]] == [f"{n}" for n in range(7)]


def test_boto3_transfers_in_parts_and_ranges(s3, bucket, tmp_path):
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=4)
    file, back = random_file(tmp_path / "from", 12 * MIB + 7), tmp_path / "to"
    s3.upload_file(file, bucket, "a", Config=config, ExtraArgs={"ContentType": "video/mp4"})
    s3.copy({"Bucket": bucket, "Key": "a"}, bucket, "b", Config=config)
    s3.download_file(bucket, "b", back, Config=config)
    assert filecmp.cmp(file, back, shallow=False)
    assert s3.head_object(Bucket=bucket, Key="b")["ETag"].endswith('-3"')


def test_a_stream_of_unknown_length(s3, bucket, tmp_path):
    file = random_file(tmp_path / "from", 6 * MIB)
    with file.open("rb") as stream:
        s3.upload_fileobj(stream, bucket, "a", Config=TransferConfig(multipart_threshold=5 * MIB))
    assert text_of(s3, bucket, "a") == file.read_bytes()

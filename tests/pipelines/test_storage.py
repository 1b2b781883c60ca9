"""Bytes from local files, tars, a real S3 server, a real web server and memory."""

import functools
import hashlib
import http.server
import io
import json
import re
import tarfile
import threading

import fsspec
import pytest

from pipelines import storage
from pipelines.records import Source
from pipelines.sources import read_hash

ODD = "a b%20+ü 名?.png"  # taken literally: nothing in a key is decoded
BIG = bytes(range(256)) * 40_000  # 10 MB: more than one block of any reader here


def source(path: str, **fields) -> Source:
    return Source(path, fields.pop("uri", path), "image", **fields)


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def web(tmp_path):
    """A folder and the address at which a server that knows no ranges shows it."""
    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=tmp_path / "www")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path / "www", f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_bucket_is_listed_read_hashed_and_copied(bucket, tmp_path):
    for key in (f"in/{ODD}", "in/deep/er/b.mp4", "in/.hidden/c.png", "in/deep/._d.png", "elsewhere/e.png"):
        bucket.put(key, key.encode())
    base, files = storage.find(f"{bucket.url}/in/")
    assert [storage.relative(file, base) for file in files] == [ODD, "deep/er/b.mp4"]
    assert storage.read_bytes(source(files[0]), 100) == f"in/{ODD}".encode()
    hashed = read_hash(source(files[1]))
    assert (hashed.sha256, hashed.bytes) == (hashlib.sha256(b"in/deep/er/b.mp4").hexdigest(), 16)
    with storage.local_copy(hashed, tmp_path) as copy:
        assert (copy.suffix, copy.parent, copy.read_bytes()) == (".mp4", tmp_path, b"in/deep/er/b.mp4")
    assert not list(tmp_path.iterdir()), "the copy is gone"


def test_a_large_object_comes_whole_through_many_requests(bucket):
    path = bucket.put("big.mp4", BIG)
    assert read_hash(source(path)).sha256 == hashlib.sha256(BIG).hexdigest()
    with storage.local_copy(source(path)) as copy:
        assert copy.read_bytes() == BIG


def test_missing_keys_and_buckets_are_missing_files(bucket):
    for path in (f"{bucket.url}/nothing.png", "s3://no-such-bucket/a.png"):
        with pytest.raises(FileNotFoundError):
            storage.read_bytes(source(path), 100)
        with pytest.raises(FileNotFoundError):
            storage.find(path)
        judged = read_hash(source(path))
        assert (judged.status, judged.reason) == ("quarantined", "unreadable")


def test_a_key_that_may_not_be_read_is_told_from_a_missing_one(bucket):
    path = bucket.put("a.png", b"secret")
    rule = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket.name}/*"}
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps({"Statement": [rule]}))
    with pytest.raises(PermissionError):
        storage.read_bytes(source(path), 100)


def test_the_url_can_name_the_endpoint(bucket, monkeypatch):
    path = bucket.put("x/a.png", b"content")
    host = bucket.client.meta.endpoint_url.removeprefix("http://")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    base, files = storage.find(f"{bucket.url}/x?endpoint_override={host}&scheme=http&region=us-east-1")
    assert [storage.relative(file, base) for file in files] == ["a.png"]
    assert storage.read_bytes(source(files[0]), 100) == b"content"
    assert storage.suffix(files[0]) == ".png"
    assert storage.relative(files[0], "/elsewhere") == path, "options of the store are no part of a name"


def test_globs_in_a_bucket_match_as_on_a_disk(bucket, tmp_path):
    names = ["a.mp4", "b.png", "x/c.mp4", "x/y/d.mp4", "x/.z/e.mp4", ".f.mp4"]
    for name in names:
        bucket.put(f"in/{name}", b"x")
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    for pattern in ("in/*.mp4", "in/**/*.mp4", "in/*/*", "i?/x/[a-c].mp4", "in/**"):
        here, there = storage.find(f"{tmp_path}/{pattern}"), storage.find(f"{bucket.url}/{pattern}")
        assert there[0].removeprefix(bucket.url) == here[0].removeprefix(str(tmp_path))
        assert [storage.relative(f, there[0]) for f in there[1]] == [storage.relative(f, here[0]) for f in here[1]]
        assert there[1], pattern


@pytest.mark.parametrize("where", ["disk", "bucket", "memory"])
def test_a_member_of_a_tar_is_its_byte_range(where, bucket, tmp_path):
    members = {"one.png": b"1" * 1000, "two.mp4": BIG, "three.png": b"3"}
    data = tar_of(members)
    (tmp_path / "s.tar").write_bytes(data)
    fsspec.filesystem("memory").pipe("/tars/s.tar", data)
    path = {"disk": str(tmp_path / "s.tar"), "memory": "memory://tars/s.tar"}.get(where) or bucket.put("s.tar", data)
    with tarfile.open(tmp_path / "s.tar") as tar:
        headers = tar.getmembers()
    for header in headers:
        member = source(path, uri=f"s.tar/{header.name}", offset=header.offset_data, bytes=header.size)
        assert read_hash(member).sha256 == hashlib.sha256(members[header.name]).hexdigest()
        with storage.local_copy(member) as copy:
            assert copy.read_bytes() == members[header.name]
            assert copy.suffix == storage.suffix(header.name)
    last = source(path, offset=len(data) - 10, bytes=20)
    with pytest.raises(OSError, match="10 bytes too early"):
        storage.read_bytes(last, 100)


def test_an_object_that_shrank_after_it_was_hashed_is_an_error(bucket):
    hashed = read_hash(source(bucket.put("a.mp4", b"long content")))
    bucket.put("a.mp4", b"short")
    with pytest.raises(OSError, match="too early"), storage.local_copy(hashed):
        pass


def test_more_bytes_than_wanted_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"12345")
    assert storage.read_bytes(source(str(tmp_path / "a.png")), 5) == b"12345"
    with pytest.raises(storage.TooLargeError):
        storage.read_bytes(source(str(tmp_path / "a.png")), 4)


def test_a_local_file_is_its_own_copy_and_a_copy_goes_even_after_an_error(tmp_path):
    file = tmp_path / "ü.mp4"
    file.write_bytes(b"x")
    for path in (str(file), file.as_uri()):
        with storage.local_copy(source(path)) as copy:
            assert copy == file
    assert file.exists()
    fsspec.filesystem("memory").pipe("/m/a.mp4", b"x")
    with pytest.raises(ZeroDivisionError), storage.local_copy(source("memory://m/a.mp4")) as copy:
        raise ZeroDivisionError
    assert not copy.exists()


def test_the_web_is_read_even_from_a_server_without_ranges(web):
    folder, address = web
    (folder / "ü b.mp4").write_bytes(BIG)
    path = storage.join(address, "ü b.mp4")
    assert read_hash(source(path)).sha256 == hashlib.sha256(BIG).hexdigest()
    assert storage.relative(path, address) == "ü b.mp4"
    with storage.local_copy(source(path + "?signature=a.b")) as copy:
        assert (copy.suffix, copy.stat().st_size) == (".mp4", len(BIG))


def test_a_server_that_is_down_is_no_missing_file(web):
    _, address = web
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(source(f"{address}/a.png"), 100)
    with pytest.raises(OSError, match="Cannot connect") as caught:
        storage.read_bytes(source("http://127.0.0.1:1/a.png"), 100)
    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("path", ["nosuch://a/b.png", "/tmp/a\0b.png", "s3://b?no_option=1"])
def test_whatever_a_library_raises_is_an_oserror_that_names_the_path(path):
    with pytest.raises(OSError, match=re.escape(path)):
        storage.read_bytes(source(path), 100)


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{0..1}/{00..01}", ["0/00", "0/01", "1/00", "1/01"]),
        ("{2..1}", ["1", "2"]),
        ("{a,b}.tar", ["{a,b}.tar"]),
    ],
)
def test_ranges_in_braces(path, expanded):
    assert storage.expand_ranges(path) == expanded


@pytest.mark.parametrize(
    ("base", "name", "location", "told"),
    [
        ("/in", "a/b.png", "/in/a/b.png", "a/b.png"),
        ("/in", "./a.png", "/in/a.png", "a.png"),
        ("/in", "/other/a.png", "/other/a.png", "/other/a.png"),
        ("s3://b/in?region=x", "a b.png", "s3://b/in/a b.png?region=x", "a b.png"),
        ("s3://b/in", "../a.png", "s3://b/a.png", "s3://b/a.png"),
        ("s3://b", "a//b.png", "s3://b/a//b.png", "a//b.png"),
        ("s3://b/in", "https://h/a.png?id=3", "https://h/a.png?id=3", "https://h/a.png?id=3"),
        ("s3://b/in", "/disk/a.png", "/disk/a.png", "/disk/a.png"),
        ("https://h/in", "50% #1.png", "https://h/in/50%25%20%231.png", "50% #1.png"),
    ],
)
def test_locations_are_joined_and_told_relative_to_their_base(base, name, location, told):
    assert storage.join(base, name) == location
    assert storage.relative(location, base) == told

"""WebDataset tars as inputs, whole and damaged, on a disk and in a bucket."""

import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from inputs import PICTURES, listed, verdicts, write_tar

from pipelines import captions
from pipelines.records import Source, pack, unpack
from pipelines.settings import CaptionSettings, FrameSettings
from pipelines.sources import group_clips, read_hash, reject_duplicates
from pipelines.stages import read_frames
from pipelines.video import read_video


def test_stills_and_videos_in_a_tar_in_a_bucket_are_decoded(tmp_path, bucket):
    from flexip.pocket.video import make_world

    world = make_world(tmp_path / "world", videos=1, stills=0, seed=1)
    video = next(world.rglob("*.mp4")).read_bytes()
    path = bucket.put(
        "shard.tar", write_tar(tmp_path / "s.tar", {"v.mp4": video, "p.png": PICTURES["a.png"]}).read_bytes()
    )
    sources = [read_hash(source) for source in listed(path)]
    judged, frames = read_frames(sources, FrameSettings(per_video=3), read_video)
    assert [(s.uri, s.status, s.path, s.offset > 0) for s in judged] == [
        ("shard.tar/p.png", "accepted", path, True),
        ("shard.tar/v.mp4", "accepted", path, True),
    ]
    assert Counter(frame.uri for frame in frames) == {"shard.tar/p.png": 1, "shard.tar/v.mp4": 3}


def test_members_of_a_tar_carry_what_lies_beside_them(tmp_path):
    note = {"caption": "of the json", "url": "https://x/a.jpg", "license": "CC0-1.0", "consent": "no", "width": 3}
    members = {
        "./a.png": b"1",
        "./a.json": json.dumps(note).encode(),
        "./b.png": b"2",
        "./b.txt": b"\xef\xbb\xbf of  the text\n",
        "./b.json": json.dumps(note).encode(),
        "./._b.png": b"of another system",
        "./c.png": b"3",
        "./c.json": b'{"consent": "n',
        "./d.png": b"",
    }
    found = listed(write_tar(tmp_path / "s.tar", members), consent="default", provenance="default")
    assert verdicts(found) == [
        ("s.tar/a.png", "accepted", ""),
        ("s.tar/b.png", "accepted", ""),
        ("s.tar/c.png", "quarantined", "bad_metadata"),
        ("s.tar/d.png", "rejected", "empty_file"),
    ]
    a, b, c, _ = found
    assert (a.caption, a.licence, a.consent, a.provenance) == ("of the json", "CC0-1.0", "", "https://x/a.jpg")
    assert (b.caption, b.licence) == ("of the text", "CC0-1.0")
    assert (c.consent, c.provenance) == ("default", "default")
    (tmp_path / "s.txt").write_text("beside the tar")
    assert captions.caption(a, 0, CaptionSettings()) == ("of the json", "manifest")


def test_names_that_are_no_text_stop_nothing(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        info = tarfile.TarInfo("\udcff.png")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"1"))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfe.png")).write_bytes(b"2")
    found = listed(tmp_path)
    assert verdicts(found) == [("\\udcfe.png", "quarantined", "bad_name"), ("s.tar/\\udcff.png", "accepted", "")]
    assert unpack(pack([read_hash(source) for source in found], Source), Source)[1].bytes == 1


def test_a_member_of_negative_size_is_damage(tmp_path):
    whole = bytearray(write_tar(tmp_path / "s.tar", {"a.png": b"1", "b.png": b"2"}).read_bytes())
    header = tarfile.TarInfo("b.png")
    header.size = -1024
    whole[1024:1536] = header.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "s.tar").write_bytes(whole)
    assert verdicts(listed(tmp_path / "s.tar")) == [
        ("s.tar", "quarantined", "truncated"),
        ("s.tar/a.png", "accepted", ""),
    ]


def test_metadata_too_long_to_be_read_is_not_taken_for_none(tmp_path):
    members = {"a.png": b"1", "a.json": json.dumps({"consent": "no", "x": " " * (1 << 20)}).encode()}
    assert verdicts(listed(write_tar(tmp_path / "s.tar", members))) == [("s.tar/a.png", "quarantined", "bad_metadata")]


def test_links_in_a_tar_are_no_pictures(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        folder = tarfile.TarInfo("b.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert verdicts(listed(tmp_path / "s.tar")) == [("s.tar/a.png", "rejected", "not_a_file")]


def test_a_set_goes_on_in_the_next_tar(tmp_path):
    write_tar(tmp_path / "0.tar", {"fox/1.png": b"1", "alone.png": b"2"})
    write_tar(tmp_path / "1.tar", {"fox/2.png": b"3"})
    clips = group_clips([read_hash(source) for source in listed(tmp_path, group_by_folder=True)])
    assert sorted(tuple(s.uri for s in clip.sources) for clip in clips) == [
        ("0.tar/alone.png",),
        ("0.tar/fox/1.png", "1.tar/fox/2.png"),
    ]


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_range_of_tars_with_one_missing_and_one_damaged(where, tmp_path, bucket):
    members = {f"{n}.png": bytes([n]) * 3000 for n in range(4)}
    whole = write_tar(tmp_path / "s-000.tar", members).read_bytes()
    (tmp_path / "s-001.tar").write_bytes(whole[:9000])  # in the third member
    (tmp_path / "s-003.tar").write_bytes(b"no tar at all" * 100)
    for file in tmp_path.glob("*.tar"):
        bucket.put(f"in/{file.name}", file.read_bytes())
    found = listed(f"{tmp_path if where == 'disk' else bucket.url + '/in'}/s-{{000..003}}.tar")
    assert verdicts(found) == [
        *((f"s-000.tar/{n}.png", "accepted", "") for n in range(4)),
        ("s-001.tar", "quarantined", "truncated"),
        *((f"s-001.tar/{n}.png", "accepted", "") for n in range(2)),
        ("s-002.tar", "quarantined", "unreadable"),
        ("s-003.tar", "quarantined", "not_a_tar"),
    ]
    assert all(read_hash(source) == source for source in found if source.status == "quarantined")
    assert Counter(s.reason for s in reject_duplicates([read_hash(s) for s in found]))["duplicate"] == 2


def test_a_tar_that_is_cut_anywhere_never_gives_a_wrong_member(tmp_path, bucket):
    members = {f"{n}.png": bytes([n + 1]) * (700 * n + 300) for n in range(4)}
    whole = write_tar(tmp_path / "s.tar", members).read_bytes()
    with tarfile.open(tmp_path / "s.tar") as tar:
        end = max(m.offset_data + 512 * -(-m.size // 512) for m in tar.getmembers())
    for length in range(100, end + 1, 211):
        (tmp_path / "s.tar").write_bytes(whole[:length])
        assert verdicts(listed(bucket.put("s.tar", whole[:length]))) == verdicts(listed(tmp_path / "s.tar"))
        *inside, damage = sorted(listed(tmp_path / "s.tar"), key=lambda s: s.status)
        assert (damage.uri, damage.status) == ("s.tar", "quarantined"), length
        for source in map(read_hash, inside):
            assert (source.status, source.bytes) == ("accepted", len(members[source.uri.removeprefix("s.tar/")]))
    (tmp_path / "s.tar").write_bytes(whole[: end + 512])
    assert {s.status for s in listed(tmp_path / "s.tar")} == {"accepted"}


def test_a_header_that_makes_no_sense_ends_a_tar_in_the_open(tmp_path):
    whole = bytearray(write_tar(tmp_path / "s.tar", {"a.png": b"1", "b.png": b"2", "c.png": b"3"}).read_bytes())
    whole[1024:1100] = b"?" * 76
    (tmp_path / "s.tar").write_bytes(whole)
    assert verdicts(listed(tmp_path / "s.tar")) == [
        ("s.tar", "quarantined", "truncated"),
        ("s.tar/a.png", "accepted", ""),
    ]

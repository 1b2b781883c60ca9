"""Every layout of inputs with a small real example: folders, manifests and tars, on a disk and in a bucket."""

import csv
import io
import json
import os
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flexip.images import encode_png
from pipelines import captions
from pipelines.listing import SourceError, list_sources
from pipelines.records import Source, pack, unpack
from pipelines.settings import CaptionSettings, FrameSettings, InputSettings
from pipelines.sources import group_clips, read_hash, reject_duplicates
from pipelines.stages import read_frames, source_row
from pipelines.video import read_video

NAMES = ("a.png", "b/ü 名.png", "b/c.png")
TEXTS = {name: f"picture {number}, näher" for number, name in enumerate(NAMES)}


def listed(path, **options) -> list[Source]:
    return list_sources(InputSettings(path=str(path), **options))


def verdicts(sources) -> list[tuple[str, str, str]]:
    return [(s.uri, s.status, s.reason) for s in sources]


def picture(number: int) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 255, (16, 24, 3), np.uint8))


PICTURES = {name: picture(number) for number, name in enumerate(NAMES)}


def write_jsonl(path: Path, rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def with_texts(members: dict[str, bytes]) -> dict[str, bytes]:
    texts = {name.replace(".png", ".txt"): text.encode() for name, text in TEXTS.items()}
    return dict(sorted({**members, **texts}.items()))


def make_inputs(folder: Path, bucket) -> dict[str, str]:
    """The same pictures and captions in every layout: its path by name."""
    for name, data in with_texts(PICTURES).items():
        (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "files" / name).write_bytes(data)
        bucket.put(f"files/{name}", data)
    (folder / "bare").mkdir()  # without captions beside the pictures: only the manifests have them
    for name, data in PICTURES.items():
        (folder / "bare" / name).parent.mkdir(exist_ok=True)
        (folder / "bare" / name).write_bytes(data)
    rows = [{"image_file": name, "text": text, "score": 3} for name, text in TEXTS.items()]
    write_jsonl(folder / "bare" / "rows.jsonl", rows)
    (folder / "bare" / "rows.json").write_text(json.dumps(rows))
    write_csv(folder / "bare" / "rows.csv", rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "bare" / "rows.parquet")
    urls = [{"url": f"{bucket.url}/files/{name}", "caption": "older words"} for name in NAMES]
    shard = write_tar(folder / "shard.tar", with_texts(PICTURES))
    return {
        "folder": str(folder / "files"),
        "glob": str(folder / "files" / "**" / "*.png"),
        **{kind: str(folder / "bare" / f"rows.{kind}") for kind in ("jsonl", "json", "csv", "parquet")},
        "tar": str(shard),
        "bucket": f"{bucket.url}/files",
        "manifest in bucket": bucket.put("bare/rows.jsonl", write_jsonl(folder / "u.jsonl", urls).read_bytes()),
        "tar in bucket": bucket.put("shard.tar", shard.read_bytes()),
    }


def test_every_layout_gives_the_same_pictures_and_captions(tmp_path, bucket):
    expected = {(read_hash(s).sha256, TEXTS[s.uri]) for s in listed(make_inputs(tmp_path, bucket)["folder"])}
    assert len(expected) == len(NAMES)
    origin = {"folder": "text", "glob": "text", "bucket": "text", "manifest in bucket": "text"}
    for layout, path in make_inputs(tmp_path / "again", bucket).items():
        sources = [read_hash(source) for source in listed(path)]
        assert [s.uri for s in sources] == sorted(s.uri for s in sources)
        told = [captions.caption(source, 0, CaptionSettings()) for source in sources]
        assert {(s.sha256, text) for s, (text, _) in zip(sources, told, strict=True)} == expected, layout
        assert {where for _, where in told} == {origin.get(layout, "manifest")}, layout


def test_names_in_a_dataset_are_relative_to_what_was_given(tmp_path, bucket):
    paths = make_inputs(tmp_path, bucket)
    for layout, prefix in {"folder": "", "csv": "", "bucket": "", "tar": "shard.tar/"}.items():
        assert [s.uri for s in listed(paths[layout])] == [prefix + name for name in sorted(NAMES)], layout
    assert [s.uri for s in listed(paths["csv"], root=paths["bucket"])] == sorted(NAMES)
    assert {s.path.partition("files/")[0] for s in listed(paths["csv"], root=paths["bucket"])} == {f"{bucket.url}/"}


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


def test_what_a_manifest_tells_survives_to_the_rows(tmp_path):
    row = {
        "file": "a.png",
        "alt": "a  cat\n on a mat",
        "license": "CC0-1.0",
        "consent": "release 7",
        "page": "https://x/y",
    }
    (tmp_path / "a.png").write_bytes(PICTURES["a.png"])
    path = write_jsonl(tmp_path / "m.jsonl", [row])
    sources = [read_hash(source) for source in listed(path, licence="other", provenance="other")]
    (clip,) = group_clips(reject_duplicates(unpack(pack(sources, Source), Source)))
    told = source_row(clip.sources[0])
    assert (told.licence, told.consent, told.provenance) == ("CC0-1.0", "release 7", "https://x/y")
    assert clip.sources[0].caption == "a cat on a mat"


BAD_ROWS = [
    ({"file": "a.png"}, "accepted", ""),
    ({"file": ""}, "rejected", "no_file"),
    ({"caption": "words alone"}, "rejected", "no_file"),
    ({"file": 7.5}, "rejected", "unknown_suffix"),
    ({"file": {"bytes": "x"}}, "rejected", "no_file"),
    ({"file": "notes.txt"}, "rejected", "unknown_suffix"),
    ({"file": "b.png", "kind": "sculpture"}, "rejected", "bad_kind"),
    ({"file": "https://user:word@host/c.png"}, "rejected", "password_in_url"),
    ({"file": "a.png", "caption": "again"}, "rejected", "duplicate"),
    ("{", "quarantined", "bad_row"),
    ('["a.png"]', "quarantined", "bad_row"),
    ('{"file": "\\ud800.png"}', "quarantined", "bad_row"),
    ({"file": "https://host/photo?id=3", "kind": "Image"}, "accepted", ""),
    ({"file": "gone.mp4"}, "accepted", ""),
]


def test_a_bad_row_costs_itself_and_every_row_is_counted(tmp_path):
    sources = listed(write_jsonl(tmp_path / "m.jsonl", [row for row, _, _ in BAD_ROWS]))
    assert len(sources) == len({s.uri for s in sources}) == len(BAD_ROWS)
    assert Counter((s.status, s.reason) for s in sources) == Counter((status, why) for _, status, why in BAD_ROWS)
    assert {s.uri for s in sources if s.reason == "bad_kind"} == {"m.jsonl#7"}, "the row is named by its number"
    local = [s for s in sources if not s.uri.startswith("https")]
    assert Counter(read_hash(s).reason for s in local)["unreadable"] == 2, (
        "a verdict is kept, a missing file gets its own"
    )


def test_a_table_of_cells_with_spoilt_bytes_and_quotes_loses_those_rows_alone(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(
        'file,text\r\nü.png,"two\nlines"\r\n\xff.png,x\r\nb.png,a,b\r\nc.png,"open"x\r\nd.png\r\n'.encode(
            "latin-1"
        ).replace(b"\xfc", "ü".encode())
    )
    assert verdicts(listed(path)) == [
        ("d.png", "accepted", ""),
        ("m.csv#2", "quarantined", "bad_row"),
        ("m.csv#3", "quarantined", "bad_row"),
        ("m.csv#4", "quarantined", "bad_row"),
        ("ü.png", "accepted", ""),
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.jsonl", '{"name": "a", "size": 3}\n', r"no column names files; it has name, size, one of file, path, url"),
        ("m.csv", "name,size\na,3\n", "it has name, size"),
        ("m.json", '[{"name": "a"}]', "it has name"),
        ("m.json", '{"file": "a.png"}', "no JSON list"),
        ("m.json", '[{"file": ', "cannot be read"),
        ("m.parquet", "no table", "cannot be read"),
        ("m.jsonl", "\n", "has no row"),
        ("m.csv", "", "it has none"),
    ],
)
def test_an_unusable_manifest_is_one_line_that_says_why(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=words) as caught:
        listed(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_parquet_file_of_pictures_themselves_is_no_manifest(tmp_path):
    rows = [{"image": {"bytes": b"x", "path": "a.png"}, "text": "a"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    with pytest.raises(SourceError, match="it has image, text"):
        listed(tmp_path / "m.parquet")


def test_several_manifests_are_read_together_each_from_its_own_folder(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist([{"URL": "1.png", "TEXT": name}]), tmp_path / name / "part.parquet")
    found = listed(tmp_path / "*" / "*.parquet")
    assert [(s.uri, s.caption, s.path) for s in found] == [
        (f"{name}/1.png", name, str(tmp_path / name / "1.png")) for name in ("x", "y")
    ]


def test_a_long_manifest_is_listed_in_little_memory_and_opens_no_file(tmp_path):
    rows = ({"url": f"https://nowhere.invalid/{n}.jpg", "text": f"{n} " + "word " * 50} for n in range(20_000))
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    tracemalloc.start()
    found = listed(path)
    peak = tracemalloc.get_traced_memory()[1]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(found) == 20_000
    assert peak < 1.3 * held, "no second copy of the table"
    assert held < 20_000 * 2000


def test_groups_of_a_manifest_are_multi_view_sets_wherever_their_files_lie(tmp_path):
    rows = [
        {"file": "x/1.png", "group": "red fox 2"},
        {"file": "y/1.png", "group": "red fox 2"},
        {"file": "x/2.png", "group": "owl"},
        {"file": "x/3.png"},
        {"file": "x/v.mp4"},
    ]
    for number, row in enumerate(rows):
        (tmp_path / row["file"]).parent.mkdir(exist_ok=True)
        (tmp_path / row["file"]).write_bytes(bytes([number]))
    path = write_jsonl(tmp_path / "m.jsonl", rows)

    def clips():
        return group_clips([read_hash(source) for source in listed(path)])

    found = {tuple(s.uri for s in clip.sources): clip for clip in clips()}
    assert {uris: clip.kind for uris, clip in found.items()} == {
        ("x/1.png", "y/1.png"): "multiview",
        ("x/2.png",): "multiview",
        ("x/3.png",): "image",
        ("x/v.mp4",): "video",
    }
    fox = found["x/1.png", "y/1.png"]
    assert captions.phrase(fox.sources[0], CaptionSettings()) == "red fox"
    write_jsonl(path, rows[:1])
    assert fox.cluster in {clip.cluster for clip in clips()}, "the set keeps its split when a picture goes"


def test_a_kohya_folder_is_a_set_and_its_repeats_count_for_nothing(tmp_path):
    for name in ("10_sks dog/1.png", "10_sks dog/2.png", "1_dog/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "10_sks dog" / "1.txt").write_text("sks dog on a sofa")
    sources = [read_hash(source) for source in listed(tmp_path, group_by_folder=True)]
    told = {s.uri: captions.caption(s, 0, CaptionSettings()) for s in sources}
    assert told == {
        "10_sks dog/1.png": ("sks dog on a sofa", "text"),
        "10_sks dog/2.png": ("a photo of a sks dog", "fallback"),
        "1_dog/3.png": ("a photo of a dog", "fallback"),
    }
    assert sorted(len(clip.sources) for clip in group_clips(sources)) == [1, 2]


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


def test_faces_need_a_licence_and_a_consent(tmp_path):
    rows = [
        {"file": "a.png", "licence": "CC0-1.0", "consent": "release"},
        {"file": "b.png", "licence": "?", "consent": "release"},
        {"file": "c.png", "licence": "CC0-1.0", "consent": None},
        {"file": "d.png", "licence": "CC0-1.0", "consent": False},
        {"file": "e.txt", "licence": "CC0-1.0"},
    ]
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    assert [s.reason for s in listed(path, faces=True)] == [
        "",
        "no_licence",
        "no_consent",
        "no_consent",
        "unknown_suffix",
    ]
    defaults = {"licence": "CC-BY-4.0", "consent": "written release"}
    told = listed(path, faces=True, **defaults)
    assert [s.reason for s in told] == ["", "", "", "no_consent", "unknown_suffix"], "a denied consent stays denied"
    assert {s.reason for s in listed(path)} == {"", "unknown_suffix"}


def test_side_files_are_asked_for_only_when_wanted(bucket):
    source = Source(bucket.put("in/a.mp4", b"x"), "a.mp4", "video", caption="of the manifest")
    assert captions.caption(source, 0, CaptionSettings()) == ("of the manifest", "manifest")
    bucket.put("in/b.txt", b"of the text")
    other = Source(bucket.put("in/b.mp4", b"x"), "b.mp4", "video")
    assert captions.caption(other, 0, CaptionSettings()) == ("of the text", "text")
    assert captions.caption(other, 0, CaptionSettings(side_files=False)) == ("a photo of a subject", "fallback")


def test_no_answer_about_a_caption_is_not_taken_for_no_caption():
    source = Source("http://127.0.0.1:1/a.mp4", "a.mp4", "video", caption="words")
    with pytest.raises(OSError, match="127"):
        captions.caption(source, 0, CaptionSettings())


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{url}/nowhere", "no such file or folder"),
        ("{url}/*.mp4", "no file matches"),
        ("{url}/notes.txt", ".txt is no video or image"),
        ("{url}", "1 files, none a video or image"),
        ("nosuch://host/a", "cannot be listed .*nosuch"),
        ("s3://user:word@bucket/a", "holds a password"),
    ],
)
def test_an_unusable_url_is_one_line_that_says_why(path, words, bucket):
    bucket.put("notes.txt", b"x")
    with pytest.raises(SourceError, match=words) as caught:
        listed(path.format(url=bucket.url))
    assert "\n" not in str(caught.value)
    assert "word@" not in str(caught.value)

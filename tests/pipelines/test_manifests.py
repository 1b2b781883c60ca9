"""Manifests as inputs: JSON lines, CSV and Parquet, with rows of every kind of damage."""

import tracemalloc
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inputs import BAD_ROWS, PICTURES, listed, verdicts, write_jsonl

from pipelines import captions
from pipelines.listing import SourceError
from pipelines.records import Source, pack, unpack
from pipelines.settings import CaptionSettings
from pipelines.sources import group_clips, read_hash, reject_duplicates
from pipelines.stages import source_row


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

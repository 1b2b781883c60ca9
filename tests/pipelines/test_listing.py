"""Every layout of inputs with a small real example: folders, manifests and tars, on a disk and in a bucket."""

import os

import pytest
from inputs import NAMES, TEXTS, listed, make_inputs, write_jsonl

from pipelines import captions
from pipelines.listing import SourceError
from pipelines.records import Source
from pipelines.settings import CaptionSettings
from pipelines.sources import group_clips, read_hash


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


def test_links_that_lead_nowhere_and_pipes_are_counted_and_never_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.mp4")
    told = {"a.png": "", "gone.mp4": "unreadable", "loop.png": "unreadable", "pipe.mp4": "unreadable"}
    for path in (tmp_path, tmp_path / "*"):
        assert {s.uri: read_hash(s).reason for s in listed(path)} == told
    named = listed(write_jsonl(tmp_path / "m.jsonl", [{"file": "pipe.mp4"}, {"file": "/dev/zero", "kind": "video"}]))
    assert [read_hash(s).reason for s in named] == ["unreadable"] * 2
    with pytest.raises(SourceError, match=r"gone\.mp4: no such file"):
        listed(tmp_path / "gone.mp4")


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

import pytest

from pipelines.listing import SourceError, list_sources
from pipelines.records import Source
from pipelines.settings import InputSettings
from pipelines.sources import group_clips, read_hash, reject_duplicates, sample


def listed(path, **options):
    return list_sources(InputSettings(path=str(path), **options))


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_folder_lists_videos_and_images_below_it_and_nothing_else(tmp_path):
    for name in ("b/clip.MP4", "a.png", "b/notes.txt", "captions.jsonl", "ünïcode 名.jpg"):
        write(tmp_path / name)
    found = listed(tmp_path)
    assert [(s.uri, s.kind) for s in found] == [
        ("a.png", "image"),
        ("b/clip.MP4", "video"),
        ("ünïcode 名.jpg", "image"),
    ]


def test_glob_and_single_file(tmp_path):
    for name in ("x/a.mp4", "x/b.png", "y/c.mp4"):
        write(tmp_path / name)
    assert [s.uri for s in listed(tmp_path / "**" / "*.mp4")] == ["x/a.mp4", "y/c.mp4"]
    assert [s.uri for s in listed(tmp_path / "x" / "b.png")] == ["b.png"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "nowhere", "no such file or folder"),
        (lambda p: p, "0 files, none a video or image"),
        (lambda p: write(p / "a.txt"), ".txt is no video or image"),
        (lambda p: p / "*.mp4", "no file matches"),
    ],
)
def test_unusable_input_is_one_line_that_names_it(tmp_path, make, words):
    path = make(tmp_path)
    with pytest.raises(SourceError, match=words) as caught:
        listed(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_equal_content_is_kept_once_and_empty_files_are_rejected(tmp_path):
    write(tmp_path / "b.png", b"same")
    write(tmp_path / "a.png", b"same")
    write(tmp_path / "c.png", b"")
    judged = reject_duplicates([read_hash(s) for s in listed(tmp_path)])
    assert [(s.uri, s.status, s.reason) for s in judged] == [
        ("a.png", "accepted", ""),
        ("b.png", "rejected", "duplicate"),
        ("c.png", "rejected", "empty_file"),
    ]


def test_a_source_that_vanished_is_quarantined(tmp_path):
    path = write(tmp_path / "a.png")
    source = listed(path)[0]
    path.unlink()
    assert (read_hash(source).status, read_hash(source).reason) == ("quarantined", "unreadable")


def test_multiview_folder_is_one_clip_whose_cluster_survives_another_picture(tmp_path):
    for name in ("cat/0.jpg", "cat/1.jpg", "dog/0.jpg"):
        write(tmp_path / name, name.encode())

    def clips():
        return group_clips([read_hash(s) for s in listed(tmp_path, group_by_folder=True)])

    before = {tuple(s.uri for s in clip.sources): clip for clip in clips()}
    assert set(before) == {("cat/0.jpg", "cat/1.jpg"), ("dog/0.jpg",)}
    write(tmp_path / "cat/2.jpg", b"new")
    after = {tuple(s.uri for s in clip.sources): clip for clip in clips()}
    old, new = before[("cat/0.jpg", "cat/1.jpg")], after[("cat/0.jpg", "cat/1.jpg", "cat/2.jpg")]
    assert old.cluster == new.cluster
    assert old.key != new.key, "other content must not be mistaken for work that is done"


def test_a_sample_is_the_same_every_time_takes_sets_whole_and_keeps_the_order():
    videos = [Source(f"/in/{i}.mp4", f"{i}.mp4", "video") for i in range(20)]
    stills = [Source(f"/in/{s}/{i}.png", f"{s}/{i}.png", "multiview") for s in "ab" for i in range(5)]
    every = [*videos, *stills]
    taken = sample(every, 12, seed=0)
    assert 12 <= len(taken) < 12 + 5
    assert taken == sample(every, 12, seed=0) == sorted(taken, key=every.index)
    assert {source.uri for source in taken} == {source.uri for source in sample(every[::-1], 12, seed=0)}
    assert taken != sample(every, 12, seed=1)
    assert sum(source.uri.startswith("a/") for source in taken) in (0, 5)
    assert sample(every, 100, seed=0) == every

"""Pairs in other trainings' formats: what is written, and that curation reads it."""

import json
import tarfile
from collections import Counter

import pytest
from inputs import PICTURES, listed, write_jsonl
from training_data import write_encoded_dataset

from flexip.images import decode_image
from pipelines import exchange
from pipelines.captions import caption
from pipelines.exchange import export
from pipelines.settings import CaptionSettings
from pipelines.shards import DatasetError, open_dataset
from pipelines.sources import group_clips, read_hash, reject_duplicates

PAIRS = 3  # of the training split, in each of the two datasets; they share their keys, as views of one subject do


@pytest.fixture(scope="module")
def dataset(pocket_encoders, tmp_path_factory):
    return open_dataset(write_encoded_dataset(tmp_path_factory.mktemp("pairs"), pocket_encoders, PAIRS, 1))


def captions_of(sources) -> set[str]:
    return {caption(source, 0, CaptionSettings())[0] for source in sources}


def told(dataset) -> set[str]:
    return {pair.caption for name in dataset.names for pair in dataset.read_pairs(name, "train", range(PAIRS))}


def test_webdataset_has_every_pair_under_one_stem_and_starts_a_tar_when_one_is_full(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "TAR_ROWS", 4)
    assert export(dataset, "webdataset", tmp_path / "out", "train") == 2 * PAIRS
    tars = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in tars] == ["train-000000.tar", "train-000001.tar"]
    members = {}
    for path in tars:
        with tarfile.open(path) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert Counter(name.split(".", 1)[1] for name in members) == dict.fromkeys(
        ("png", "reference.png", "txt", "json"), 2 * PAIRS
    )
    [pair] = dataset.read_pairs("variant", "train", [1])
    assert members[f"{pair.pair_id}.png"] == pair.target
    assert members[f"{pair.pair_id}.reference.png"] == pair.reference
    assert json.loads(members[f"{pair.pair_id}.json"])["cluster"] == pair.cluster
    found = [source for source in listed(tmp_path / "out") if ".reference." not in source.uri]
    assert {source.caption for source in found} == told(dataset)


def test_uno_names_reference_and_target_and_reads_back_as_views_of_one_subject(dataset, tmp_path):
    assert export(dataset, "uno", tmp_path / "out", "train") == 2 * PAIRS
    rows = json.loads((tmp_path / "out" / "train.json").read_text())
    assert rows[0].keys() == {"image_paths", "image_tgt_path", "prompt"}
    for name in (rows[0]["image_tgt_path"], *rows[0]["image_paths"]):
        assert decode_image((tmp_path / "out" / name).read_bytes()).shape == (64, 64, 3)
    sources = reject_duplicates([read_hash(source) for source in listed(tmp_path / "out" / "train.json")])
    clips = group_clips(sources)
    assert [(clip.kind, len(clip.sources)) for clip in clips] == [("multiview", 2)] * PAIRS
    assert {source.caption for clip in clips for source in clip.sources} - {""} <= told(dataset)


def test_ip_adapter_and_kohya_have_each_target_once_with_its_caption(dataset, tmp_path):
    assert export(dataset, "ip-adapter", tmp_path / "json", "train") == PAIRS
    rows = json.loads((tmp_path / "json" / "train.json").read_text())
    assert {row["text"] for row in rows} <= told(dataset)
    assert {source.caption for source in listed(tmp_path / "json" / "train.json")} == {row["text"] for row in rows}
    assert export(dataset, "kohya", tmp_path / "kohya", "train") == PAIRS
    sources = listed(tmp_path / "kohya", group_by_folder=True)
    assert {source.uri.split("/")[0] for source in sources} == {f"1_cluster-{i}" for i in range(PAIRS)}
    assert captions_of(sources) == {row["text"] for row in rows}


def test_nothing_to_write_and_a_folder_in_the_way_are_told(dataset, tmp_path):
    with pytest.raises(DatasetError, match="its split test has no pairs"):
        export(dataset, "uno", tmp_path / "out", "test")
    assert not list(tmp_path.iterdir())
    with pytest.raises(DatasetError, match="is there already"):
        export(dataset, "uno", tmp_path, "train")


def test_of_uno_s_rows_those_with_several_subjects_are_put_aside(tmp_path):
    (tmp_path / "b").mkdir()
    for name, content in PICTURES.items():
        (tmp_path / name).write_bytes(content)
    first, second, third = PICTURES
    rows = [
        {"image_paths": [first], "image_tgt_path": second, "prompt": "in the snow", "licence": "CC0-1.0"},
        {"image_paths": [first, second], "image_tgt_path": third, "prompt": "both of them"},
    ]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    found = {source.uri: source for source in listed(path)}
    assert {uri: source.reason for uri, source in found.items()} == {first: "", second: "", "pairs.jsonl#3": "bad_row"}
    assert [found[name].caption for name in (first, second)] == ["", "in the snow"]
    assert {found[name].group for name in (first, second)} == {first}
    assert {found[name].licence for name in (first, second)} == {"CC0-1.0"}

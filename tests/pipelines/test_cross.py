"""Pairs of one subject in two videos."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from local_curation import curate_local

from flexip.images import decode_image
from flexip.pocket.identity import sample_identity
from flexip.pocket.video import VIDEO_SIZE
from flexip.pocket.world import place, render
from pipelines.cross import Track, joined, retrieve
from pipelines.settings import CurationSettings, InputSettings, PairSettings, SplitSettings
from pipelines.shards import read_part


def write_film(path, who, scene: str, seed: int) -> None:
    """A creature that crosses a scene."""
    base = place([who], np.random.default_rng(seed), style="flat", scene=scene)
    start = replace(base.creatures[0], yaw=0.0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (VIDEO_SIZE[1], VIDEO_SIZE[0]))
    if not writer.isOpened():
        pytest.skip("this build of OpenCV cannot write mp4v")
    for x in np.linspace(0.3, 0.7, 20):
        frame = render(replace(base, creatures=(replace(start, x=float(x)),)), VIDEO_SIZE)
        writer.write(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    writer.release()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for name, seed in (("ann", 1), ("bob", 8)):
        who = sample_identity(np.random.default_rng(seed), "train")
        for number, scene in enumerate(("beach", "room")):
            write_film(folder / f"{name}-{number}.mp4", who, scene, seed)
    return folder


def settings(films, **pairs) -> CurationSettings:
    given = PairSettings(**{"identity_min": 0.0, "pixels_max": 0.99, **pairs})
    return CurationSettings(
        input=InputSettings(path=str(films)), pairs=given, splits=SplitSettings(val=0, test=0, least_test=1)
    )


def test_one_creature_in_two_files_is_paired_across_them_and_shares_its_split(films, tmp_path, pocket_encoders):
    wanted = settings(films, cross_video=3, cross_identity_min=0.8, pixels_min=0.5)
    found = curate_local(wanted, tmp_path, pocket_encoders)
    rows = [row for part in found.dataset.glob("subjects/*") for row in read_part(part).to_pylist()]
    source = {row["key"]: row["source"] for row in rows}
    pairs = [row for part in (found.dataset / "variant" / "pairs").glob("*") for row in read_part(part).to_pylist()]
    across = [pair for pair in pairs if source[pair["reference_key"]] != source[pair["target_key"]]]
    both = [{source[pair["reference_key"]], source[pair["target_key"]]} for pair in across]
    assert {"ann-0.mp4", "ann-1.mp4"} in both
    for pair in across:
        assert pair["identity_similarity"] >= 0.8
        assert 0.5 <= pair["pixel_similarity"] <= 0.99
        assert pair["time_gap"] == 0
        assert pair["source"] == source[pair["target_key"]]
        assert decode_image(pair["target"]).shape == (64, 64, 3)
    assert len(pairs) + len(list_invariant(found)) == found.counts["pair"].accepted
    homes: dict[str, set[str]] = {}
    for pair in pairs:
        for key in (pair["reference_key"], pair["target_key"]):
            homes.setdefault(source[key], set()).add(pair["split"])
    assert all(len(splits) == 1 for splits in homes.values())
    clusters = {row["source"]: row["cluster"] for row in rows if row["unit"] == "source"}
    assert clusters["ann-0.mp4"] == clusters["ann-1.mp4"], "rows name the joint cluster"
    assert sum(found.splits.values()) == len(set(clusters.values())) < 4


def list_invariant(found) -> list:
    return [row for part in (found.dataset / "invariant" / "pairs").glob("*") for row in read_part(part).to_pylist()]


def test_without_the_option_no_pair_leaves_its_source(films, tmp_path, pocket_encoders):
    found = curate_local(settings(films), tmp_path, pocket_encoders)
    assert found.joined == []
    assert sum(found.splits.values()) == 4


def test_retrieval_finds_what_all_against_all_finds():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(60, 64))
    near = np.concatenate([base, base + 0.35 * rng.normal(size=base.shape)])
    directions = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    tracks = [Track(f"t{i}", "u", f"s{i}", f"c{i % 100}", d) for i, d in enumerate(directions)]
    cosines = directions @ directions.T
    every = {
        (i, j)
        for i in range(120)
        for j in range(i + 1, 120)
        if cosines[i, j] >= 0.8 and tracks[i].cluster != tracks[j].cluster
    }
    assert {tuple(pair) for pair in retrieve(tracks, 0.8).tolist()} == every
    assert len(every) > 50


def test_clusters_are_joined_through_others_under_one_name_whatever_the_order():
    links = [("d", "c"), ("a", "b"), ("c", "b"), ("x", "y")]
    expected = {"a": "a", "b": "a", "c": "a", "d": "a", "x": "x", "y": "x"}
    assert joined(links) == joined(links[::-1]) == expected

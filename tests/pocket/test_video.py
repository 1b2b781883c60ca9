"""Films and folders of the pocket world: readable by the readers that curation uses, and true frame by frame."""

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from flexip.pocket.identity import Identity
from flexip.pocket.video import film, make_world, mask_of, run_lengths, write_video
from flexip.pocket.world import Picture


def test_decord_reads_every_frame_of_a_film(tmp_path: Path) -> None:
    decord = pytest.importorskip("decord", reason="decord has no build for this machine")
    records = write_video(tmp_path / "film.mp4", seed=1, seconds=1.5, fps=12, creatures=1)
    reader = decord.VideoReader(str(tmp_path / "film.mp4"), num_threads=1)
    assert len(reader) == len(records) == 18
    assert reader.get_avg_fps() == pytest.approx(12.0)
    frames = reader.get_batch(range(18)).asnumpy()
    assert frames.shape == (18, 192, 256, 3)
    again = film(1, 18, creatures=1)
    assert records[5]["captions"]["medium"].endswith(again[5].scene) or again[5].scene in str(records[5])


def test_the_creature_moves_smoothly_and_changes_its_mood(tmp_path: Path) -> None:
    records = write_video(tmp_path / "film.mp4", seed=2, creatures=1)
    boxes = np.array([record["creatures"][0]["box"] for record in records])
    middles = (boxes[:, 0] + boxes[:, 2]) / 2
    assert abs(middles[-1] - middles[0]) > 0.25 * 256
    assert np.abs(np.diff(middles)).max() < 0.1 * 256
    assert len({record["creatures"][0]["expression"] for record in records}) == 2
    assert len({record["creatures"][0]["pose"] for record in records}) >= 3
    assert len({record["creatures"][0]["identity"] for record in records}) == 1


def is_plain(pictures: list[Picture]) -> bool:
    """One shot from a camera at rest, in which only the creature moves."""
    scenes = {picture.scene for picture in pictures}
    return len(scenes) == 1 and pictures[-1].pan == 0 and pictures[0].creatures[0].action == "standing"


def test_some_films_are_cut_to_another_scene_with_the_same_creatures() -> None:
    films = [film(seed, 24) for seed in range(60)]
    cut = [pictures for pictures in films if len({picture.scene for picture in pictures}) == 2]
    assert 4 <= len(cut) <= 24
    for pictures in cut:
        assert len({frozenset(placed.identity.key for placed in picture.creatures) for picture in pictures}) == 1
        changes = sum(a.scene != b.scene for a, b in pairwise(pictures))
        assert changes == 1


def test_a_creature_may_leave_and_return(tmp_path: Path) -> None:
    def is_gone(picture: Picture) -> bool:
        return not -0.3 < picture.creatures[0].x < 1.3

    seed = next(seed for seed in range(100) if any(map(is_gone, film(seed, 24, creatures=1))))
    records = write_video(tmp_path / "film.mp4", seed=seed, creatures=1)
    seen = [record["creatures"][0]["box"] != [0, 0, 0, 0] for record in records]
    assert seen[0]
    assert seen[-1]
    assert not all(seen)
    away = records[seen.index(False)]["creatures"][0]
    assert not mask_of(away["mask"], (192, 256)).any()


def test_truth_marks_the_pixels_that_the_film_shows_moving(tmp_path: Path) -> None:
    seed = next(seed for seed in range(50) if is_plain(film(seed, 24, creatures=1)))
    records = write_video(tmp_path / "film.mp4", seed=seed, creatures=1)
    capture = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    frames = [capture.read()[1].astype(int) for _ in records]
    moved = np.abs(frames[0] - frames[12]).max(axis=2) > 60
    masks = [mask_of(records[k]["creatures"][0]["mask"], (192, 256)) for k in (0, 12)]
    assert (moved & (masks[0] | masks[1])).sum() > 0.85 * moved.sum()


def test_a_world_is_a_folder_with_its_truth(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", videos=2, stills=5, seed=3, split="test")
    lines = [json.loads(line) for line in (world / "ground_truth.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 24 + 5
    assert all((world / line["file"]).is_file() for line in lines)
    stills = [line for line in lines if line["file"].endswith(".png")]
    assert [Path(line["file"]).parent.name for line in stills] == ["creature-0000"] * 4 + ["creature-0001"]
    assert len({line["creatures"][0]["identity"] for line in stills}) == 2
    assert all(Identity(**one["attributes"]).key == one["identity"] for line in lines for one in line["creatures"])
    picture = cv2.imread(str(world / stills[0]["file"]))
    assert picture is not None
    assert list(picture.shape[:2]) == stills[0]["size"]
    again = make_world(tmp_path / "again", videos=0, stills=5, seed=3, split="test")
    assert (again / stills[0]["file"]).read_bytes() == (world / stills[0]["file"]).read_bytes()


def test_run_lengths_keep_a_mask() -> None:
    rng = np.random.default_rng(0)
    for mask in (rng.random((7, 9)) < 0.5, np.zeros((3, 4), bool), np.ones((3, 4), bool)):
        assert np.array_equal(mask_of(run_lengths(mask), mask.shape), mask)

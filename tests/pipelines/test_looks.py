"""Sources that look the same: found by banded hashes, confirmed by embeddings, rejected with all that came of them."""

import cv2
import numpy as np
import pytest
from local_curation import curate_local

from flexip.pocket.video import VIDEO_SIZE, film, make_world
from flexip.pocket.world import render
from pipelines import staging
from pipelines.looks import near, near_duplicates, signature
from pipelines.records import UNITS
from pipelines.settings import CurationSettings, DuplicateSettings, FrameSettings, InputSettings, PairSettings
from pipelines.shards import read_part


def flipped(rows: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    """Copies with so many bits of each changed."""
    every = np.unpackbits(rows, axis=1)
    for row in every:
        row[rng.choice(row.size, bits, replace=False)] ^= 1
    return np.packbits(every, axis=1)


def encoded_again(source, target, quality: int = 60) -> None:
    """The same film in another container and codec, frame by frame."""
    reader = cv2.VideoCapture(str(source))
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (VIDEO_SIZE[1], VIDEO_SIZE[0]))
    if not writer.isOpened():
        pytest.skip("this build of OpenCV cannot write Motion JPEG")
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, quality)
    while (read := reader.read())[0]:
        writer.write(read[1])
    writer.release()


@pytest.fixture(scope="module")
def curated(tmp_path_factory, pocket_encoders):
    world = make_world(tmp_path_factory.mktemp("world"), videos=4, stills=4, seed=1)
    encoded_again(world / "videos" / "video-0001.mp4", world / "videos" / "zz.avi")
    still = cv2.imread(str(world / "stills" / "creature-0000" / "01.png"))
    (world / "other").mkdir()
    assert still is not None
    cv2.imwrite(str(world / "other" / "copy.jpg"), cv2.resize(still, (160, 160), interpolation=cv2.INTER_AREA))
    settings = CurationSettings(
        input=InputSettings(path=str(world), group_by_folder=True),
        pairs=PairSettings(identity_min=0.0),
        frames=FrameSettings(per_video=6),
    )
    return curate_local(settings, tmp_path_factory.mktemp("curated"), pocket_encoders)


def test_banded_comparison_finds_what_all_against_all_finds():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (300, 32), dtype=np.uint8)
    rows = np.concatenate([rows, flipped(rows[:40], 12, rng), flipped(rows[:5], 40, rng)])
    apart = np.bitwise_count(rows[:, None] ^ rows[None]).sum(axis=2)
    every = [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows)) if apart[i, j] <= 31]
    assert [tuple(pair) for pair in near(rows, 31).tolist()] == every
    assert len(every) == 40


def test_a_crowd_of_equal_hashes_costs_a_window_each_and_still_finds_every_member():
    rows = np.zeros((3000, 32), np.uint8)
    pairs = near(rows, 0)
    assert len(pairs) < 3000 * 256 + 1
    assert set(pairs[:, 1].tolist()) == set(range(1, 3000)), "each has an earlier one that it equals"


def test_a_film_keeps_its_signature_through_noise_and_another_film_has_another():
    frames = [render(picture, VIDEO_SIZE).image for picture in film(3, 8)][::2]
    noise = np.random.default_rng(0).normal(0, 6, frames[0].shape)
    noisy = [np.clip(frame + noise, 0, 255).astype(np.uint8) for frame in frames]
    others = [render(picture, VIDEO_SIZE).image for picture in film(4, 8)][::2]
    first, again, other = (np.frombuffer(signature(found), np.uint8) for found in (frames, noisy, others))
    assert np.bitwise_count(first ^ again).sum() <= 16
    assert np.bitwise_count(first ^ other).sum() > 48


def test_copies_in_another_encoding_are_rejected_and_the_first_by_name_stays(curated):
    assert [(d.source, d.of) for d in curated.duplicates] == [
        ("stills/creature-0000/01.png", "other/copy.jpg"),
        ("videos/zz.avi", "videos/video-0001.mp4"),
    ]


def test_everything_of_a_near_duplicate_is_rejected_and_the_sums_hold(curated):
    rows = [row for part in sorted(curated.dataset.glob("subjects/*")) for row in read_part(part).to_pylist()]
    gone = {duplicate.source for duplicate in curated.duplicates}
    for unit in UNITS[:3]:
        states = [(row["source"] in gone, row["status"], row["reason"]) for row in rows if row["unit"] == unit]
        count = curated.counts[unit]
        assert count.total == len(states)
        assert count.accepted == states.count((False, "accepted", ""))
        assert count.rejected["near_duplicate"] == states.count((True, "rejected", "near_duplicate")) > 0
        assert not [state for state in states if state[0] and state[1] == "accepted"]
    accepted = {row["key"] for row in rows if row["unit"] == "subject" and row["status"] == "accepted"}
    pairs = [row for part in curated.dataset.glob("*/pairs/*") for row in read_part(part).to_pylist()]
    assert len(pairs) == curated.counts["pair"].accepted
    assert {key for pair in pairs for key in (pair["reference_key"], pair["target_key"])} <= accepted
    assert curated.counts["pair"].rejected["near_duplicate"] > 0


def test_the_verdict_does_not_depend_on_the_order_of_the_units(curated):
    orders = (curated.units[::-1], curated.units[1::2] + curated.units[::2])
    for order in orders:
        assert near_duplicates(curated.staging, order, DuplicateSettings()) == curated.duplicates


def test_the_same_scene_with_somebody_else_in_it_is_no_duplicate(curated):
    strict = DuplicateSettings(hash_bits=63, embedding_min=1.0)
    assert near_duplicates(curated.staging, curated.units, strict) == [], "no two embeddings are quite equal"
    assert near_duplicates(curated.staging, curated.units, DuplicateSettings(hash_bits=-1)) == []


def test_another_verdict_on_a_unit_makes_another_part(curated):
    with_them, without = (
        {part.name for part in staging.plan_subjects(curated.staged, 8, found, [])}
        for found in (curated.duplicates, [])
    )
    assert len(with_them - without) == len(without - with_them) > 0

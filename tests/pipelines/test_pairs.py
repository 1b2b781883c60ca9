import dataclasses

import numpy as np
import pytest

from flexip.images import decode_image, decode_mask
from flexip.rows import SourceKind, SubjectRow, arrow_schema
from pipelines.crops import augmented, pixel_similarity, reference_crop, target_square
from pipelines.pairs import PairMaker, Subject, assign_splits
from pipelines.records import StageCount, pack, unpack
from pipelines.settings import PairSettings, SplitSettings


def picture(shade: int) -> np.ndarray:
    image = np.full((90, 120, 3), 200, np.uint8)
    image[30:70, 40:80] = (shade, 20, 20)
    return image


def subject(time: float, shade: int, track: str = "t", angle: float = 0.0, kind: SourceKind = "video") -> Subject:
    box = [40 / 120, 30 / 90, 80 / 120, 70 / 90]
    mask = np.zeros((90, 120), bool)
    mask[30:70, 40:80] = True
    row = SubjectRow(
        key=f"{track}{time}",
        source="v.mp4",
        source_hash="h",
        kind=kind,
        unit="subject",
        status="accepted",
        frame_index=round(time * 10),
        timestamp=time,
        track=track,
        cluster="c",
        box=box,
        caption=f"at {time}",
    )
    crop, crop_mask = reference_crop(picture(shade), mask, box, 1.2, 64)
    return Subject(row, crop, crop_mask, np.array([np.cos(angle), np.sin(angle)], np.float32))


def make(subjects, duration=2.0, **options):
    frames = {("h", s.row.frame_index): picture(60) for s in subjects}
    settings = PairSettings(identity_min=0.5, pixels_max=0.99, **options)
    return PairMaker(frames, duration, settings, 32, 0).make(subjects)


def test_variant_pairs_keep_the_gap_and_one_track():
    subjects = [subject(t, 30 + 20 * i, track) for track in "ab" for i, t in enumerate((0.0, 0.1, 0.5, 1.0))]
    pairs, _ = make(subjects, variant_per_track=10)
    variant = [p for p in pairs if p.dataset == "variant"]
    assert len(variant) == 10, "five of the six pairs of each track are at least 0.2 s apart"
    assert all(p.time_gap >= 0.2 and p.reference_key[0] == p.target_key[0] for p in variant)
    longer, _ = make(subjects, duration=8.0, variant_per_track=10)
    assert min(p.time_gap for p in longer if p.dataset == "variant") >= 0.8, "a tenth of the clip"


def test_every_candidate_is_accounted_for_with_its_reason():
    same, other = [subject(t, 40) for t in (0.0, 0.5)], subject(1.0, 200, angle=1.5)
    pairs, count = make([*same, other], invariant_per_track=1)
    assert [p.dataset for p in pairs] == ["invariant"]
    assert count.rejected == {"pixels_equal": 1, "identity_low": 2}
    many, count = make([subject(0.3 * i, 20 + 22 * i) for i in range(6)], variant_per_track=3)
    assert count.total == 2 + 15
    assert count.rejected == {"over_limit": 12}
    assert len(many) == count.accepted == 5


def test_pair_pictures_hold_the_subject_on_white_and_in_its_scene():
    pairs, _ = make([subject(0.0, 60), subject(1.0, 160)])
    pair = next(p for p in pairs if p.dataset == "variant")
    reference, mask, target = decode_image(pair.reference), decode_mask(pair.reference_mask), decode_image(pair.target)
    assert reference.shape == (64, 64, 3)
    assert target.shape == (32, 32, 3)
    assert (reference[0, 0] == 255).all()
    assert not mask[0, 0]
    assert mask[32, 32]
    assert reference[32, 32, 1] < 40
    assert (target[0, 0] > 190).all()
    assert target[16, 16, 1] < 40
    assert pair.caption == f"at {pair.target_key[1:]}"


def test_box_at_the_edge_is_padded_white_and_the_target_stays_inside():
    image = picture(60)
    mask = np.zeros((90, 120), bool)
    mask[0:30, 0:30] = True
    crop, crop_mask = reference_crop(image, mask, (0, 0, 0.25, 1 / 3), 1.4, 60)
    assert (crop[:6] == 255).all()
    assert not crop_mask[:6].any()
    assert target_square(image, (0.9, 0.0, 1.0, 1.0), 2.0, 48).shape == (48, 48, 3)


def test_augmentation_is_a_change_that_repeats():
    one = subject(0.0, 60)
    first, again, other = (augmented(one.crop, one.mask, seed)[0] for seed in ("a", "a", "b"))
    assert (first == again).all()
    assert pixel_similarity(first, other) < 1
    assert pixel_similarity(first, one.crop) < 1


def test_a_cluster_keeps_its_split_when_others_come_and_minima_hold():
    kinds = {f"c{i}": "variant" if i % 3 else "invariant" for i in range(300)}
    settings = SplitSettings(val=0.1, test=0.2)
    splits = assign_splits(kinds, settings, 0)
    share = {name: list(splits.values()).count(name) / 300 for name in ("train", "val", "test")}
    assert share == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.07)
    more = assign_splits({**kinds, **{f"d{i}": "variant" for i in range(50)}}, settings, 0)
    assert all(more[cluster] == split for cluster, split in splits.items())
    few = assign_splits({f"c{i}": "variant" for i in range(6)}, SplitSettings(least_test=2, least_val=1), 0)
    assert sorted(few.values()) == ["test", "test", "train", "train", "train", "val"]


def test_rows_survive_their_arrow_form():
    rows = [dataclasses.replace(subject(0.0, 1).row, scores={"b": 1.0, "a": 2.0}, mask=b"\x00x"), subject(1.0, 1).row]
    assert unpack(pack(rows, SubjectRow), SubjectRow) == rows
    assert unpack(pack([], SubjectRow), SubjectRow) == []
    assert "scores" in arrow_schema(SubjectRow).names


def test_counts_add_up():
    a, b = StageCount(), StageCount()
    a.add("accepted", "", 3)
    a.add("rejected", "blurred")
    b.add("rejected", "blurred", 2)
    b.add("quarantined", "truncated")
    a.merge(b)
    assert (a.total, a.rejected, a.quarantined) == (7, {"blurred": 3}, {"truncated": 1})

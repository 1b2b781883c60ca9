"""Tracks against the truth of pocket films; where only the tracker is tested, the detections are the truth too."""

import dataclasses
from collections import defaultdict
from itertools import chain
from typing import Any

import numpy as np
import pytest

from flexip.pocket.identity import sample_identity
from flexip.pocket.video import VIDEO_SIZE as SIZE
from flexip.pocket.video import film
from flexip.pocket.world import Frame as Rendered
from flexip.pocket.world import Placement, render
from pipelines.settings import SubjectSettings
from pipelines.subjects import Detection, box_iou, detect, working_view
from pipelines.tracks import CONTAINED, _part_inside, follow

SETTINGS = SubjectSettings()


def truth(frame: Rendered) -> tuple[list[Detection], list[int]]:
    """Detections as a perfect detector would give them, and whose each is."""
    height, width = frame.image.shape[:2]
    seen = [k for k, mask in enumerate(frame.masks) if mask.sum() > 60]
    boxes = (frame.boxes / [width, height, width, height]).astype(float).tolist()
    return [Detection((b[0], b[1], b[2], b[3]), frame.masks[k], 1.0) for k in seen for b in [boxes[k]]], seen


def owners(frames: list[Rendered]) -> dict[int, list[int]]:
    """Track -> whose detections it holds, in order."""
    found, whose = zip(*(truth(frame) for frame in frames), strict=True)
    numbers = follow(found, [frame.image for frame in frames], SETTINGS)
    tracks = defaultdict[int, list[int]](list)
    for track, who in zip(chain(*numbers), chain(*whose), strict=True):
        tracks[track].append(who)
    return dict(tracks)


def crossing(left, right, steps: int) -> list[Rendered]:
    """Two creatures that pass each other, the second one in front."""
    base = film(3, 8, creatures=2)[0]
    frames = []
    for share in np.linspace(0, 1, steps):
        a = Placement(left, x=0.2 + 0.6 * share, y=0.55, size=0.34)
        b = Placement(right, x=0.8 - 0.6 * share, y=0.62, size=0.34)
        frames.append(render(dataclasses.replace(base, scene="meadow", style="flat", creatures=(a, b)), SIZE))
    return frames


def test_a_subject_that_leaves_and_returns_keeps_its_track():
    who = sample_identity(np.random.default_rng(4), "train")
    base = film(3, 8, creatures=1)[0]
    places = [0.5, 0.75, 1.6, 1.6, 1.6, 1.6, 1.6, 0.7, 0.45]  # outside for longer than its way is guessed
    frames = [render(dataclasses.replace(base, creatures=(Placement(who, x=x, size=0.4),)), SIZE) for x in places]
    assert owners(frames) == {0: [0] * 4}


def test_another_subject_that_comes_instead_has_a_track_of_its_own():
    rng = np.random.default_rng(11)
    first, second = sample_identity(rng, "train"), sample_identity(rng, "train")
    base = film(3, 8, creatures=1)[0]
    frames = [
        render(dataclasses.replace(base, creatures=(Placement(who, x=x, size=0.4),)), SIZE)
        for who, x in [(first, 0.5), (first, 0.6), (first, 1.6), (second, 0.6), (second, 0.5)]
    ]
    found, _ = zip(*(truth(frame) for frame in frames), strict=True)
    assert follow(found, [frame.image for frame in frames], SETTINGS) == [[0], [0], [], [1], [1]]


def test_twins_that_cross_are_told_apart_by_their_ways():
    twin = sample_identity(np.random.default_rng(2), "train")
    tracks = owners(crossing(twin, twin, 16))
    assert all(len(set(owned)) == 1 for owned in tracks.values()), tracks
    assert len(tracks) <= 4, "each may be lost once behind the other"


def test_similar_subjects_that_cross_between_few_frames_are_never_mixed():
    """Where neither looks nor ways tell, a new track begins rather than a wrong one going on."""
    mixed = held = 0
    for seed in range(12):
        one = sample_identity(np.random.default_rng(seed), "train")
        other = dataclasses.replace(one, shape=sample_identity(np.random.default_rng(seed + 100), "train").shape)
        tracks = owners(crossing(one, other, 5))
        mixed += sum(len(set(owned)) > 1 for owned in tracks.values())
        held += len(tracks) < 10
    assert mixed == 0
    assert held == 12, "some sights are joined all the same"


def test_two_in_one_detection_are_nobodys_next_sight():
    rng = np.random.default_rng(7)
    frames = crossing(sample_identity(rng, "train"), sample_identity(rng, "train"), 12)
    found, whose = (list(values) for values in zip(*(truth(frame) for frame in frames), strict=True))
    middle = [k for k, frame in enumerate(frames) if box_iou(*(d.box for d in truth(frame)[0])) > 0.1]
    assert middle
    for k in middle:  # as a detector sees them that cannot part what touches
        both: Any = np.any(frames[k].masks, axis=0)
        columns, rows = np.flatnonzero(both.any(axis=0)), np.flatnonzero(both.any(axis=-1))
        edges = (columns[0] / SIZE[1], rows[0] / SIZE[0], (columns[-1] + 1) / SIZE[1], (rows[-1] + 1) / SIZE[0])
        box = (float(edges[0]), float(edges[1]), float(edges[2]), float(edges[3]))
        found[k], whose[k] = [Detection(box, both, 1.0)], [9]
    numbers = follow(found, [frame.image for frame in frames], SETTINGS)
    tracks = defaultdict(set)
    for track, who in zip(chain(*numbers), chain(*whose), strict=True):
        tracks[track].add(who)
    assert all(len(owned) == 1 for owned in tracks.values()), dict(tracks)
    assert {owned.pop() for owned in list(tracks.values())} == {0, 1, 9}


@pytest.mark.parametrize("creatures", [1, 2])
def test_tracks_of_the_default_detector_hold_one_identity(creatures):
    """Of sights that show one creature; two in one sight are the detector's, and for the filters of pairs to find."""
    pure = pairs = 0
    for seed in range(20 * creatures, 20 * creatures + 40):
        pictures = film(seed, 24, creatures=creatures)[1::3]
        frames = [render(picture, SIZE) for picture in pictures]
        seen = [working_view(f.image, n.image, 192) for f, n in zip(frames, [*frames[1:], frames[-2]], strict=True)]
        numbers = follow(detections := detect(seen, SETTINGS), [view.image for view in seen], SETTINGS)
        tracks = defaultdict(list)
        for frame, picture, found, row in zip(frames, pictures, detections, numbers, strict=True):
            for detection, number in zip(found, row, strict=True):
                boxes = [one.box for one in truth(frame)[0]]
                overlaps = [box_iou(detection.box, box) for box in boxes]
                alone = sum(_part_inside(box, detection.box) > CONTAINED for box in boxes) <= 1
                if alone and overlaps and max(overlaps) > 0.5:
                    who = truth(frame)[1][int(np.argmax(overlaps))]
                    tracks[number].append(picture.creatures[who].identity.key)
        for owned in tracks.values():
            same = [a == b for i, a in enumerate(owned) for b in owned[:i]]
            pure, pairs = pure + sum(same), pairs + len(same)
    assert pairs >= 400
    assert pure / pairs >= 0.99

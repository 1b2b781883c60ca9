"""What the sights of a track say of each other."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from pipelines.filters import first_reason
from pipelines.settings import FilterSettings
from pipelines.sights import Shot, judge_sights
from pipelines.subjects import Detection

SETTINGS = FilterSettings()
MASK = np.ones((4, 4), bool)


def sight(moved: float | None = 3.0, side: float = 0.2) -> Detection:
    return Detection((0.1, 0.1, 0.1 + side, 0.1 + side), MASK, 1.0, moved=moved)


def shot(tracks: dict[int, list[Detection]], frames: int) -> Shot:
    """Each track t is seen from frame 0 on."""
    shown = [{n: track[k] for n, track in tracks.items() if k < len(track)} for k in range(frames)]
    return Shot([list(seen.values()) for seen in shown], [list(seen) for seen in shown])


def reasons(tracks: dict[int, list[Detection]], frames: int, before: Sequence[Shot] = ()) -> dict[int, list[str]]:
    """First reasons against each sight of each track of the last of a video's shots."""
    last = shot(tracks, frames)
    judged = judge_sights([*before, last], SETTINGS)[-1]
    found: dict[int, list[str]] = {number: [] for number in tracks}
    for number, verdicts in zip(chain(*last.numbers), chain(*judged), strict=True):
        found[number].append(first_reason(verdicts))
    return found


def test_what_one_frame_of_many_shows_is_a_chance():
    assert reasons({0: [sight()] * 4, 1: [sight()]}, 4) == {0: [""] * 4, 1: ["seen_once"]}
    assert reasons({0: [sight()]}, 3) == {0: [""]}, "in so few frames one is much"


def test_what_only_the_camera_moves_is_the_scene():
    scene = [sight(0.1), sight(9.0), sight(0.2), sight(None)]  # one measurement may fail
    assert reasons({0: [sight()] * 4, 1: scene}, 4) == {0: [""] * 4, 1: ["unmoved"] * 4}
    assert reasons({1: scene}, 4)[1] == ["unmoved"] * 4, "the camera alone moves"
    at_rest = {1: [sight(None)] * 4}
    assert reasons(at_rest, 4) == {1: [""] * 4}, "nothing moves, or the detector measures no motion"
    assert reasons(at_rest, 4, before=[shot({0: [sight()] * 4}, 4)]) == {1: ["unmoved"] * 4}, "another shot shows more"


def test_a_subject_rests_now_and_then():
    assert reasons({0: [sight(0.0), sight(2.0), sight(1.0), sight(0.0)]}, 4) == {0: [""] * 4}


def test_a_box_that_grew_by_a_neighbour_is_not_used():
    track = [sight(side=side) for side in (0.2, 0.21, 0.19, 0.3, 0.2, 0.15)]
    assert reasons({0: track}, 6) == {0: ["", "", "", "grown", "", ""]}

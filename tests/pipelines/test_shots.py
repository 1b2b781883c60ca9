"""Cuts are found where the scene changes, and no pair of frames lies on both sides of one."""

import numpy as np

from flexip.pocket.video import film
from flexip.pocket.world import Picture, render
from pipelines.settings import FrameSettings
from pipelines.shots import CutFinder, choose, keyframe_cuts, shot_of

SETTINGS = FrameSettings()


def thumbnails(pictures: list[Picture]) -> list[np.ndarray]:
    """BGR thumbnails of a film of creatures."""
    return [np.ascontiguousarray(render(picture, (48, 64)).image[..., ::-1]) for picture in pictures]


def still(seed: int) -> np.ndarray:
    """A thumbnail of one scene."""
    return thumbnails(film(seed, 1))[0]


def cuts_in(images: list[np.ndarray]) -> list[int]:
    finder = CutFinder(SETTINGS)
    for index, image in enumerate(images):
        finder.add(index, image)
    return finder.cuts()


def test_cuts_are_found_to_the_frame_and_walking_creatures_are_none():
    films = [film(seed, 16) for seed in range(40)]
    truths = [[i for i in range(1, 16) if f[i].scene != f[i - 1].scene] for f in films]
    cut, whole = ([k for k, truth in enumerate(truths) if bool(truth) == wanted][:4] for wanted in (True, False))
    assert len(cut) == len(whole) == 4
    assert [cuts_in(thumbnails(films[k])) for k in cut + whole] == [truths[k] for k in cut + whole]


def test_a_fade_through_black_ends_a_shot():
    first, other = (still(seed) for seed in (1, 2))
    light = [*np.linspace(1, 0, 12), *np.linspace(0, 1, 12)]
    images = [(x * picture).astype(np.uint8) for x, picture in zip(light, [first] * 12 + [other] * 12, strict=True)]
    cuts = cuts_in([first] * 5 + images + [other] * 5)
    assert cuts
    assert all(14 <= cut <= 20 for cut in cuts), "in the dark between the two"


def test_cuts_close_to_each_other_all_count():
    pictures = [still(seed) for seed in (1, 2, 4)]
    assert cuts_in([p for p in pictures for _ in range(6)]) == [6, 12]


def test_between_keyframes_nothing_belongs_to_either_shot():
    first, other = (still(seed) for seed in (1, 2))
    cuts = keyframe_cuts([0, 50, 100, 150], [first, first, other, other], SETTINGS.keyframe_change)
    assert cuts == [51, 100]
    assert [shot_of(i, cuts) for i in (0, 50, 51, 99, 100, 150)] == [0, 0, 1, 1, 2, 2]


def test_chosen_frames_never_have_their_neighbour_beyond_a_cut():
    candidates = [(i, i + 4) for i in range(0, 60, 3)]
    chosen = choose(candidates, [20, 41], 8)
    assert len(chosen) == 8
    assert all(shot_of(i, [20, 41]) == shot_of(n, [20, 41]) for i, n in chosen)
    assert {shot_of(i, [20, 41]) for i, _ in chosen} == {0, 1, 2}


def test_a_shot_shorter_than_the_gap_gives_its_frame_without_motion():
    assert choose([(0, 4), (6, 10), (9, 13)], [5, 8], 3) == [(0, 4), (6, 6), (9, 13)]
    assert choose([(0, 0)], [], 8) == [(0, 0)]
    assert choose([], [], 8) == []

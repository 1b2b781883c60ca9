import dataclasses

import cv2
import numpy as np
import pytest

from flexip.pocket.video import VIDEO_SIZE as SIZE
from flexip.pocket.video import film
from flexip.pocket.world import random_picture, render
from pipelines.settings import SubjectSettings
from pipelines.subjects import View, box_iou, detect, working_view
from pipelines.tracks import follow

SETTINGS = SubjectSettings()


def truth(frame) -> list[list[float]]:
    height, width = frame.image.shape[:2]
    return [[b[0] / width, b[1] / height, b[2] / width, b[3] / height] for b in frame.boxes]


def views(frames):
    following = [*frames[1:], frames[-2]]
    return [working_view(a.image, b.image, SETTINGS.working_side) for a, b in zip(frames, following, strict=True)]


def test_stills_of_creatures_are_found():
    rng = np.random.default_rng(5)
    ious = []
    for _ in range(24):
        frame = render(random_picture(rng, creatures=1), SIZE)
        found = detect([working_view(frame.image, None, SETTINGS.working_side)], SETTINGS)[0]
        ious.append(box_iou(found[0].box, truth(frame)[0]) if found else 0.0)
    assert np.mean(ious) >= 0.7, ious


def test_walking_creatures_are_found_and_followed():
    ious = []
    films = [film(seed, 8, creatures=1) for seed in range(12)]
    staying = [pictures for pictures in films if all(0 < picture.creatures[0].x < 1 for picture in pictures)]
    for pictures in staying[:5]:
        frames = [render(picture, SIZE) for picture in pictures]
        seen = views(frames)
        found = detect(seen, SETTINGS)
        ious += [box_iou(f[0].box, truth(t)[0]) if f else 0.0 for f, t in zip(found, frames, strict=True)]
        tracks = follow(found, [view.image for view in seen], SETTINGS)
        assert {numbers[0] for numbers in tracks if numbers} == {0}
    assert np.mean(ious) >= 0.7, ious


def test_the_same_picture_gives_the_same_mask():
    frame = render(random_picture(np.random.default_rng(8)), SIZE)
    view = working_view(frame.image, None, SETTINGS.working_side)
    first, second = (detect([view], SETTINGS)[0] for _ in range(2))
    assert [d.box for d in first] == [d.box for d in second]
    assert all((a.mask == b.mask).all() for a, b in zip(first, second, strict=True))


def test_plain_picture_has_no_subject():
    assert detect([working_view(np.full((120, 160, 3), 77, np.uint8), None, 160)], SETTINGS) == [[]]


def test_two_creatures_that_swap_places_keep_their_tracks():
    picture = random_picture(np.random.default_rng(3), creatures=2)
    left, right = (dataclasses.replace(c, size=0.35, y=0.6) for c in picture.creatures)
    orders = [(0.25, 0.75), (0.3, 0.7), (0.7, 0.3)]
    frames = [
        render(
            dataclasses.replace(
                picture,
                scene="meadow",
                style="flat",
                creatures=(dataclasses.replace(left, x=a), dataclasses.replace(right, x=b)),
            ),
            SIZE,
        )
        for a, b in orders
    ]
    found = [detect([working_view(frame.image, None, SETTINGS.working_side)], SETTINGS)[0] for frame in frames]
    if any(len(f) != 2 for f in found):
        pytest.fail(f"both creatures should be found in each frame, found {[len(f) for f in found]}")
    tracks = follow(found, [working_view(f.image, None, SETTINGS.working_side).image for f in frames], SETTINGS)
    who = [
        [int(np.argmax([box_iou(d.box, t) for t in truth(frame)])) for d in f]
        for f, frame in zip(found, frames, strict=True)
    ]
    names = {(track, creature) for t, w in zip(tracks, who, strict=True) for track, creature in zip(t, w, strict=True)}
    assert len(names) == 2, "each track is one creature throughout"


def crossing(x: int) -> np.ndarray:
    """A square at x, and a round window that stands out as much."""
    image = np.full((120, 160, 3), (120, 150, 120), np.uint8)
    cv2.circle(image, (110, 30), 14, (250, 220, 90), -1)
    return cv2.rectangle(image, (x, 60), (x + 30, 90), (200, 60, 60), -1)


def test_what_never_moves_before_a_still_camera_is_the_scene():
    """The square crosses the picture and leaves it to the window, which is never taken for a subject."""
    places = range(20, 250, 30)
    found = detect([View(crossing(x), crossing(x + 6)) for x in places], SETTINGS)
    assert [len(subjects) for subjects in found] == [1 if x < 130 else 0 for x in places]
    assert all(detection.box[1] > 0.4 for subjects in found for detection in subjects)

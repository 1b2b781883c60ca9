"""What the sights of a track say of each other: verdicts on subjects of a video that no single frame can give."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from pipelines.filters import Verdict
from pipelines.settings import FilterSettings
from pipelines.subjects import Detection

FEW = 4  # frames: in a shot of fewer, one sight is much


@dataclass(frozen=True)
class Shot:
    """Detections of each frame of one shot, and the number of each one's track."""

    found: Sequence[Sequence[Detection]]
    numbers: Sequence[Sequence[int]]

    def tracks(self) -> dict[int, list[Detection]]:
        """The sights of each track, in order."""
        tracks = defaultdict[int, list[Detection]](list)
        for detection, number in zip(chain(*self.found), chain(*self.numbers), strict=True):
            tracks[number].append(detection)
        return tracks


def judge_sights(shots: Sequence[Shot], settings: FilterSettings) -> list[list[list[list[Verdict]]]]:
    """Verdicts on each detection of each frame of each shot of one video."""
    tracks = [shot.tracks() for shot in shots]
    lively = any(_own_motion(track) is not None for own in tracks for track in own.values())
    return [_judge_shot(shot, own, lively, settings) for shot, own in zip(shots, tracks, strict=True)]


def _judge_shot(
    shot: Shot, tracks: dict[int, list[Detection]], lively: bool, settings: FilterSettings
) -> list[list[list[Verdict]]]:
    of_track = {
        number: [sights(len(track), len(shot.found), settings), *motion(_own_motion(track), lively, settings)]
        for number, track in tracks.items()
    }
    return [
        [[*of_track[number], growth(d, tracks[number], settings)] for d, number in zip(found, row, strict=True)]
        for found, row in zip(shot.found, shot.numbers, strict=True)
    ]


def sights(seen: int, frames: int, settings: FilterSettings) -> Verdict:
    """In how many frames of its shot a subject is seen: twice, or it may be a chance of one picture."""
    return Verdict("sights", float(seen), "seen_once" if seen < settings.sights_min and frames >= FEW else "")


def motion(moved: float | None, lively: bool, settings: FilterSettings) -> list[Verdict]:
    """Own motion [px at the detector's resolution]; no verdict in a video that rests as a whole.

    Where anything moves, be it the camera alone, what is not seen to move by itself may be a piece of the scene.
    """
    if moved is None and not lively:
        return []
    value = moved or 0.0
    return [Verdict("motion", value, "unmoved" if value < settings.motion_min else "")]


def growth(detection: Detection, track: Sequence[Detection], settings: FilterSettings) -> Verdict:
    """Area of the box against the lower quarter of its track's: one that is much larger holds a neighbour too."""
    value = _area(detection) / max(float(np.percentile([_area(sight) for sight in track], 25)), 1e-9)
    return Verdict("growth", value, "grown" if value > settings.growth_max else "")


def _own_motion(track: Sequence[Detection]) -> float | None:
    """The most but one, for the most may be a mistake; subjects rest now and then, the scene always does."""
    known = sorted((sight.moved for sight in track if sight.moved is not None), reverse=True)
    return known[:2][-1] if known else None


def _area(detection: Detection) -> float:
    x0, y0, x1, y1 = detection.box
    return (x1 - x0) * (y1 - y0)

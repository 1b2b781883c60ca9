"""Which detections of one shot are the same subject: one track number for each subject, kept through absences.

Frame by frame, detections are matched one to one to the tracks at least total distance (Hungarian assignment, as in
SORT, Bewley et al., arXiv 1602.00763), where distance weighs appearance and position. What cannot be told apart begins
a new track: a subject cut in two costs pairs, two subjects in one track make pairs of two identities.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from flexip.images import Rgb
from pipelines.settings import SubjectSettings
from pipelines.subjects import Box, Detection, box_iou, colour_histogram, histogram_distance

APPEARANCE = 0.65  # weight of appearance against position
FORGET = 0.3  # how much of a track's appearance each new sight replaces
COASTING = 3  # frames that a subject out of sight is thought to keep its way; then it may be anywhere
CONTAINED = 0.6  # a track is inside a detection when so much of its expected box is
FAR = 1e6


@dataclass(frozen=True)
class Track:
    """What is known of a subject after its last sight."""

    box: Box
    speed: tuple[float, float]  # of the box's middle, per frame, in fractions of the frame
    look: np.ndarray  # colour histogram
    frame: int  # of the last sight

    def expected(self, frame: int) -> Box:
        """The box, had it gone on as before."""
        dx, dy = (v * (frame - self.frame) for v in self.speed)
        return (self.box[0] + dx, self.box[1] + dy, self.box[2] + dx, self.box[3] + dy)

    def seen(self, detection: Detection, look: np.ndarray, frame: int) -> "Track":
        """The track after another sight."""
        (x, y), (old_x, old_y) = _middle(detection.box), _middle(self.box)
        gap = frame - self.frame
        speed = ((x - old_x) / gap, (y - old_y) / gap)
        return Track(detection.box, speed, (1 - FORGET) * self.look + FORGET * look, frame)


def follow(frames: Sequence[Sequence[Detection]], images: Sequence[Rgb], settings: SubjectSettings) -> list[list[int]]:
    """Track number of each detection of each frame of one shot: the same number is the same subject.

    Args:
        frames: detections of each frame, in order of time.
        images: uint8 (H, W, 3) of each frame, of the size of its detections' masks.
    """
    tracks: dict[int, Track] = {}
    fresh, numbers = itertools.count(), list[list[int]]()
    for index, (frame, image) in enumerate(zip(frames, images, strict=True)):
        looks = [colour_histogram(image, detection.mask) for detection in frame]
        merged = _merged(frame, tracks, index)
        matched = _match(frame, looks, tracks, index, merged, settings)
        numbers.append([])
        for j, (detection, look) in enumerate(zip(frame, looks, strict=True)):
            number = matched[j] if j in matched else next(fresh)
            numbers[-1].append(number)
            if number in tracks:
                tracks[number] = tracks[number].seen(detection, look, index)
            elif j not in merged:  # two subjects in one are nobody whom to look for
                tracks[number] = Track(detection.box, (0.0, 0.0), look, index)
    return numbers


def _match(
    frame: Sequence[Detection],
    looks: Sequence[np.ndarray],
    tracks: dict[int, Track],
    index: int,
    merged: set[int],
    settings: SubjectSettings,
) -> dict[int, int]:
    """Detection -> track, for those that are near enough to one track and not nearly as near to another."""
    known = sorted(tracks)
    if not known or not frame:
        return {}
    pairs = list(zip(frame, looks, strict=True))
    cost = np.array([[_distance(tracks[t], d, look, index) for d, look in pairs] for t in known])
    cost[:, sorted(merged)] = FAR
    taken = dict(zip(*(ends.tolist() for ends in linear_sum_assignment(cost)), strict=True))
    return {
        j: known[i]
        for i, j in taken.items()
        if cost[i, j] <= settings.track_distance and _clear(cost, taken, i, settings.track_margin)
    }


def _clear(cost: np.ndarray, taken: dict[int, int], i: int, margin: float) -> bool:
    """Whether no other track could take this one's detection, giving its own in return, at nearly the same cost."""
    j = taken[i]
    for k in range(len(cost)):
        if k != i:
            instead = cost[i, taken[k]] - cost[k, taken[k]] if k in taken else 0.0
            if cost[k, j] - cost[i, j] + instead < margin:
                return False
    return True


def _merged(frame: Sequence[Detection], tracks: dict[int, Track], index: int) -> set[int]:
    """Detections that hold two subjects which were apart a moment ago: nobody's track is to look like both."""
    near = [track.expected(index) for track in tracks.values() if index - track.frame <= COASTING]
    found = set()
    for j, detection in enumerate(frame):
        inside = [box for box in near if _part_inside(box, detection.box) > CONTAINED]
        if len(inside) >= 2 and all(_area(detection.box) > _area(box) for box in inside):
            found.add(j)
    return found


def _distance(track: Track, detection: Detection, look: np.ndarray, frame: int) -> float:
    """0 the same .. 1 nothing in common."""
    overlap = 0.0
    if frame - track.frame <= COASTING:
        overlap = max(box_iou(track.box, detection.box), box_iou(track.expected(frame), detection.box))
    return APPEARANCE * histogram_distance(track.look, look) + (1 - APPEARANCE) * (1 - overlap)


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _part_inside(inner: Box, outer: Box) -> float:
    shared = (max(inner[0], outer[0]), max(inner[1], outer[1]), min(inner[2], outer[2]), min(inner[3], outer[3]))
    return _area(shared) / max(_area(inner), 1e-9)

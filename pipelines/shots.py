"""Where one shot ends and the next begins, with PySceneDetect, on thumbnails that the reader hands over.

Every cut splits, however short the shot: a pair must never cross one, and a shot too many only costs pairs.
"""

from bisect import bisect_right
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from pipelines.settings import FrameSettings

Thumbnail = UInt8[np.ndarray, "_ _ 3"]  # height, width, channels: BGR, as OpenCV and PySceneDetect have it
THUMBNAIL_SIDE = 64  # longer side [px]: the same cuts as at 128 px on film, 0.1 ms a frame


class CutFinder:
    """Cuts and fades among successive frames; `add` each thumbnail in order, then ask for `cuts`.

    AdaptiveDetector finds cuts: the change of a frame against that of its surroundings, so that a moving camera is
    none. ThresholdDetector finds fades through black, which change too slowly for the other.
    """

    def __init__(self, settings: FrameSettings):
        from scenedetect.detectors import AdaptiveDetector, ThresholdDetector

        cv2.setNumThreads(1)  # parallelism comes from processes
        self._detectors = [
            AdaptiveDetector(settings.cut_ratio, min_scene_len=0, min_content_val=settings.cut_change),
            ThresholdDetector(settings.fade_level, min_scene_len=0),
        ]
        self._seen: list[int] = []
        self._cuts: set[int] = set()

    def add(self, index: int, thumbnail: Thumbnail) -> None:
        """The next frame; indices rise but may leave gaps."""
        from scenedetect import FrameTimecode

        position = FrameTimecode(len(self._seen), 1.0)  # detectors count frames, not seconds
        self._seen.append(index)
        for detector in self._detectors:
            self._cuts |= {cut.frame_num for cut in detector.process_frame(position, thumbnail)}

    def cuts(self) -> list[int]:
        """Indices of the frames that begin a new shot, sorted."""
        return [self._seen[position] for position in sorted(self._cuts)]


def keyframe_cuts(indices: Sequence[int], thumbnails: Sequence[Thumbnail], threshold: float) -> list[int]:
    """Frames that begin a new shot, seen at keyframes only: the one after a keyframe that the next does not resemble.

    Where between the two the cut lies is not known, so nothing after the first is taken to belong to it.
    """
    from scenedetect import FrameTimecode
    from scenedetect.detectors import ContentDetector

    cv2.setNumThreads(1)
    detector = ContentDetector(threshold, min_scene_len=0)
    found = [detector.process_frame(FrameTimecode(i, 1.0), image) for i, image in enumerate(thumbnails)]
    ends = [i for i, cuts in enumerate(found) if cuts]
    return sorted({start for i in ends for start in (indices[i - 1] + 1, indices[i])})


def shot_of(index: int, cuts: Sequence[int]) -> int:
    """Number of the shot that a frame belongs to."""
    return bisect_right(cuts, index)


def choose(candidates: Sequence[tuple[int, int]], cuts: Sequence[int], count: int) -> list[tuple[int, int]]:
    """`count` of the (index, neighbour), evenly, of those that have both in one shot.

    A shot whose every neighbour lies beyond its end still gives its frames, as their own neighbours: nothing moves.
    """
    inside = [(i, n) for i, n in candidates if n != i and shot_of(i, cuts) == shot_of(n, cuts)]
    served = {shot_of(i, cuts) for i, _ in inside}
    alone = [(i, i) for i, _ in candidates if shot_of(i, cuts) not in served]
    usable = sorted(inside + alone)
    picks = sorted({int((k + 0.5) * len(usable) / count) for k in range(count)}) if usable else []
    return [usable[k] for k in picks]

"""A user's picture of a subject, brought into the form that curation gave training: cut out on white, square."""

from dataclasses import dataclass

import numpy as np

from flexip.images import Rgb, pad_square
from pipelines.crops import frame_mask, reference_crop
from pipelines.settings import PairSettings, SubjectSettings
from pipelines.subjects import Detector, detect, working_view

_PAIRS, _SUBJECTS = PairSettings(), SubjectSettings()
_WHITE = 245  # a border as light as this everywhere is a picture that somebody has cut out already


@dataclass(frozen=True)
class Prepared:
    """The reference to encode, and what was done to get it."""

    image: Rgb  # square
    done: str  # "cut out", "was cut out already", "nothing found: taken whole"


def prepare_reference(image: Rgb, detect: Detector = detect) -> Prepared:
    """The most salient subject of a picture on white, with curation's default settings.

    A picture that already stands on white is only made square, and one in which nothing stands out is taken whole: a
    reference that is not cut out keeps less identity, since the adapters were trained without backgrounds.
    """
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    if (border.min(axis=1) >= _WHITE).mean() > 0.98:
        return Prepared(pad_square(image), "was cut out already")
    found = detect([working_view(image, None, _SUBJECTS.working_side)], _SUBJECTS)[0]
    if not found:
        return Prepared(pad_square(image), "nothing found: taken whole")
    best = found[0]
    mask = frame_mask(best.mask, *image.shape[:2])
    enlarge = (_PAIRS.enlarge_min + _PAIRS.enlarge_max) / 2
    return Prepared(reference_crop(image, mask, best.box, enlarge, _PAIRS.reference_side)[0], "cut out")

"""What finding the subjects of clips uses, opened once per process: detector with masker, captioner, aesthetic head."""

from dataclasses import dataclass
from functools import lru_cache

from pipelines import pretrained, subjects
from pipelines.aesthetic import Scorer
from pipelines.captioner import Captioner
from pipelines.settings import CurationSettings
from pipelines.subjects import Detector


@dataclass(frozen=True)
class Tools:
    """Functions that may hold weights; the default needs none."""

    detect: Detector = subjects.detect
    describe: Captioner | None = None  # pictures -> captions
    score: Scorer | None = None  # pictures -> aesthetic scores


@lru_cache(maxsize=1)  # a worker has one set of settings, and loading takes seconds
def open_tools(settings: CurationSettings, gpu: bool) -> Tools:
    """The tools that the settings name; torch is imported only when one of them needs it.

    Raises:
        ModelError: weights cannot be loaded; the message names the setting.
    """
    from pipelines.detectors import open_detector

    device = pretrained.device_of(gpu) if pretrained.on_torch(settings) else "cpu"
    detect = open_detector(settings.subjects, device)
    describe = score = None
    if settings.captions.model:
        from pipelines.captioner import open_captioner

        describe = open_captioner(settings.captions, device)
    if settings.filters.aesthetic_head:
        from pipelines.aesthetic import open_scorer

        score = open_scorer(settings.filters, device)
    return Tools(detect, describe, score)

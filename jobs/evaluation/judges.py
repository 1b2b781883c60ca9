"""The encoders, heads, oracles and masks that a configuration names."""

from evaluation.eyes import Eye, clip_eye, dino_eye, oracle_eye
from evaluation.faces import pocket_faces
from evaluation.quality import aesthetic_eye, iqa_eye
from evaluation.scoring import Judges, Masker
from flexip.encoders import EncoderNames
from flexip.images import Mask, Rgb
from flexip.pocket.oracle import ORACLES
from jobs.evaluation.config import ScoringConfig
from pipelines.crops import frame_mask
from pipelines.settings import SubjectSettings
from pipelines.subjects import detect, working_view


def load_judges(config: ScoringConfig, own: EncoderNames, on_pocket: bool, device: str) -> Judges:
    """Loads them, `own` where none is named. Raises EyeError or HeadError for what is not there."""
    truth = on_pocket if config.truth is None else config.truth
    return Judges(
        clip=clip_eye(config.clip or own.clip, device),
        dino=dino_eye(config.dino or own.dino, device),
        others=tuple(clip_eye(name, device) for name in config.others),
        iqa=iqa_eye(device) if config.iqa else None,
        aesthetics=_heads(config, device),
        faces=pocket_faces() if truth else None,
        oracles=tuple(oracle_eye(name) for name in ORACLES) if truth else (),
        masker=Masker("most salient subject, curation's defaults", _salient) if config.masked else None,
    )


def _heads(config: ScoringConfig, device: str) -> tuple[Eye, ...]:
    if not config.aesthetic:
        return ()
    clip = clip_eye(config.aesthetic_clip, device)
    return tuple(aesthetic_eye(head, clip) for head in config.aesthetic)


def _salient(image: Rgb) -> Mask | None:
    settings = SubjectSettings()
    found = detect([working_view(image, None, settings.working_side)], settings)[0]
    mask = frame_mask(found[0].mask, *image.shape[:2]) if found else None
    return mask if mask is not None and mask.any() else None

"""The encoders, heads, oracles and masks that a configuration names."""

from evaluation.eyes import Eye, clip_eye, dino_eye, oracle_eye
from evaluation.faces import FaceReader, library_faces, pocket_faces
from evaluation.quality import aesthetic_eye, iqa_eye
from evaluation.scoring import Judges, Masker
from flexip.encoders import EncoderNames, fingerprint
from flexip.faces import FaceLibraryError, open_faces
from flexip.images import Mask, Rgb
from flexip.pocket.oracle import ORACLES
from jobs.console import UserError
from jobs.evaluation.config import ScoringConfig
from pipelines.crops import frame_mask
from pipelines.settings import SubjectSettings
from pipelines.subjects import detect, working_view


def load_judges(config: ScoringConfig, own: EncoderNames, on_pocket: bool, device: str) -> Judges:
    """Loads them, `own` where none is named. Raises EyeError, HeadError or UserError for what is not there."""
    truth = on_pocket if config.truth is None else config.truth
    return Judges(
        clip=clip_eye(config.clip or own.clip, device),
        dino=dino_eye(config.dino or own.dino, device),
        others=tuple(clip_eye(name, device) for name in config.others),
        iqa=iqa_eye(device) if config.iqa else None,
        aesthetics=_heads(config, device),
        faces=_faces(config, truth),
        oracles=tuple(oracle_eye(name) for name in ORACLES) if truth else (),
        masker=_masker() if config.masked else None,
    )


def _faces(config: ScoringConfig, truth: bool) -> FaceReader | None:
    if config.faces is None:
        return pocket_faces() if truth else None
    files = [str(file) for file in config.face_files]
    needed = {"pocket": 0, "opencv": 2, "insightface": 1}[config.faces]
    if len(files) != needed:
        raise UserError(
            f"scoring.face_files: {len(files)} given, {config.faces} needs {needed}; for opencv YuNet's and SFace's "
            ".onnx, for insightface the folder that holds models/buffalo_l"
        )
    detector, recogniser = files if config.faces == "opencv" else ("", "")
    try:
        return library_faces(open_faces(config.faces, detector, recogniser, files[0] if needed == 1 else ""))
    except FaceLibraryError as error:
        raise UserError(f"scoring.faces = {config.faces}: {error}") from error


def _heads(config: ScoringConfig, device: str) -> tuple[Eye, ...]:
    if not config.aesthetic:
        return ()
    clip = clip_eye(config.aesthetic_clip, device)
    return tuple(aesthetic_eye(head, clip) for head in config.aesthetic)


def _masker() -> Masker:
    settings = fingerprint((), SubjectSettings().model_dump_json())[:8]
    return Masker(f"most salient subject, curation's defaults {settings}", _salient)


def _salient(image: Rgb) -> Mask | None:
    settings = SubjectSettings()
    found = detect([working_view(image, None, settings.working_side)], settings)[0]
    mask = frame_mask(found[0].mask, *image.shape[:2]) if found else None
    return mask if mask is not None and mask.any() else None

"""Detectors that find what phrases name, through transformers: OWLv2 and Grounding DINO.

OWLv2: Minderer et al., arXiv 2306.09683. Grounding DINO: Liu et al., arXiv 2303.05499.
"""

from collections.abc import Sequence
from typing import Any

from flexip.images import Rgb
from pipelines import pretrained
from pipelines.detectors import Finder, Found, inside
from pipelines.pretrained import Pretrained
from pipelines.settings import SubjectSettings
from pipelines.subjects import View


def open_finder(settings: SubjectSettings, device: str) -> Finder:
    """The finder that the settings name. Raises ModelError when its weights cannot be loaded."""
    field, kind = "subjects.detector_model", "AutoModelForZeroShotObjectDetection"
    loaded = pretrained.load(field, settings.model, kind, device)
    wanted = {"owlv2": "Owlv2Processor", "grounding_dino": "GroundingDinoProcessor"}[settings.detector]
    if type(loaded.processor).__name__ != wanted:
        raise pretrained.ModelError(
            f"{field} = {settings.model!r}: holds a {type(loaded.processor).__name__}; subjects.detector = "
            f"{settings.detector} needs a {wanted}"
        )
    search = _owlv2 if settings.detector == "owlv2" else _grounding_dino

    def find(views: Sequence[View], options: SubjectSettings) -> list[list[Found]]:
        images, found = [view.image for view in views], []
        for start in range(0, len(images), options.batch_size):
            found += search(loaded, images[start : start + options.batch_size], options)
        return found

    return find


def _owlv2(loaded: Pretrained, images: Sequence[Rgb], settings: SubjectSettings) -> list[list[Found]]:
    """Each phrase is asked for by itself; a box takes the phrase that it fits best."""
    asked = [f"a photo of a {phrase}" for phrase in settings.phrases]  # the prompt of OWL-ViT's and OWLv2's examples
    inputs = loaded.processor(text=[asked] * len(images), images=list(images), return_tensors="pt")
    results = loaded.processor.post_process_grounded_object_detection(
        loaded(inputs),
        threshold=settings.least_score,
        target_sizes=[image.shape[:2] for image in images],
        text_labels=[list(settings.phrases)] * len(images),
    )
    return [_found(result, image, settings.phrases) for result, image in zip(results, images, strict=True)]


def _grounding_dino(loaded: Pretrained, images: Sequence[Rgb], settings: SubjectSettings) -> list[list[Found]]:
    """All phrases in one text, each ended by a full stop; a box's words are those that it attends to."""
    text = " ".join(f"{phrase.lower()}." for phrase in settings.phrases)
    inputs = loaded.processor(text=[text] * len(images), images=list(images), return_tensors="pt")
    results = loaded.processor.post_process_grounded_object_detection(
        loaded(inputs),
        inputs["input_ids"],
        threshold=settings.least_score,
        text_threshold=settings.text_score_min,
        target_sizes=[image.shape[:2] for image in images],
    )
    return [_found(result, image, settings.phrases) for result, image in zip(results, images, strict=True)]


def _found(result: dict[str, Any], image: Rgb, phrases: Sequence[str]) -> list[Found]:
    """A picture's boxes [px] with their words, as fractions with their phrases."""
    height, width = image.shape[:2]
    found = []
    boxes, scores = result["boxes"].tolist(), result["scores"].tolist()
    said = result["text_labels"] if boxes else []  # decoding no words at all gives one empty text
    for corners, score, words in zip(boxes, scores, said, strict=True):
        box, phrase = inside(corners, height, width), nearest_phrase(words, phrases)
        if box and phrase:
            found.append(Found(box, score, phrase))
    return found


def nearest_phrase(words: str, phrases: Sequence[str]) -> str:
    """The phrase that shares most words with what the detector said; empty when none does.

    Grounding DINO answers with the words that passed its threshold: part of a phrase, or parts of two.
    """
    said = set(words.lower().replace(".", " ").split())
    shares = [_share(phrase.lower().split(), said) for phrase in phrases]
    best = max(range(len(phrases)), key=shares.__getitem__)
    return phrases[best] if shares[best] > 0 else ""


def _share(words: Sequence[str], said: set[str]) -> float:
    """Part of the words that were said, whole or a piece of at least three letters (tokens are pieces of words)."""
    return sum(any(s == w or (len(s) >= 3 and s in w) for s in said) for w in words) / len(words)

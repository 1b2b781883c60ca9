"""Features of pairs and embeddings of crops, by the project's one set of encoders (flexip.encoders).

Batches have a fixed size and order that follow from the rows alone, so that the same rows give the same bytes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float32

from flexip.images import Mask, Rgb, decode_image
from flexip.rows import PairRow

if TYPE_CHECKING:  # the workers that only decode or detect start without torch
    from torch import Tensor

    from flexip.encoders import EncoderNames, Encoders

FAMILIES = ("clip", "dino", "text", "vae")
OPTIONAL = "hidden"


def open_encoders(names: "EncoderNames", *, gpu: bool, threads: int) -> "Encoders":
    """The encoders for curation: half precision on a GPU, single on a CPU, with a fixed number of threads."""
    import torch

    from flexip.encoders import load_encoders

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    return load_encoders(names, "cuda", torch.float16) if gpu else load_encoders(names, "cpu", torch.float32)


def embed_crops(
    encoders: "Encoders", images: Sequence[Rgb], masks: Sequence[Mask], batch_size: int
) -> Float32[np.ndarray, "S Dd"]:
    """Unit-length DINOv2 embeddings of subjects: the mean of the patches that the subject covers."""
    rows = []
    for start in range(0, len(images), batch_size):
        chunk = slice(start, start + batch_size)
        patches = _numpy(encoders.encode_references(images[chunk])[1])
        rows += [_mean_patch(p, mask) for p, mask in zip(patches, masks[chunk], strict=True)]
    return np.stack(rows) if rows else np.zeros((0, encoders.shapes["dino"][1]), np.float32)


def families(hidden: bool) -> tuple[str, ...]:
    """The families that a dataset holds."""
    return (*FAMILIES, OPTIONAL) if hidden else FAMILIES


def encode_pairs(
    encoders: "Encoders", pairs: Sequence[PairRow], batch_size: int, dtype: str, hidden: bool = False
) -> dict[str, np.ndarray]:
    """All families in the pairs' order: clip, dino and perhaps hidden of the reference, text of the caption, vae of
    the target.
    """
    parts: dict[str, list[np.ndarray]] = {family: [] for family in families(hidden)}
    for start in range(0, len(pairs), batch_size):
        chunk = pairs[start : start + batch_size]
        for family, values in encode_batch(encoders, chunk, hidden).items():
            parts[family].append(_numpy(values).astype(dtype))
    return {family: np.concatenate(arrays) for family, arrays in parts.items()}


def encode_batch(encoders: "Encoders", pairs: Sequence[PairRow], hidden: bool = False) -> "dict[str, Tensor]":
    """One batch of every family, on the encoders' device."""
    references = [decode_image(pair.reference) for pair in pairs]
    cls, patches = encoders.encode_references(references)
    text = encoders.encode_text([pair.caption for pair in pairs])
    moments = encoders.encode_targets([decode_image(pair.target) for pair in pairs])
    batch = {"clip": cls, "dino": patches, "text": text, "vae": moments}
    return batch | {OPTIONAL: encoders.encode_hidden(references)} if hidden else batch


def _mean_patch(patches: np.ndarray, mask: Mask) -> np.ndarray:
    side = round(len(patches) ** 0.5)
    cover = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA).ravel()
    weights = cover if cover.sum() > 0.5 else np.ones_like(cover)  # a subject smaller than a patch
    mean = (patches * weights[:, None]).sum(axis=0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def _numpy(values: "Tensor") -> np.ndarray:
    return values.float().cpu().numpy()

"""Features of pairs and embeddings of crops, by the project's one set of encoders (flexip.encoders).

Batches have a fixed size and order that follow from the rows alone, so that the same rows give the same bytes.
"""

import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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


def describe_encoders(names: "EncoderNames", *, gpu: bool, threads: int) -> dict[str, Any]:
    """What identifies the encoders and what they make: fingerprints, shapes, resolution, and the class of device."""
    import torch

    encoders = open_encoders(names, gpu=gpu, threads=threads)
    kind = torch.cuda.get_device_name() if gpu else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {
        "fingerprints": encoders.fingerprints,
        "shapes": encoders.shapes,
        "resolution": encoders.resolution,
        "device": f"{kind} {'float16' if gpu else 'float32'}, {threads} threads",
    }


def embed_crops(
    encoders: "Encoders", images: Sequence[Rgb], masks: Sequence[Mask], batch_size: int
) -> Float32[np.ndarray, "S Dd"]:
    """Unit-length DINOv2 embeddings of subjects: the mean of the patches that the subject covers."""
    rows = []
    for start in range(0, len(images), batch_size):
        chunk = slice(start, start + batch_size)
        patches = _numpy(encoders.encode_patches(images[chunk]))
        rows += [_mean_patch(p, mask) for p, mask in zip(patches, masks[chunk], strict=True)]
    return np.stack(rows) if rows else np.zeros((0, encoders.shapes["dino"][1]), np.float32)


def families(hidden: bool) -> tuple[str, ...]:
    """The families that a dataset holds."""
    return (*FAMILIES, OPTIONAL) if hidden else FAMILIES


def encode_family(
    encoders: "Encoders", pairs: Sequence[PairRow], family: str, batch_size: int, dtype: str
) -> np.ndarray:
    """One family in the pairs' order, (len(pairs), *shape): clip, dino, hidden of the reference, text of the caption,
    vae of the target.
    """
    parts = []
    for start in range(0, len(pairs), batch_size):
        parts.append(_numpy(encode_batch(encoders, pairs[start : start + batch_size], family)).astype(dtype))
    return np.concatenate(parts)


def encode_batch(encoders: "Encoders", pairs: Sequence[PairRow], family: str) -> "Tensor":
    """One batch of one family, on the encoders' device."""
    if family == "text":
        return encoders.encode_text([pair.caption for pair in pairs])
    if family == "vae":
        return encoders.encode_targets([decode_image(pair.target) for pair in pairs])
    encode = {"clip": encoders.encode_cls, "dino": encoders.encode_patches, OPTIONAL: encoders.encode_hidden}[family]
    return encode([decode_image(pair.reference) for pair in pairs])


def _mean_patch(patches: np.ndarray, mask: Mask) -> np.ndarray:
    side = round(len(patches) ** 0.5)
    cover = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA).ravel()
    weights = cover if cover.sum() > 0.5 else np.ones_like(cover)  # a subject smaller than a patch
    mean = (patches * weights[:, None]).sum(axis=0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def _numpy(values: "Tensor") -> np.ndarray:
    return values.float().cpu().numpy()

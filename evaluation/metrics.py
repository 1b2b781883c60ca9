"""Metrics as pure functions over arrays: embeddings in, numbers out. Cosines are raw, -1..1, never scaled or clipped.

Functions on whole sweeps have four axes, always in this order: subjects, prompts, seeds, gammas.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from flexip.images import Mask, Rgb

Sweep = Float[np.ndarray, "subjects prompts seeds gammas"]
SweepEmbeddings = Float[np.ndarray, "subjects prompts seeds gammas width"]

# Which references an answer is compared with. "all": every reference of its subject (DreamBooth, MIP-Adapter's code);
# "shown": the one that conditioned it (DreamBench++'s code); "unseen": all but that one, which copying cannot serve.
References = Literal["all", "shown", "unseen"]
REFERENCES: tuple[References, ...] = get_args(References)


def unit(vectors: Float[np.ndarray, "... width"]) -> Float[np.ndarray, "... width"]:
    """The same directions with length 1, float64; a zero vector is refused, since its cosine means nothing."""
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.all(np.isfinite(lengths)) or np.any(lengths == 0):
        raise ValueError("embeddings: every vector must be finite and longer than 0 to have a cosine")
    return vectors / lengths


def cosine(
    left: Float[np.ndarray, "images width"], right: Float[np.ndarray, "images width"]
) -> Float[np.ndarray, " images"]:
    """Row by row. CLIP-T is this of images and their prompts, without the token that stands for the subject."""
    return np.einsum("id,id->i", unit(left), unit(right))


def reference_similarity(
    images: Float[np.ndarray, "images width"],
    references: Float[np.ndarray, "references width"],
    shown: int,
    policy: References = "all",
) -> Float[np.ndarray, " images"]:
    """CLIP-I and DINO-I of one subject's images: the mean cosine with its references (DreamBooth, section 4.2).

    Args:
        shown: which of the references conditioned the images.

    Returns NaN under "unseen" where there is one reference only.
    """
    cosines = unit(images) @ unit(references).T
    if policy == "shown":
        return cosines[:, shown]
    if policy == "unseen":
        cosines = np.delete(cosines, shown, axis=1)
    return cosines.mean(axis=1) if cosines.shape[1] else np.full(len(cosines), np.nan)


def real_similarity(references: Float[np.ndarray, "references width"]) -> float:
    """Mean cosine between different photographs of one subject: what real pictures reach. NaN for a single one."""
    count = len(references)
    if count < 2:
        return float("nan")
    cosines = unit(references) @ unit(references).T
    return float((cosines.sum() - np.trace(cosines)) / (count * (count - 1)))


def on_white(image: Rgb, mask: Mask) -> Rgb:
    """The masked subject alone, cropped to its box, on white: what masked metrics embed, on both sides.

    Raises:
        ValueError: a mask of another size, or one that shows nothing.
    """
    if mask.shape != image.shape[:2] or not mask.any():
        raise ValueError(f"mask: shape {mask.shape}, {mask.sum()} pixels; needs {image.shape[:2]} and a pixel at least")
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.where(mask[inside][..., None], image[inside], np.uint8(255))


def background(image: Rgb, mask: Mask) -> Rgb:
    """The picture with its subject painted over in the mean colour around it: for text without the subject."""
    around = image[~mask].mean(axis=0) if (~mask).any() else np.full(3, 255.0)
    return np.where(mask[..., None], around.round().astype(np.uint8), image)


def patch_mask(mask: Mask, side: int) -> Bool[np.ndarray, " patches"]:
    """Which patches of a side x side grid the subject covers by half at least; the best covered one always counts."""
    cells = [np.linspace(0, size, side + 1).round().astype(int) for size in mask.shape]
    share = np.array(
        [
            [mask[top : max(low, top + 1), left : max(right, left + 1)].mean() for left, right in _spans(cells[1])]
            for top, low in _spans(cells[0])
        ]
    ).ravel()
    return (share >= 0.5) | (share == share.max())


def patch_similarity(image: Float[np.ndarray, "patches width"], reference: Float[np.ndarray, "others width"]) -> float:
    """Mean, over the reference subject's patches, of the best cosine with a patch of the image's subject (as in MaSC).

    It does not ask where in the picture the subject stands, nor what is behind it.
    """
    return float((unit(reference) @ unit(image).T).max(axis=1).mean())


def clip_iqa(
    images: Float[np.ndarray, "images width"], good: Float[np.ndarray, " width"], bad: Float[np.ndarray, " width"]
) -> Float[np.ndarray, " images"]:
    """CLIP-IQA: softmax over 100 x cosine to "Good photo." and "Bad photo." (Wang et al. 2023, equation 3); 0..1."""
    difference = 100 * (unit(images) @ (unit(good) - unit(bad)))
    return 1 / (1 + np.exp(-difference))


def seed_diversity(embeddings: Float[np.ndarray, "... seeds width"]) -> Float[np.ndarray, "..."]:
    """1 - mean cosine between the answers of different seeds; 0: the noise changes nothing. NaN for one seed."""
    count = embeddings.shape[-2]
    if count < 2:
        return np.full(embeddings.shape[:-2], np.nan)
    cosines = np.einsum("...sd,...td->...st", unit(embeddings), unit(embeddings))
    return np.asarray(1 - (cosines.sum(axis=(-1, -2)) - count) / (count * (count - 1)))


def leakage(
    images: Float[np.ndarray, "images width"],
    references: Float[np.ndarray, "subjects width"],
    own: Int[np.ndarray, " images"],
) -> Float[np.ndarray, " images"]:
    """1 where an answer, or the crop of one subject in it, is nearer to somebody else's reference than to its own.

    own: whose picture it is meant to be. NaN with one subject. 1 - 1/subjects is chance.
    """
    if len(references) < 2:
        return np.full(len(images), np.nan)
    cosines = unit(images) @ unit(references).T
    mine = cosines[np.arange(len(images)), own]
    cosines[np.arange(len(images)), own] = -np.inf
    return (cosines.max(axis=1) > mine).astype(np.float64)


def assigned_similarity(
    found: Float[np.ndarray, "found width"], wanted: Float[np.ndarray, "wanted width"]
) -> tuple[Float[np.ndarray, " wanted"], Int[np.ndarray, " wanted"]]:
    """FaceSim of one picture: each wanted identity's cosine with the face assigned to it, and that face's index.

    The assignment maximises the sum over identities (Hungarian method). An identity without a face has 0 and -1: what
    was not drawn was not kept.
    """
    similarity, chosen = np.zeros(len(wanted)), np.full(len(wanted), -1)
    if len(found) and len(wanted):
        cosines = unit(wanted) @ unit(found).T
        who, which = linear_sum_assignment(-cosines)
        similarity[who], chosen[who] = cosines[who, which], which
    return similarity, chosen


def accuracy(read: Int[np.ndarray, " images"], stated: Int[np.ndarray, " images"]) -> Float[np.ndarray, " images"]:
    """1 where what was read is what the prompt states; NaN where it states nothing (-1)."""
    return np.where(stated >= 0, (read == stated).astype(np.float64), np.nan)


def identity_similarity(references: Float[np.ndarray, "subjects width"], generated: SweepEmbeddings) -> Sweep:
    """Cosine of each generated image with the reference that conditioned it."""
    return np.einsum("sd,sprgd->sprg", unit(references), unit(generated))


def text_alignment(prompts: Float[np.ndarray, "prompts width"], generated: SweepEmbeddings) -> Sweep:
    """Cosine of each generated image with its prompt (CLIP-T: not multiplied by 2.5 or 100, not clipped at 0)."""
    return np.einsum("pd,sprgd->sprg", unit(prompts), unit(generated))


def copy_text_alignment(
    prompts: Float[np.ndarray, "prompts width"], references: Float[np.ndarray, "subjects width"]
) -> Float[np.ndarray, " subjects"]:
    """Text alignment that answering every prompt with a copy of the reference would get: a control."""
    return (unit(references) @ unit(prompts).T).mean(axis=1)


def mean_patch(patches: Float[np.ndarray, "images patches width"]) -> Float[np.ndarray, "images width"]:
    """Mean of an image's unit patch tokens: the DINO embedding used for identity (features keep no [CLS])."""
    return unit(patches).mean(axis=1)


def _spans(edges: Int[np.ndarray, " edges"]) -> list[tuple[int, int]]:
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))

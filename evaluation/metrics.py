"""Similarity of embeddings: pure functions over arrays that hold a whole sweep.

A sweep has four axes, always in this order: subjects, prompts, seeds, gammas. Cosines are raw, -1..1, never scaled.
"""

import numpy as np
from jaxtyping import Float

Sweep = Float[np.ndarray, "subjects prompts seeds gammas"]
SweepEmbeddings = Float[np.ndarray, "subjects prompts seeds gammas width"]


def unit(vectors: Float[np.ndarray, "... width"]) -> Float[np.ndarray, "... width"]:
    """The same directions with length 1, float64; a zero vector is refused, since its cosine means nothing."""
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.all(np.isfinite(lengths)) or np.any(lengths == 0):
        raise ValueError("embeddings: every vector must be finite and longer than 0 to have a cosine")
    return vectors / lengths


def identity_similarity(references: Float[np.ndarray, "subjects width"], generated: SweepEmbeddings) -> Sweep:
    """Cosine of each generated image with the reference that conditioned it."""
    return np.einsum("sd,sprgd->sprg", unit(references), unit(generated))


def wrong_subject_similarity(references: Float[np.ndarray, "subjects width"], generated: SweepEmbeddings) -> Sweep:
    """Mean cosine of each generated image with the references of all *other* subjects.

    The level that identity similarity must beat to mean anything. NaN when there is one subject.
    """
    count = len(references)
    if count < 2:
        return np.full(generated.shape[:-1], np.nan)
    every = np.einsum("td,sprgd->sprgt", unit(references), unit(generated))
    own = np.einsum("sprgs->sprg", every)
    return (every.sum(axis=-1) - own) / (count - 1)


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

"""The gate sweep: every subject under every prompt and seed, at every setting of the dial."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from evaluation import metrics
from flexip.encoders import Encoders
from flexip.engine import Engine
from flexip.images import Rgb
from flexip.request import Request
from flexip.sampler import sample


@dataclass(frozen=True)
class Subject:
    """A subject and the one reference image that conditions its pictures."""

    name: str
    reference: UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class SweepPlan:
    """What to draw. Every gamma of one (subject, prompt, seed) starts from the same noise: only the dial differs."""

    subjects: Sequence[Subject]
    prompts: Sequence[str]
    gammas: Sequence[float] = tuple(round(0.1 * i, 1) for i in range(11))  # 0 = prompt alone, 1 = subject alone
    seeds: Sequence[int] = (0,)
    steps: int = 25
    guidance_scale: float = 5.0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(subjects, prompts, seeds, gammas)."""
        return len(self.subjects), len(self.prompts), len(self.seeds), len(self.gammas)

    @property
    def denoising_steps(self) -> int:
        """Steps of all pictures together."""
        return math.prod(self.shape) * self.steps

    def requests(self) -> list[Request]:
        """One request for every cell, in the order of the axes."""
        return [
            Request(
                prompt=prompt,
                reference=subject.reference,
                preservation=gamma,
                personalization=1 - gamma,
                guidance_scale=self.guidance_scale,
                steps=self.steps,
                seed=seed,
            )
            for subject, prompt, seed, gamma in itertools.product(self.subjects, self.prompts, self.seeds, self.gammas)
        ]


@dataclass(frozen=True)
class SweepScores:
    """Cosines of every picture, and the controls that say what they are worth."""

    identity: dict[str, metrics.Sweep]  # by encoder: "dino", "clip"
    wrong_subject: dict[str, metrics.Sweep]  # the level of chance for the same encoder
    text: metrics.Sweep
    copy_text: Float[np.ndarray, " subjects"]  # what a copy of the reference would get


def draw_sweep(
    engine: Engine, plan: SweepPlan, *, batch_size: int = 22, on_steps: Callable[[int], object] | None = None
) -> UInt8[np.ndarray, "subjects prompts seeds gammas H W 3"]:
    """All pictures of the plan. Batches mix gates and subjects freely; a picture does not depend on its batch.

    `on_steps` is called with the number of denoising steps since its last call.
    """
    requests = plan.requests()
    rows = max(request.unet_rows for request in requests)
    images = sample(engine, requests, on_steps, max_rows=rows * batch_size)
    return np.stack(images).reshape(*plan.shape, *images[0].shape)


def score_sweep(
    encoders: Encoders,
    plan: SweepPlan,
    images: UInt8[np.ndarray, "subjects prompts seeds gammas H W 3"],
    *,
    batch_size: int = 32,
    on_images: Callable[[int], object] | None = None,
) -> SweepScores:
    """Identity against the conditioning reference and alignment with the prompt, by the project's own encoders.

    `on_images` is called with the number of images scored since its last call.
    """
    flat = list(images.reshape(-1, *images.shape[-3:]))
    of_references = embed_images(encoders, [subject.reference for subject in plan.subjects], batch_size, None)
    embedded = embed_images(encoders, flat, batch_size, on_images)
    of_images = {name: rows.reshape(*plan.shape, -1) for name, rows in embedded.items()}
    prompts = encoders.clip_text_embeddings(list(plan.prompts)).float().cpu().numpy()
    return SweepScores(
        identity={n: metrics.identity_similarity(of_references[n], rows) for n, rows in of_images.items()},
        wrong_subject={n: metrics.wrong_subject_similarity(of_references[n], rows) for n, rows in of_images.items()},
        text=metrics.text_alignment(prompts, of_images["clip"]),
        copy_text=metrics.copy_text_alignment(prompts, of_references["clip"]),
    )


def embed_images(
    encoders: Encoders,
    images: Sequence[Rgb],
    batch_size: int = 32,
    on_images: Callable[[int], object] | None = None,
) -> dict[str, Float[np.ndarray, "images width"]]:
    """What images of any sizes are compared by: "dino", the mean of unit patch tokens; "clip", the image embedding."""
    clip, dino = [], []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        clip.append(encoders.clip_image_embeddings(batch).float().cpu().numpy())
        _, patches = encoders.encode_references(batch)
        dino.append(metrics.mean_patch(patches.float().cpu().numpy()))
        if on_images:
            on_images(len(batch))
    return {"dino": np.concatenate(dino), "clip": np.concatenate(clip)}

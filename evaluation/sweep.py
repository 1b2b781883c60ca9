"""A small gate sweep in memory: every subject under every prompt and seed, at every setting of the dial."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from evaluation import metrics
from evaluation.benchmarks import Subject
from evaluation.gate_sweep import GateSweep
from evaluation.protocol import Protocol
from flexip.encoders import Encoders
from flexip.engine import Engine
from flexip.images import Rgb
from flexip.request import Request
from flexip.sampler import sample

AT_ONCE = 32  # pictures that are encoded together


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

    @property
    def references(self) -> list[Rgb]:
        """The picture of each subject that conditions its answers, decoded now."""
        return [subject.reference.image for subject in self.subjects]

    def requests(self) -> list[Request]:
        """One request for every cell, in the order of the axes."""
        return [
            Request(
                prompt=prompt,
                reference=reference,
                preservation=gamma,
                personalization=1 - gamma,
                guidance_scale=self.guidance_scale,
                steps=self.steps,
                seed=seed,
            )
            for reference, prompt, seed, gamma in itertools.product(
                self.references, self.prompts, self.seeds, self.gammas
            )
        ]


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


def measure_sweep(
    encoders: Encoders, plan: SweepPlan, images: UInt8[np.ndarray, "subjects prompts seeds gammas H W 3"]
) -> GateSweep:
    """Identity against the conditioning reference (DINO) and alignment with the prompt (CLIP), by the own encoders.

    The corner is fixed by references and prompts alone, so that areas of several checkpoints compare: for identity the
    mean cosine between references of different subjects (0 with one subject), for text what copies of them get.
    """
    order = np.argsort(plan.gammas)
    drawn = embed_images(encoders, list(images.reshape(-1, *images.shape[-3:])))
    of_images = {name: rows.reshape(*plan.shape, -1)[..., order, :] for name, rows in drawn.items()}
    shown = embed_images(encoders, plan.references)
    prompts = encoders.clip_text_embeddings(list(plan.prompts)).float().cpu().numpy()
    kept = metrics.identity_similarity(shown["dino"], of_images["dino"])
    said = metrics.text_alignment(prompts, of_images["clip"])
    corner = [metrics.real_similarity(shown["dino"]), metrics.copy_text_alignment(prompts, shown["clip"]).mean()]
    return GateSweep(
        method="the checkpoint",
        identity_name=identity_protocol(encoders, plan).column,
        text_name=f"CLIP-T ({encoders.names.clip})",
        settings=np.asarray(plan.gammas, dtype=np.float64)[order],
        identity=kept.mean(axis=(1, 2))[None],
        text=said.mean(axis=(1, 2))[None],
        corner=np.nan_to_num(corner),
    )


def identity_protocol(encoders: Encoders, plan: SweepPlan) -> Protocol:
    """What the identity of a plan's pictures depends on."""
    drawn = f"{plan.steps} steps, guidance {plan.guidance_scale:g}, seeds {list(plan.seeds)}, {list(plan.prompts)}"
    return Protocol(
        "DINO-I", encoders.names.dino, encoders.fingerprints["dino"], "padded to a square, mean patch", "shown", drawn
    )


def embed_images(encoders: Encoders, images: Sequence[Rgb]) -> dict[str, Float[np.ndarray, "images width"]]:
    """What images of any sizes are compared by: "dino", the mean of unit patch tokens; "clip", the image embedding."""
    clip, dino = [], []
    for start in range(0, len(images), AT_ONCE):
        batch = images[start : start + AT_ONCE]
        clip.append(encoders.clip_image_embeddings(batch).float().cpu().numpy())
        dino.append(metrics.mean_patch(encoders.encode_patches(batch).float().cpu().numpy()))
    return {"dino": np.concatenate(dino), "clip": np.concatenate(clip)}

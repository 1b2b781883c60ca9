"""The methods that draw: each brought behind one call, rows in, pictures out."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from evaluation.baselines import load_baseline
from evaluation.benchmarks import Photo
from flexip.checkpoint import WEIGHTS, checkpoint_path
from flexip.encoders import load_pipeline
from flexip.engine import Engine
from flexip.images import Rgb
from flexip.request import Request
from flexip.sampler import sample
from jobs.console import UserError
from jobs.evaluation.config import MethodConfig
from pipelines.references import prepare_reference


@dataclass(frozen=True)
class Ask:
    """One picture to draw."""

    prompt: str
    reference: Photo
    seed: int
    gamma: float | None


@dataclass(frozen=True)
class Steps:
    """How long and how strictly every method draws."""

    steps: int
    guidance_scale: float
    batch: int  # pictures that are drawn together


class Painter(Protocol):
    """A loaded method."""

    def __call__(self, asks: Sequence[Ask]) -> list[Rgb]: ...


def load_painter(method: MethodConfig, steps: Steps, device: str) -> Painter:
    """Loads what draws. Raises the loaders' own errors."""
    if method.kind == "flexip":
        assert method.checkpoint is not None
        return _FlexIP(load_baseline(method.checkpoint, device), steps, method.cut_out)
    return _Diffusers(method, steps, device)


def dial_of(method: MethodConfig, gammas: Sequence[float]) -> tuple[float | None, ...]:
    """The settings that a method is drawn at."""
    if method.kind == "base":
        return (None,)
    if method.gammas:
        return tuple(method.gammas)
    return tuple(gammas) if method.kind == "flexip" else (1.0,)


def maker_of(method: MethodConfig, steps: Steps) -> str:
    """16 hex characters of all that a picture depends on beside prompt, reference, seed and gamma.

    Raises:
        UserError: weights that are not there.
    """
    settings = method.model_dump(mode="json", exclude={"name", "gammas", "manifest"})
    digest = hashlib.sha256(json.dumps([settings, steps.steps, steps.guidance_scale], sort_keys=True).encode())
    if method.checkpoint is not None:
        file = checkpoint_path(method.checkpoint) / WEIGHTS
        if not file.is_file():
            raise UserError(f"methods: {method.name}: checkpoint = {method.checkpoint}: has no {WEIGHTS}")
        digest.update(file.read_bytes())
    elif method.weights and (file := Path(method.weights) / method.subfolder / method.weight_name).is_file():
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class _FlexIP:
    """A checkpoint of this project; a baseline's dial is its scale."""

    def __init__(self, engine: Engine, steps: Steps, cut_out: bool):
        self._engine, self._steps, self._cut_out = engine, steps, cut_out
        self._prepared = dict[str, Rgb]()

    def __call__(self, asks: Sequence[Ask]) -> list[Rgb]:
        own_dial = self._engine.model.config.method.startswith("flexip")
        requests = []
        for ask in asks:
            gamma = 0.5 if ask.gamma is None else ask.gamma
            edit = 1 - gamma if own_dial else 0.0
            requests.append(
                Request(
                    ask.prompt,
                    self._reference(ask.reference),
                    gamma,
                    edit,
                    guidance_scale=self._steps.guidance_scale,
                    steps=self._steps.steps,
                    seed=ask.seed,
                )
            )
        return sample(self._engine, requests, max_rows=2 * self._steps.batch)

    def _reference(self, photo: Photo) -> Rgb:
        if photo.digest not in self._prepared:
            image = photo.image
            self._prepared[photo.digest] = prepare_reference(image).image if self._cut_out else image
        return self._prepared[photo.digest]


class _Diffusers:
    """The base model, or diffusers' own IP-Adapter on it, one picture after the other."""

    def __init__(self, method: MethodConfig, steps: Steps, device: str):
        self._steps, self._adapted = steps, method.kind == "ip-adapter"
        self._pipe: Any = load_pipeline(method.base, device)
        if self._adapted:
            self._pipe.load_ip_adapter(
                method.weights,
                subfolder=method.subfolder,
                weight_name=method.weight_name,
                image_encoder_folder=method.image_encoder or "models/image_encoder",
            )

    def __call__(self, asks: Sequence[Ask]) -> list[Rgb]:
        return [self._draw(ask) for ask in asks]

    def _draw(self, ask: Ask) -> Rgb:
        given: dict[str, Any] = {}
        if self._adapted:
            from PIL import Image

            self._pipe.set_ip_adapter_scale(1.0 if ask.gamma is None else ask.gamma)
            given["ip_adapter_image"] = Image.fromarray(ask.reference.image)
        found = self._pipe(
            ask.prompt,
            num_inference_steps=self._steps.steps,
            guidance_scale=self._steps.guidance_scale,
            generator=torch.Generator().manual_seed(ask.seed),
            **given,
        )
        return np.asarray(found.images[0].convert("RGB"))

"""How good the pocket models are, measured on identities that no training saw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Dinov2Model

from flexip.encoders import EncoderNames, load_encoders
from flexip.pocket.face_nets import load_face_net
from flexip.pocket.models import RESOLUTION, build_clip
from flexip.pocket.oracle import ATTRIBUTES, ORACLES, Reading, read, truth_of, visible
from flexip.pocket.pretrain_clip import exactness, retrieval
from flexip.pocket.pretrain_data import Renders, to_tensor
from flexip.pocket.pretrain_dino import draw_same, embeddings, same_identity
from flexip.pocket.pretrain_faces import landmark_error
from flexip.pocket.pretrain_oracle import load_oracle
from flexip.pocket.pretrain_vae import psnr
from flexip.pocket.probe import draw_crops, read_shares
from flexip.pocket.world import Frame, Picture, random_picture, render

OBEYED = ("scene", "expression", "shape", "colour")
STRENGTHS = (0.3, 0.5, 0.7)
Tick = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """One line of the model card."""

    what: str
    value: float
    unit: str  # "%", "dB" or "px"
    least: float | None = None  # what is asked for


@dataclass(frozen=True)
class HeldOut:
    """Pictures of one creature of the test split each, with the truth about them."""

    pictures: list[Picture]
    frames: list[Frame]
    truth: dict[str, np.ndarray]  # attribute -> int (n,), index of the true value
    visible: dict[str, np.ndarray]  # attribute -> bool (n,)

    @property
    def images(self) -> Tensor:
        """Float32 (n, 3, 64, 64) in -1..1."""
        return to_tensor(np.stack([frame.image for frame in self.frames]))

    @property
    def captions(self) -> list[str]:
        return [frame.captions["long"] for frame in self.frames]


def draw_held_out(count: int, seed: int) -> HeldOut:
    """`count` pictures, rendered anew from the seed."""
    pictures = [random_picture(np.random.default_rng((seed, row, 21)), "test", creatures=1) for row in range(count)]
    shown = [visible(picture) | {"subject", "scene", "style"} for picture in pictures]
    truth = [truth_of(picture) for picture in pictures]
    return HeldOut(
        pictures,
        [render(picture, RESOLUTION) for picture in pictures],
        {name: np.array([row[name] for row in truth]) for name in ATTRIBUTES},
        {name: np.array([name in row for row in shown]) for name in ATTRIBUTES},
    )


def load_judges(weights: Path) -> list[nn.Module]:
    """The oracles of a weights folder, in the order of ORACLES."""
    return [load_oracle(weights, name) for name in ORACLES]


def load_pipe(weights: Path) -> StableDiffusionPipeline:
    """The text-to-image pipeline of a weights folder, in fp32, without progress bars."""
    pipe = StableDiffusionPipeline.from_pretrained(weights)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def measure_oracles(judges: Sequence[nn.Module], held: HeldOut) -> list[Figure]:
    """Right values of each attribute, on renders where it is visible."""
    return [
        Figure(f"{name} oracle on renders: {attribute}", share, "%", 98.0)
        for name, reading in zip(ORACLES, _readings(judges, held.images), strict=True)
        for attribute, share in _right(reading, held).items()
    ]


@torch.no_grad()
def measure_vae(
    pipe: StableDiffusionPipeline, judges: Sequence[nn.Module], held: HeldOut, renders: Renders
) -> list[Figure]:
    """Fidelity of reconstructions, and whether what they show can still be read."""
    vae: Any = pipe.vae
    rebuilt = vae.decode(vae.encode(held.images).latent_dist.mode()).sample.clamp(-1, 1)
    return [
        Figure("VAE reconstruction, PSNR", psnr(vae, renders.images[:256]), "dB", 27.0),
        *_read_by_both(judges, "VAE reconstructions", rebuilt, held, 95.0),
    ]


@torch.no_grad()
def measure_encoders(weights: Path, pipe: StableDiffusionPipeline, renders: Renders, seed: int) -> list[Figure]:
    """OpenCLIP on captions and identities, DINO on identities."""
    clip: Any = build_clip(len(pipe.tokenizer))
    clip.load_state_dict(load_file(weights / "open_clip/open_clip_model.safetensors"))
    dino: Any = Dinov2Model.from_pretrained(weights / "dino", dtype=torch.float32)
    count = min(512, len(renders) // 2)
    captions, exact = (measure(clip.eval(), pipe.tokenizer, renders, count) for measure in (retrieval, exactness))
    views, (cls, patches) = draw_same(256, seed, "test"), embeddings(dino).values()
    return [
        Figure("OpenCLIP: right caption among 64", 100 * captions, "%", 90.0),
        Figure("OpenCLIP: right caption before one that says one other thing", 100 * exact, "%"),
        Figure("DINO: same identity among 256", 100 * same_identity(cls, views), "%", 90.0),
        Figure("DINO, by the mean of its patches: same identity among 256", 100 * same_identity(patches, views), "%"),
        Figure("OpenCLIP: same identity among 256", 100 * same_identity(clip.encode_image, views), "%"),
    ]


def measure_patches(weights: Path, seed: int, known: int, steps: int) -> list[Figure]:
    """What adapters can learn of a creature from the features that they are given."""
    encoders = load_encoders(EncoderNames(str(weights), str(weights / "open_clip"), str(weights / "dino")))
    crops = draw_crops(known, seed, "train"), draw_crops(known // 6, seed, "test")
    families = {"DINO's patches": encoders.encode_patches, "OpenCLIP's states": encoders.encode_hidden}
    return [
        Figure(f"a reader finds in {family}: {attribute}", 100 * share, "%")
        for family, encode in families.items()
        for attribute, share in read_shares(encode, *crops, seed, steps).items()
    ]


def measure_faces(weights: Path, renders: Renders, seed: int) -> list[Figure]:
    """The nets that DynamicID looks at faces with."""
    identity, landmarks = load_face_net(weights, "identity"), load_face_net(weights, "landmarks")
    same = same_identity(lambda x: identity(x), draw_same(256, seed, "test"))
    return [
        Figure("face identity: same among 256", 100 * same, "%"),
        Figure("face landmarks: mean error in 64 px crops", landmark_error(landmarks, renders), "px"),
    ]


def draw_prompts(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    steps: int = 25,
    seed: int = 0,
    batch: int = 25,
    tick: Tick,
) -> Tensor:
    """A picture for each prompt, (n, 3, 64, 64) in -1..1; `tick` is called after every batch."""
    parts = []
    for first in range(0, len(prompts), batch):
        part = list(prompts[first : first + batch])
        generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(part))]
        parts.append(
            _as_tensor(
                pipe(part, num_inference_steps=steps, guidance_scale=4.0, generator=generators, output_type="np")
            )
        )
        tick()
    return torch.cat(parts)


def measure_prompts(judges: Sequence[nn.Module], drawn: Tensor, held: HeldOut) -> list[Figure]:
    """Whether pictures drawn from the held-out captions show what those say: the share that the stricter oracle reads.

    An attribute counts where a render of the same picture shows it.
    """
    right = [_right(reading, held) for reading in _readings(judges, drawn)]
    return [Figure(f"text-to-image obeys {name}", min(r[name] for r in right), "%", 85.0) for name in OBEYED]


def measure_image_to_image(
    pipe: StableDiffusionPipeline,
    judges: Sequence[nn.Module],
    held: HeldOut,
    *,
    count: int = 100,
    seed: int = 0,
    tick: Tick,
) -> list[Figure]:
    """What the oracles read when a render is noised and denoised again under its own caption: the truth is known."""
    image_to_image: Any = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    image_to_image.set_progress_bar_config(disable=True)
    part = HeldOut(
        held.pictures[:count],
        held.frames[:count],
        {name: values[:count] for name, values in held.truth.items()},
        {name: values[:count] for name, values in held.visible.items()},
    )
    figures = []
    for strength in STRENGTHS:
        done = image_to_image(
            part.captions,
            image=(part.images + 1) / 2,
            strength=strength,
            num_inference_steps=25,
            guidance_scale=3.0,
            generator=[torch.Generator().manual_seed(seed + i) for i in range(len(part.pictures))],
            output_type="np",
        )
        figures += _read_by_both(judges, f"image-to-image, strength {strength:g}", _as_tensor(done), part, None)
        tick()
    return figures


def grid(images: Tensor, columns: int = 8) -> np.ndarray:
    """The first pictures (n, 3, H, W) as rows of `columns`, uint8 RGB; an incomplete row is left out."""
    count = len(images) // columns * columns
    rows = ((images[:count].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows.reshape(-1, columns, *rows.shape[1:])])


def _readings(judges: Sequence[nn.Module], images: Tensor) -> list[Reading]:
    return [read(oracle, images) for oracle in judges]


def _right(reading: Reading, held: HeldOut) -> dict[str, float]:
    """Percent of right values of each attribute, where it is visible."""
    right = {}
    for name in ATTRIBUTES:
        shown = held.visible[name]
        if shown.any():
            guess = reading.probabilities[name].argmax(dim=1).numpy()
            right[name] = 100 * float((guess == held.truth[name])[shown].mean())
    return right


def _read_by_both(
    judges: Sequence[nn.Module], what: str, images: Tensor, held: HeldOut, least: float | None
) -> list[Figure]:
    """The worse oracle's mean over attributes, and how often the two agree."""
    readings = _readings(judges, images)
    means = [float(np.mean(list(_right(reading, held).values()))) for reading in readings]
    first, second = (reading.probabilities for reading in readings)
    same = [float((first[name].argmax(1) == second[name].argmax(1)).float().mean()) for name in ATTRIBUTES]
    return [
        Figure(f"oracles on {what}", min(means), "%", least),
        Figure(f"the two oracles agree on {what}", 100 * float(np.mean(same)), "%"),
    ]


def _as_tensor(output: Any) -> Tensor:
    """What a pipeline returns with output_type "np", as (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.asarray(output.images)).permute(0, 3, 1, 2).float() * 2 - 1

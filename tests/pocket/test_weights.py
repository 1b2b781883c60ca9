"""The committed pocket models: they load offline by the libraries' own loaders, and they have learnt something."""

import json
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import AutoImageProcessor, Dinov2Model

from flexip.pocket import weights_path
from flexip.pocket.models import total_bytes
from flexip.pocket.pretrain_data import to_tensor
from flexip.pocket.pretrain_vae import psnr
from flexip.pocket.world import place, random_picture, render

LIMIT = 24_000_000  # bytes


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(weights_path())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_clip(folder: str) -> tuple[open_clip.CLIP, Callable[[Image.Image], torch.Tensor]]:
    model, preprocess = cast(Any, open_clip.create_model_from_pretrained(folder))
    return model, preprocess


@pytest.fixture(scope="module")
def renders() -> np.ndarray:
    rng = np.random.default_rng(11)
    return np.stack([render(random_picture(rng, "val")).image for _ in range(32)])


def test_weights_are_small_and_half_precision() -> None:
    assert total_bytes(weights_path()) <= LIMIT
    for path in weights_path().rglob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        counts = ("__metadata__", "num_batches_tracked")  # of a batch normalisation: whole numbers
        dtypes = {entry["dtype"] for name, entry in header.items() if not name.endswith(counts)}
        assert dtypes == {"F16"}, path


def test_the_pipeline_has_the_shapes_of_the_full_size_system(pipe: StableDiffusionPipeline) -> None:
    assert pipe.text_encoder.dtype == torch.float32
    assert pipe.unet.config["sample_size"] * 4 == 64
    assert pipe.unet.config["cross_attention_dim"] == pipe.text_encoder.config.hidden_size == 128
    assert pipe.scheduler.config["prediction_type"] == "epsilon"
    assert not pipe.scheduler.config["clip_sample"]
    moments = pipe.vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.parameters
    assert moments.shape == (1, 8, 16, 16)
    prompts = ["", "a red round creature", "雪 🙂 " * 60]
    tokens = pipe.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert pipe.text_encoder(tokens).last_hidden_state.shape == (3, 77, 128)


def test_dino_sees_64_patches(renders: np.ndarray) -> None:
    model = Dinov2Model.from_pretrained(weights_path() / "dino")
    processor = AutoImageProcessor.from_pretrained(weights_path() / "dino")
    pixels = processor([Image.fromarray(image).resize((200, 150)) for image in renders[:2]], return_tensors="pt")
    assert pixels["pixel_values"].shape == (2, 3, 64, 64)
    assert model(**pixels).last_hidden_state.shape == (2, 1 + 64, 128)


def test_the_vae_keeps_a_picture(pipe: StableDiffusionPipeline, renders: np.ndarray) -> None:
    mean = renders.astype(np.float32).mean(axis=(1, 2), keepdims=True)
    mse = ((renders - mean) / 255.0) ** 2
    of_one_colour = float(-10 * np.log10(mse.mean(axis=(1, 2, 3))).mean())
    assert psnr(pipe.vae, renders) > of_one_colour + 5
    with torch.no_grad():
        latents = pipe.vae.encode(to_tensor(renders)).latent_dist.mode() * pipe.vae.config["scaling_factor"]
    assert float(latents.std()) == pytest.approx(1.0, abs=0.15)


def test_clip_finds_the_caption_of_a_picture() -> None:
    folder = f"local-dir:{weights_path() / 'open_clip'}"
    model, preprocess = load_clip(folder)
    tokenizer = open_clip.get_tokenizer(folder)
    rng = np.random.default_rng(12)
    frames = [render(random_picture(rng, "test", creatures=1)) for _ in range(64)]
    images = torch.stack([preprocess(Image.fromarray(frame.image)) for frame in frames])
    tokens = tokenizer([frame.captions["long"] for frame in frames])
    with torch.no_grad():
        similarity = model.encode_image(images, normalize=True) @ model.encode_text(tokens, normalize=True).T
    right = float((similarity.argmax(dim=1) == torch.arange(64)).float().mean())
    assert right >= 0.9  # chance is 1/64


def test_generated_pictures_obey_the_scene(pipe: StableDiffusionPipeline) -> None:
    """Colours of the picture's borders tell the scene: nearer to renders of the asked scene than of the others."""
    scenes = {"snow": "in the snow", "sea": "under the sea", "meadow": "in a meadow", "moon": "on the moon"}
    rng = np.random.default_rng(0)
    centres = np.stack([_border(_renders_of(scene, rng)) for scene in scenes])
    prompts = [f"a red round creature with horns, happy, {place}" for place in scenes.values() for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    images, _ = pipe(
        prompts, num_inference_steps=12, guidance_scale=4.0, generator=generator, output_type="np", return_dict=False
    )
    nearest = ((_border_each(np.asarray(images))[:, None] - centres[None]) ** 2).mean(axis=2).argmin(axis=1)
    assert (nearest == np.repeat(np.arange(4), 2)).mean() >= 0.75


def _renders_of(scene: str, rng: np.random.Generator) -> np.ndarray:
    pictures = [place([], rng, scene=scene, style="flat") for _ in range(12)]
    return np.stack([render(picture).image for picture in pictures]) / 255.0


def _border(images: np.ndarray) -> np.ndarray:
    return _border_each(images).mean(axis=0)


def _border_each(images: np.ndarray) -> np.ndarray:
    """Mean colours of the four corners' squares: (B, 12)."""
    corners = [
        images[:, y, x].mean(axis=(1, 2)) for y in (slice(12), slice(-12, None)) for x in (slice(12), slice(-12, None))
    ]
    return np.concatenate(corners, axis=1)

"""What each encoder is given, against what the libraries' own preprocessing makes of the same picture or words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from transformers import BitImageProcessor, CLIPImageProcessor

from flexip.encoders import Encoders, load_encoders

WORDS = ["a toy on a beach", "An ÉLAN, 12 naïve robots!", "creature " * 100]


@pytest.fixture(scope="module")
def encoders(paper_models) -> Encoders:
    return load_encoders(paper_models)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth colours and edges, 224 px, what CLIP and DINOv2 see."""
    y, x = np.mgrid[:224, :224]
    image = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)
    image[60:90, 40:200] = (200, 40, 40)
    return image


def given(module: torch.nn.Module, call: Callable[[], Any]) -> torch.Tensor:
    """The tensor that a module is called with meanwhile."""
    seen = []
    hook = module.register_forward_pre_hook(
        lambda _, args, named: seen.append(args[0] if args else named["pixel_values"]), with_kwargs=True
    )
    call()
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("side", [224, 300])
def test_clip_sees_what_transformers_would_show_it(encoders, picture, side):
    image = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
    ours = given(encoders.clip.visual, lambda: encoders.encode_cls([np.asarray(image)]))
    processor = CLIPImageProcessor(resample=Image.Resampling.BICUBIC)  # OpenAI's values are the defaults
    theirs: Any = processor(image, return_tensors="pt")["pixel_values"]
    assert ours.shape == (1, 3, 224, 224)
    torch.testing.assert_close(ours, theirs, atol=1e-6 if side == 224 else 0.02, rtol=0)  # resizing rounds to 8 bits


def test_dinov2_sees_what_transformers_would_show_it(encoders, picture):
    ours = given(encoders.dino, lambda: encoders.encode_patches([picture]))
    whole = BitImageProcessor(size={"shortest_edge": 224}, do_center_crop=False)  # its own values are the defaults
    theirs: Any = whole(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    assert ours.shape == (1, 3, 224, 224)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_the_vae_sees_what_diffusers_would_show_it(encoders, picture):
    ours = given(encoders.vae.encoder, lambda: encoders.encode_targets([picture], size=(224, 224)))
    theirs: Any = VaeImageProcessor(vae_scale_factor=8).preprocess(Image.fromarray(picture))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_words_become_clips_own_tokens(encoders):
    ours = given(encoders.text_encoder, lambda: encoders.encode_text(WORDS))
    theirs = open_clip.SimpleTokenizer()(WORDS)
    end = 49407
    assert ours.shape == theirs.shape == (3, 77)
    for mine, other in zip(ours.tolist(), theirs.tolist(), strict=True):
        stop = other.index(end) + 1
        assert mine[:stop] == other[:stop]
        assert set(mine[stop:]) <= {end}  # Stable Diffusion pads with the end token
    assert torch.equal(encoders.clip_tokenizer(WORDS), theirs)

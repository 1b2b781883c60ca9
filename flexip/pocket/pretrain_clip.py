"""Stage 2: open_clip's two towers by contrast of pictures and captions.

Its text tower is what the pipeline's text encoder begins from; the UNet's stage takes that further.
"""

from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from flexip.pocket.captions import altered
from flexip.pocket.models import build_clip, build_text_encoder, halved, save_clip, save_part
from flexip.pocket.pretrain import Budget, Workshop, train
from flexip.pocket.pretrain_data import Renders, pick_captions, random_crops, to_tensor, warp
from flexip.pocket.tokens import build_tokenizer


def train_clip(shop: Workshop, budget: Budget, renders: Renders, held_out: Renders) -> dict[str, float]:
    """Trains and exports both; returns `retrieval` (right captions among 64, held-out), `exactness` and `steps`."""
    torch.manual_seed(shop.seed + 1)
    tokenizer = build_tokenizer()
    clip = build_clip(len(tokenizer)).to(shop.device)
    if budget.warm:
        clip.load_state_dict(load_file(shop.weights / "open_clip/open_clip_model.safetensors"))

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((shop.seed, 2, step))
        rows = np.sort(rng.choice(len(renders), size=budget.batch_size, replace=False))
        captions = pick_captions(renders, rows, rng)
        sentences = captions + [altered(caption, rng) for caption in captions]
        tokens = tokenize(tokenizer, sentences).to(shop.device)
        pictures = to_tensor(some_cropped(renders, rows, rng)).to(shop.device)
        image = functional.normalize(clip.encode_image(pictures), dim=-1)
        same = torch.tensor([[a == b for b in sentences] for a in captions], device=shop.device).float()
        scale = clip.logit_scale.exp().clamp(max=100.0)
        return contrast(image, functional.normalize(encode_short(clip, tokens), dim=-1), scale, same)

    steps = train("clip", shop, budget, {"clip": clip}, loss_of)
    save_clip(shop.weights, clip, tokenizer)
    save_part(shop.weights, "text_encoder", halved(text_tower(clip, tokenizer)))
    tokenizer.save_pretrained(shop.weights / "tokenizer")
    count = min(512, len(held_out) // 2)
    measured = {f.__name__: f(clip, tokenizer, held_out, count) for f in (retrieval, exactness)}
    return measured | {"steps": float(steps)}


def some_cropped(renders: Renders, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pictures (n, H, W, 3) uint8, half of them as crops of their creature, which is how references are seen."""
    images = renders.images[rows]
    chosen = np.flatnonzero(rng.random(len(rows)) < 0.5)
    for place, matrix in zip(chosen, random_crops(renders.boxes[rows[chosen]], rng), strict=True):
        images[place] = warp(images[place], matrix)
    return images


def encode_short(clip: Any, tokens: Tensor) -> Tensor:
    """`clip.encode_text` (B, D) without the padding after the longest text, which a causal tower never sees."""
    end = tokens.argmax(dim=1)
    length = int(end.max()) + 1
    x = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), end] @ clip.text_projection


def text_tower(clip: open_clip.CLIP, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text tower of an open_clip model, weight for weight, as a CLIPTextModel."""
    model, source = build_text_encoder(tokenizer), clip.state_dict()
    renamed = {
        "embeddings.token_embedding.weight": source["token_embedding.weight"],
        "embeddings.position_embedding.weight": source["positional_embedding"],
        "final_layer_norm.weight": source["ln_final.weight"],
        "final_layer_norm.bias": source["ln_final.bias"],
    }
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
             "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    for layer in range(model.config.num_hidden_layers):
        old, new = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            for theirs, ours in names.items():
                renamed[f"{new}.{ours}.{kind}"] = source[f"{old}.{theirs}.{kind}"]
            thirds = source[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for letter, part in zip("qkv", thirds, strict=True):
                renamed[f"{new}.self_attn.{letter}_proj.{kind}"] = part
    prefix = next(iter(model.state_dict())).partition("embeddings.")[0]  # "text_model." before transformers 5
    model.load_state_dict({prefix + name: value for name, value in renamed.items()})
    return model


def contrast(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy of similarities (CLIP, Fig. 3); rows with equal captions share the mass.

    More texts than pictures: the further ones are wrong ones, of which each differs from a picture's own in one thing
    (NegCLIP, Yuksekgonul et al. 2023). Without them scene and colours tell the captions of a batch apart, and the text
    tower never learns what a shape is.

    image (B, D), text (B + W, D): unit vectors; same (B, B + W): whether a text says the same as the picture's own.
    """
    logits, count = scale * image @ text.T, len(image)
    back = same[:, :count]
    return 0.5 * (
        functional.cross_entropy(logits, same / same.sum(dim=1, keepdim=True))
        + functional.cross_entropy(logits[:, :count].T, back / back.sum(dim=1, keepdim=True))
    )


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """int64 (B, 77), padded with the end token as in the pipeline."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def retrieval(clip: open_clip.CLIP, tokenizer: CLIPTokenizer, renders: Renders, count: int, among: int = 64) -> float:
    """Share of pictures whose long caption has the highest similarity among `among` captions."""
    hits = 0
    for first in range(0, count, among):
        images = to_tensor(renders.images[2 * first : 2 * (first + among) : 2]).to(clip.logit_scale.device)
        captions = [renders.captions[2 * row]["long"] for row in range(first, first + among)]
        tokens = tokenize(tokenizer, captions).to(images.device)
        similarity = clip.encode_image(images, normalize=True) @ clip.encode_text(tokens, normalize=True).T
        hits += int((similarity.argmax(dim=1).cpu() == torch.arange(among)).sum())
    return hits / count


@torch.no_grad()
def exactness(clip: open_clip.CLIP, tokenizer: CLIPTokenizer, renders: Renders, count: int, batch: int = 64) -> float:
    """Share of pictures to which their long caption is nearer than one that says one other thing; 0.5 is guessing."""
    rng, hits = np.random.default_rng(0), 0
    for first in range(0, count, batch):
        rows = range(2 * first, 2 * min(first + batch, count), 2)
        right = [renders.captions[row]["long"] for row in rows]
        tokens = tokenize(tokenizer, right + [altered(words, rng) for words in right]).to(clip.logit_scale.device)
        image = clip.encode_image(to_tensor(renders.images[list(rows)]).to(tokens.device), normalize=True)
        nearness = (clip.encode_text(tokens, normalize=True).unflatten(0, (2, -1)) * image).sum(dim=-1)
        hits += int((nearness[0] > nearness[1]).sum())
    return hits / count


def text_states(text: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """The pipeline's condition: float32 (B, 77, D)."""
    return text(tokenize(tokenizer, captions).to(text.device)).last_hidden_state

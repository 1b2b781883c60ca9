"""Stage 2: open_clip's two towers and the pipeline's text encoder, by contrast of pictures and captions."""

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from flexip.pocket.models import WIDTH, build_clip, build_text_encoder, halved, save_clip, save_part
from flexip.pocket.pretrain import Budget, Workshop, train
from flexip.pocket.pretrain_data import Renders, pick_captions, to_tensor
from flexip.pocket.tokens import build_tokenizer


def train_clip(shop: Workshop, budget: Budget, renders: Renders, held_out: Renders) -> dict[str, float]:
    """Trains and exports both; returns `retrieval` (share of right captions among 64, held-out) and `steps`."""
    torch.manual_seed(shop.seed + 1)
    tokenizer = build_tokenizer()
    clip, text = build_clip(len(tokenizer)).to(shop.device), build_text_encoder(tokenizer).to(shop.device)
    head = nn.Linear(WIDTH, WIDTH, bias=False).to(shop.device)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((shop.seed, 2, step))
        rows = np.sort(rng.choice(len(renders), size=budget.batch_size, replace=False))
        captions = pick_captions(renders, rows, rng)
        tokens = tokenize(tokenizer, captions).to(shop.device)
        image = functional.normalize(clip.encode_image(to_tensor(renders.images[rows]).to(shop.device)), dim=-1)
        same = torch.tensor([[a == b for b in captions] for a in captions], device=shop.device).float()
        scale = clip.logit_scale.exp().clamp(max=100.0)
        towers = (clip.encode_text(tokens), head(text(tokens).pooler_output))
        return torch.stack([contrast(image, functional.normalize(t, dim=-1), scale, same) for t in towers]).sum()

    steps = train("clip", shop, budget, {"clip": clip, "text": text, "head": head}, loss_of)
    save_clip(shop.weights, clip, tokenizer)
    save_part(shop.weights, "text_encoder", halved(text))
    tokenizer.save_pretrained(shop.weights / "tokenizer")
    return {"retrieval": retrieval(clip, tokenizer, held_out, 512), "steps": float(steps)}


def contrast(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy of similarities (CLIP, eq. of Fig. 3); rows with equal captions (`same`) share the mass."""
    logits = scale * image @ text.T
    target = same / same.sum(dim=1, keepdim=True)
    return 0.5 * (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target))


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


def text_states(text: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """The pipeline's condition: float32 (B, 77, D)."""
    return text(tokenize(tokenizer, captions).to(text.device)).last_hidden_state

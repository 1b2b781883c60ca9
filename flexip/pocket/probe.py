"""What a reader of patches finds of a creature in an encoder's features: adapters can learn no more of it from them.

The reader is a resampler of two blocks, as adapters have one, before a linear layer: a linear probe of one vector
would ask less of the features than an adapter does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import Tensor, nn
from torch.nn import functional

from flexip.images import Rgb
from flexip.pocket.identity import sample_identity
from flexip.pocket.models import RESOLUTION
from flexip.pocket.oracle import IDENTITY, truth_of, visible
from flexip.pocket.pretrain_data import crop_matrix, warp
from flexip.pocket.world import Picture, place, render
from flexip.rows import Split

Encode = Callable[[Sequence[Rgb]], Tensor]  # crops -> (B, N, D)

_BATCH, _AT_ONCE = 64, 200


@dataclass(frozen=True)
class Crops:
    """Crops of one creature each, as references are cut, with the truth about it."""

    images: list[Rgb]
    pictures: list[Picture]

    def values(self) -> Tensor:
        """int64 (n, attributes), in the order of IDENTITY."""
        truth = [truth_of(picture) for picture in self.pictures]
        return torch.tensor([[row[name] for name in IDENTITY] for row in truth])

    def visible(self) -> Tensor:
        """bool (n, attributes); takes some tens of renders for each."""
        shown = [visible(picture, tuple(IDENTITY)) for picture in self.pictures]
        return torch.tensor([[name in row for name in IDENTITY] for row in shown])


def draw_crops(count: int, seed: int, split: Split) -> Crops:
    """`count` creatures of a split, in any scene, style and state."""
    rng = np.random.default_rng((seed, len(split), 29))
    pictures = [place([sample_identity(rng, split)], rng) for _ in range(count)]
    frames = [render(picture, RESOLUTION) for picture in pictures]
    return Crops([warp(f.image, crop_matrix(f.boxes[0], 1.1, (0.0, 0.0))) for f in frames], pictures)


def read_shares(encode: Encode, known: Crops, held_out: Crops, seed: int = 0, steps: int = 400) -> dict[str, float]:
    """Share of visible values of each attribute that a reader trained on `known` finds in `held_out`."""
    features = _features(encode, known.images)
    mean, spread = features.mean(dim=(0, 1)), features.std(dim=(0, 1)) + 1e-5
    reader = _train((features - mean) / spread, known.values(), seed, steps)
    with torch.no_grad():
        logits = reader((_features(encode, held_out.images) - mean) / spread)
    right = torch.stack([part.argmax(dim=1) for part in _split(logits)], dim=1) == held_out.values()
    shown = held_out.visible()
    counts = (right & shown).sum(dim=0) / shown.sum(dim=0)
    return dict(zip(IDENTITY, counts.tolist(), strict=True))


def _train(features: Tensor, values: Tensor, seed: int, steps: int) -> nn.Module:
    """The reader, (B, N, D) to logits (B, sum of values)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width = features.shape[2]
        resampler = IPAdapterPlusImageProjection(
            embed_dims=width, output_dims=width, hidden_dims=width, depth=2, dim_head=32, heads=4, num_queries=8
        )
        outputs = sum(len(names) for names in IDENTITY.values())
        reader = nn.Sequential(resampler, nn.Flatten(), nn.Linear(8 * width, outputs))
        optimizer = torch.optim.AdamW(reader.parameters(), 1e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
        for _ in range(steps):
            rows = torch.randint(0, len(features), (_BATCH,))
            parts = zip(_split(reader(features[rows])), values[rows].T, strict=True)
            torch.stack([functional.cross_entropy(logits, truth) for logits, truth in parts]).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return reader.eval()


def _split(logits: Tensor) -> tuple[Tensor, ...]:
    return logits.split([len(names) for names in IDENTITY.values()], dim=1)


@torch.no_grad()
def _features(encode: Encode, images: list[Rgb]) -> Tensor:
    parts = [encode(images[first : first + _AT_ONCE]).float().cpu() for first in range(0, len(images), _AT_ONCE)]
    return torch.cat(parts).clone()  # out of inference mode

"""Stage 5: the oracles, on pictures of one creature and of none, spoilt in the ways that generated pictures are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur
from tqdm import trange

from flexip.pocket.models import RESOLUTION
from flexip.pocket.oracle import ATTRIBUTES, ORACLES, OracleName, build_oracle, split_logits, truth_of
from flexip.pocket.pretrain import Average, Budget, Workshop, on_device, train
from flexip.pocket.pretrain_data import to_tensor
from flexip.pocket.world import random_picture, render
from flexip.rows import Split

_EMPTY = 0.06  # share of pictures without a creature
_SMEARED = 0.06  # share of pictures whose creature is scrambled beyond recognition, which is no creature either


@dataclass(frozen=True)
class Labelled:
    """Pictures and the truth about them, a column per attribute in the order of ATTRIBUTES; -1 where there is none."""

    images: np.ndarray  # uint8 (n, 64, 64, 3)
    labels: np.ndarray  # int8 (n, attributes)


def train_oracle(
    shop: Workshop, budget: Budget, pictures: Labelled, held_out: Labelled, name: OracleName
) -> dict[str, float]:
    """Trains and exports one oracle; returns its share of right values for each attribute (held-out) and `steps`."""
    torch.manual_seed(shop.seed + 10 + ORACLES.index(name))
    oracle = on_device(build_oracle(name), shop.device)
    average = Average(oracle, 0.998)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((shop.seed, 10 + ORACLES.index(name), step))
        rows = np.sort(rng.choice(len(pictures.images), size=budget.batch_size, replace=False))
        labels = pictures.labels[rows].astype(np.int64)
        images, labels = mirror(to_tensor(pictures.images[rows]), labels, rng.random(len(rows)) < 0.5)
        smeared = rng.random(len(rows)) < _SMEARED
        images, labels = smear(images, labels, smeared, rng)
        return attribute_loss(oracle, spoil(images, rng).to(shop.device), torch.from_numpy(labels).to(shop.device))

    shop.quicken(oracle)
    modules = {"oracle": oracle, "average": average.shadow}
    steps = train(f"oracle-{name}", shop, budget, modules, loss_of, average.update)
    save_oracle(shop.weights, name, average.shadow)
    return accuracy(average.shadow, held_out) | {"steps": float(steps)}


def attribute_loss(oracle: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Sum over attributes of the cross-entropy, over the pictures that have the attribute."""
    parts = split_logits(oracle(images)).values()
    return torch.stack(
        [functional.cross_entropy(part.float(), labels[:, i], ignore_index=-1) for i, part in enumerate(parts)]
    ).sum()


def spoil(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur, noise and a change of exposure, each batch its own blur, as a VAE or a sampler does.

    Half of them are zoomed and shifted; the other half keeps its grid of pixels, by which "pixel" is told from "flat".
    """
    count = len(images)
    moved = rng.random(count) < 0.5
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.from_numpy(np.where(moved, rng.uniform(0.85, 1.15, count), 1.0)).float()
    theta[:, :, 2] = torch.from_numpy(moved[:, None] * rng.uniform(-0.12, 0.12, (count, 2))).float()
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    if rng.random() < 0.5:
        images = gaussian_blur(images, [5, 5], [float(rng.uniform(0.3, 1.1))])
    gain = torch.from_numpy(rng.uniform(0.92, 1.08, (count, 1, 1, 1))).float()
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32))
    spread = torch.from_numpy(rng.uniform(0.0, 0.08, (count, 1, 1, 1))).float()
    return images * gain + spread * noise


def mirror(images: Tensor, labels: np.ndarray, chosen: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """The chosen pictures as a mirror shows them: who looks left looks right, and all else stays."""
    images, labels = images.clone(), labels.copy()
    images[chosen] = images[chosen].flip(-1)
    pose = list(ATTRIBUTES).index("pose")
    looking = chosen & (labels[:, pose] >= 0)
    labels[looking, pose] = len(ATTRIBUTES["pose"]) - 1 - labels[looking, pose]
    return images, labels


def smear(
    images: Tensor, labels: np.ndarray, chosen: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray]:
    """Scrambles blocks of 8 px in the chosen pictures: the colours of a creature, but no creature."""
    images, labels = images.clone(), labels.copy()
    side = RESOLUTION // 8
    for row in np.flatnonzero(chosen):
        blocks = images[row].reshape(3, side, 8, side, 8).permute(1, 3, 0, 2, 4).flatten(0, 1)
        blocks = blocks[torch.from_numpy(rng.permutation(len(blocks)))]
        blocks = blocks.unflatten(0, (side, side)).permute(2, 0, 3, 1, 4)
        images[row] = gaussian_blur(blocks.reshape(3, RESOLUTION, RESOLUTION), [9, 9], [2.0])
        labels[row] = -1
        labels[row, list(ATTRIBUTES).index("subject")] = 0
    return images, labels


@torch.no_grad()
def accuracy(oracle: nn.Module, pictures: Labelled, batch: int = 128) -> dict[str, float]:
    """Share of right values of each attribute, over the pictures that have it, visible or not."""
    guesses: dict[str, list[Tensor]] = {name: [] for name in ATTRIBUTES}
    for first in range(0, len(pictures.images), batch):
        for name, logits in split_logits(oracle(to_tensor(pictures.images[first : first + batch]))).items():
            guesses[name].append(logits.argmax(dim=1))
    result = {}
    for i, name in enumerate(ATTRIBUTES):
        true = torch.from_numpy(pictures.labels[:, i].astype(np.int64))
        result[name] = float((torch.cat(guesses[name]) == true)[true >= 0].float().mean())
    return result


def load_labelled(directory: Path, count: int, seed: int, split: Split = "train") -> Labelled:
    """Renders `count` labelled pictures into the directory, or reads them where that has been done."""
    folder = directory / f"labelled-{split}-{count}-{seed}"
    if not (folder / "labels.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shape = (count, RESOLUTION, RESOLUTION, 3)
        images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
        labels = np.zeros((count, len(ATTRIBUTES)), np.int8)
        for row in trange(count, desc="rendering", mininterval=5.0):
            rng = np.random.default_rng((seed, row, len(split), 9))
            picture = random_picture(rng, split, creatures=0 if rng.random() < _EMPTY else 1)
            images[row] = render(picture, RESOLUTION).image
            labels[row] = list(truth_of(picture).values())
        images.flush()
        np.save(folder / "labels.npy", labels)
    return Labelled(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy"))


def oracle_path(weights: Path, name: OracleName) -> Path:
    """Where an oracle lies in a weights folder."""
    return weights / "oracles" / f"{name}.safetensors"


def save_oracle(weights: Path, name: OracleName, oracle: nn.Module) -> None:
    """Writes `oracles/<name>.safetensors`, fp16; running counts stay whole numbers."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in oracle.state_dict().items()}
    path = oracle_path(weights, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.cpu().contiguous() for k, v in state.items()}, path)


def load_oracle(weights: Path, name: OracleName) -> nn.Module:
    """An oracle of the weights folder, in fp32, ready to read."""
    oracle = build_oracle(name)
    oracle.load_state_dict(load_file(oracle_path(weights, name)))
    return oracle.float().eval()

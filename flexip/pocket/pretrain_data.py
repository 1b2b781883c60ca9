"""The pictures that the pocket models learn from: rendered once, in pairs of one identity, kept as memory maps."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from flexip.pocket.face import LANDMARKS
from flexip.pocket.identity import sample_identity
from flexip.pocket.models import RESOLUTION
from flexip.pocket.world import place, render
from flexip.rows import Split

# How often each sentence is used in training; "plain" ones do not say who the creature is.
CAPTION_SHARES = {
    "short": 0.08, "medium": 0.26, "long": 0.34, "short plain": 0.05, "medium plain": 0.14, "long plain": 0.13,
}  # fmt: skip

_ARRAYS = ("images", "subjects", "boxes", "landmarks")


@dataclass(frozen=True)
class Renders:
    """Pictures 2k and 2k + 1 show the same creatures, in another scene, style, expression and pose."""

    images: np.ndarray  # uint8 (n, H, W, 3)
    subjects: np.ndarray  # uint8 (n, H, W): 1 where a creature is visible
    boxes: np.ndarray  # float32 (n, 4) [px] of the foremost creature, in both pictures of a pair the same one
    landmarks: np.ndarray  # float32 (n, 14, 3): x, y [px], in sight; of the same creature
    captions: list[dict[str, str]]

    def __len__(self) -> int:
        return len(self.captions)


def load_renders(directory: Path, count: int, seed: int, split: Split = "train") -> Renders:
    """Renders `count` pictures into the directory, or reads them where that has been done."""
    folder = directory / f"renders-{split}-{count}-{seed}"
    if not (folder / "captions.json").exists():
        _write_renders(folder, count, seed, split)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    return Renders(**arrays, captions=json.loads((folder / "captions.json").read_text()))


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def crop_matrix(box: np.ndarray, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """Float64 (2, 3): maps pixel positions to those in the crop, see `warp`.

    The crop is the square around a box, `scale` times its longer side, moved by a fraction of it.
    """
    side = scale * max(box[2] - box[0], box[3] - box[1], 8.0)
    x = (box[0] + box[2]) / 2 + shift[0] * side
    y = (box[1] + box[3]) / 2 + shift[1] * side
    zoom = RESOLUTION / side
    middle = (RESOLUTION - 1) / 2  # box edges lie between pixels, whose centres carry the whole numbers
    return np.array([[zoom, 0, middle - zoom * (x - 0.5)], [0, zoom, middle - zoom * (y - 0.5)]])


def random_crops(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Matrices (n, 2, 3) of crops that hold most of a creature, or some of its surroundings too."""
    scales, shifts = rng.uniform(0.7, 1.5, len(boxes)), rng.uniform(-0.12, 0.12, (len(boxes), 2))
    crops = zip(boxes, scales, shifts, strict=True)
    return np.stack([crop_matrix(box, float(scale), (shift[0], shift[1])) for box, scale, shift in crops])


def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The crop (64, 64, 3) uint8 of a picture; its edge repeats where the crop goes beyond it."""
    return cv2.warpAffine(image, matrix, (RESOLUTION, RESOLUTION), borderMode=cv2.BORDER_REPLICATE)


def pick_captions(renders: Renders, rows: np.ndarray, rng: np.random.Generator) -> list[str]:
    """One sentence for each row, of a kind drawn by CAPTION_SHARES."""
    kinds = rng.choice(list(CAPTION_SHARES), size=len(rows), p=list(CAPTION_SHARES.values()))
    return [renders.captions[row][str(kind)] for row, kind in zip(rows, kinds, strict=True)]


def _write_renders(folder: Path, count: int, seed: int, split: Split) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    shape = (count, RESOLUTION, RESOLUTION)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (*shape, 3))
    subjects = np.lib.format.open_memmap(folder / "subjects.npy", "w+", np.uint8, shape)
    boxes, landmarks = np.zeros((count, 4), np.float32), np.zeros((count, len(LANDMARKS), 3), np.float32)
    captions = []
    for pair in trange(count // 2, desc="rendering", mininterval=5.0):
        rng = np.random.default_rng((seed, pair, len(split)))
        who = [sample_identity(rng, split) for _ in range(int(rng.choice([1, 2, 3], p=(0.86, 0.1, 0.04))))]
        for row in (2 * pair, 2 * pair + 1):
            while (picture := place(who, rng)).creatures[-1].identity != who[0]:
                pass
            frame = render(picture, RESOLUTION)
            images[row], subjects[row] = frame.image, frame.masks.any(axis=0)
            boxes[row], landmarks[row] = frame.boxes[-1], frame.landmarks[-1]
            captions.append(frame.captions)
    images.flush()
    subjects.flush()
    np.save(folder / "boxes.npy", boxes)
    np.save(folder / "landmarks.npy", landmarks)
    (folder / "captions.json").write_text(json.dumps(captions))

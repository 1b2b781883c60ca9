"""Stage 6: the face nets, on crops of creatures in all poses, expressions and surroundings."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from flexip.pocket.face_nets import FACE_NETS, FaceNetName, build_face_net, save_face_net
from flexip.pocket.models import RESOLUTION
from flexip.pocket.pretrain import Average, Budget, Workshop, on_device, train
from flexip.pocket.pretrain_data import Renders, crop_matrix, random_crops, to_tensor, warp
from flexip.pocket.pretrain_dino import draw_same, same_identity

_TEMPERATURE = 0.1


def train_faces(shop: Workshop, budget: Budget, renders: Renders, held_out: Renders) -> dict[str, float]:
    """Trains and exports both nets; returns `landmark_error` [px of a 64 px crop], `same_face` and `steps`."""
    landmarks, identity = (_train(shop, budget, renders, name) for name in FACE_NETS)
    views = draw_same(min(256, len(held_out)), shop.seed, "val")
    return {
        "landmark_error": landmark_error(landmarks, held_out),
        "same_face": same_identity(lambda x: identity(x.to(shop.device)), views),
    }


def landmark_loss(net: nn.Module, crops: Tensor, points: Tensor, seen: Tensor) -> Tensor:
    """L1 of the positions of landmarks in sight, and cross-entropy of whether they are.

    crops (B, 3, H, W) in -1..1; points (B, 14, 2) as fractions of the crop; seen (B, 14), 0 or 1.
    """
    guess, logits = net(crops)
    distance = (guess - points).abs().sum(dim=2)
    return (distance * seen).sum() / seen.sum().clamp(min=1) + 0.1 * functional.binary_cross_entropy_with_logits(
        logits, seen
    )


def identity_loss(net: nn.Module, crops: Tensor) -> Tensor:
    """Each of 2B crops, the two of a creature B apart, has to find its partner among all others (InfoNCE)."""
    z = net(crops)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    similar = (z @ z.T / _TEMPERATURE).masked_fill(itself, -torch.inf)
    return functional.cross_entropy(similar, torch.arange(len(z), device=z.device).roll(len(z) // 2))


def draw_faces(renders: Renders, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Crops (B, H, W, 3) uint8 around the faces' owners, and landmarks (B, 14, 3): x, y as fractions, in sight."""
    matrices = random_crops(renders.boxes[rows], rng)
    crops = np.stack([warp(renders.images[row], matrix) for row, matrix in zip(rows, matrices, strict=True)])
    landmarks = renders.landmarks[rows].copy()
    moved = np.einsum("bij,bkj->bki", matrices[:, :, :2], landmarks[..., :2]) + matrices[:, None, :, 2]
    landmarks[..., :2] = (moved + 0.5) / RESOLUTION
    return crops, landmarks


@torch.no_grad()
def landmark_error(net: nn.Module, renders: Renders, scale: float = 1.1) -> float:
    """Mean distance of landmarks in sight from the truth, in pixels of 64 px crops around each creature's box."""
    net.eval()
    matrices = np.stack([crop_matrix(box, scale, (0.0, 0.0)) for box in renders.boxes])
    truth = np.einsum("bij,bkj->bki", matrices[:, :, :2], renders.landmarks[..., :2]) + matrices[:, None, :, 2]
    device = next(net.parameters()).device
    parts = [
        net(to_tensor(np.stack([warp(renders.images[i], matrices[i]) for i in rows])).to(device))[0].cpu().numpy()
        for rows in np.array_split(np.arange(len(matrices)), max(1, len(matrices) // 128))
    ]
    distance = np.linalg.norm(np.concatenate(parts) * RESOLUTION - 0.5 - truth, axis=2)
    return float(distance[renders.landmarks[..., 2] > 0].mean())


def _train(shop: Workshop, budget: Budget, renders: Renders, name: FaceNetName) -> nn.Module:
    """One net, exported; the averaged weights."""
    number = 20 + FACE_NETS.index(name)
    torch.manual_seed(shop.seed + number)
    net = on_device(build_face_net(name).train(), shop.device)
    average = Average(net, 0.998)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((shop.seed, number, step))
        rows = 2 * np.sort(rng.choice(len(renders) // 2, size=budget.batch_size // 2, replace=False))
        crops, landmarks = draw_faces(renders, np.concatenate([rows, rows + 1]), rng)
        x, truth = to_tensor(crops).to(shop.device), torch.from_numpy(landmarks).to(shop.device)
        return identity_loss(net, x) if name == "identity" else landmark_loss(net, x, truth[..., :2], truth[..., 2])

    shop.quicken(net)
    train(f"face-{name}", shop, budget, {"net": net, "average": average.shadow}, loss_of, average.update)
    save_face_net(shop.weights, name, average.shadow)
    return average.shadow

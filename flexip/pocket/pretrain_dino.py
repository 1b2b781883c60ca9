"""Stage 3: a vision transformer by self-distillation (DINOv2's losses: image level and masked patches)."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Dinov2Model

from flexip.pocket.models import RESOLUTION, WIDTH, build_dino, halved, save_dino
from flexip.pocket.pretrain import Average, Budget, Workshop, on_device, train
from flexip.pocket.pretrain_data import Renders, to_tensor

_PROTOTYPES = 512
_PATCHES = (RESOLUTION // 8) ** 2


def train_dino(shop: Workshop, budget: Budget, renders: Renders, held_out: Renders) -> dict[str, float]:
    """Trains and exports the encoder; returns `same_identity` (nearest neighbour among 256, held-out) and `steps`.

    Views of one creature: crops of one picture, or of two pictures that show it in other scenes and poses.
    """
    torch.manual_seed(shop.seed + 2)
    student = Dinov2Model.from_pretrained(shop.weights / "dino").train() if budget.warm else build_dino()
    student, head = on_device(student, shop.device), _Head().to(shop.device)
    slow, slow_head = Average(student, 0.998), Average(head, 0.998)  # the teacher

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((shop.seed, 3, step))
        views = [to_tensor(view).to(shop.device) for view in draw_views(renders, budget.batch_size, rng)]
        mask = torch.from_numpy(rng.random((budget.batch_size, _PATCHES)) < 0.3).to(shop.device)
        masks = torch.cat([mask, mask.roll(1, 0)])
        return distil(student, head, slow.shadow, slow_head.shadow, torch.cat(views), masks)

    def follow(step: int) -> None:
        slow.update(step)
        slow_head.update(step)

    modules = {"student": student, "head": head, "teacher": slow.shadow, "teacher_head": slow_head.shadow}
    steps = train("dino", shop, budget, modules, loss_of, follow)
    save_dino(shop.weights, halved(slow.shadow))
    share = same_identity(
        lambda x: slow.shadow(x.to(shop.device)).pooler_output, held_out, min(256, len(held_out) // 2)
    )
    return {"same_identity": share, "steps": float(steps)}


def distil(
    student: Dinov2Model, head: nn.Module, teacher: Dinov2Model, teacher_head: nn.Module, x: Tensor, mask: Tensor
) -> Tensor:
    """Cross-entropy of the student's prototypes to the teacher's: across views at [CLS], in place at masked patches.

    x: (2B, 3, H, W), the two views one after the other; mask: bool (2B, N), patches hidden from the student.
    """
    with torch.no_grad():
        seen = teacher_head(teacher(x).last_hidden_state)
        target_cls = balanced(seen[:, 0].float())
        target_patch = balanced(seen[:, 1:][mask].float())
    guess = head(student(x, bool_masked_pos=mask).last_hidden_state).float()
    swapped = target_cls.roll(len(x) // 2, 0)  # each view predicts the other
    cls = -(swapped * functional.log_softmax(guess[:, 0] / 0.1, dim=-1)).sum(-1).mean()
    patch = -(target_patch * functional.log_softmax(guess[:, 1:][mask] / 0.1, dim=-1)).sum(-1).mean()
    return cls + patch


def balanced(logits: Tensor, temperature: float = 0.05, rounds: int = 3) -> Tensor:
    """Sinkhorn-Knopp (SwAV, DINOv2): probabilities (B, K) in which every prototype is used alike, against collapse."""
    p = ((logits - logits.max()) / temperature).exp() + 1e-12
    for _ in range(rounds):
        p = p / p.sum(dim=0, keepdim=True)
        p = p / p.sum(dim=1, keepdim=True)
    return p


def draw_views(renders: Renders, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two crops (count, H, W, 3) uint8 of each of `count` creatures."""
    rows = rng.integers(len(renders), size=count)
    others = np.where(rng.random(count) < 0.7, rows ^ 1, rows)  # pictures 2k and 2k + 1 show the same creatures
    return _crops(renders, rows, rng), _crops(renders, others, rng)


def crop_square(image: np.ndarray, box: np.ndarray, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """The square around a box, `scale` times its longer side, moved by a fraction of it; the picture's edge repeats."""
    side = scale * max(box[2] - box[0], box[3] - box[1], 8.0)
    x = (box[0] + box[2]) / 2 + shift[0] * side
    y = (box[1] + box[3]) / 2 + shift[1] * side
    zoom = RESOLUTION / side
    middle = (RESOLUTION - 1) / 2  # box edges lie between pixels, whose centres carry the whole numbers
    matrix = np.array([[zoom, 0, middle - zoom * (x - 0.5)], [0, zoom, middle - zoom * (y - 0.5)]])
    return cv2.warpAffine(image, matrix, (RESOLUTION, RESOLUTION), borderMode=cv2.BORDER_REPLICATE)


@torch.no_grad()
def same_identity(embed: Callable[[Tensor], Tensor], renders: Renders, pairs: int) -> float:
    """Share of creatures whose nearest neighbour among the partners (cosine) is the same creature.

    The two pictures of a pair differ in scene, style, pose and expression; `embed` takes crops (B, 3, H, W) in -1..1.
    """
    rows = 2 * np.arange(pairs)
    crops = [
        np.stack([crop_square(renders.images[r], renders.boxes[r], 1.1, (0.0, 0.0)) for r in rows + side])
        for side in (0, 1)
    ]
    left, right = (functional.normalize(embed(to_tensor(c)), dim=-1).cpu() for c in crops)
    return float(((left @ right.T).argmax(dim=1) == torch.arange(pairs)).float().mean())


def _crops(renders: Renders, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    scales, shifts = rng.uniform(0.7, 1.5, len(rows)), rng.uniform(-0.12, 0.12, (len(rows), 2))
    jobs = zip(rows, scales, shifts, strict=True)
    return np.stack([crop_square(renders.images[r], renders.boxes[r], float(s), (d[0], d[1])) for r, s, d in jobs])


class _Head(nn.Module):
    """Projection of tokens (..., D) to their cosines with prototypes (..., K) (DINO)."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(WIDTH, 256), nn.GELU(), nn.Linear(256, 64))
        self.prototypes = nn.Parameter(torch.randn(_PROTOTYPES, 64))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(self.projection(x), dim=-1) @ functional.normalize(self.prototypes, dim=-1).T

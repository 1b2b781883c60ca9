"""Stage 3: a vision transformer by self-distillation: two views of a creature, and patches that are hidden."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as colour
from transformers import Dinov2Model

from flexip.pocket.face import EXPRESSIONS, POSES
from flexip.pocket.identity import sample_identity
from flexip.pocket.models import RESOLUTION, WIDTH, build_dino, halved, save_dino
from flexip.pocket.pretrain import Average, Budget, Workshop, on_device, train
from flexip.pocket.pretrain_data import Renders, crop_matrix, random_crops, to_tensor, warp
from flexip.pocket.scenes import SCENES
from flexip.pocket.world import place, render
from flexip.rows import Split

_PROTOTYPES = 512
_TEMPERATURE = 0.1
_PATCH_WEIGHT = 0.2
_RECOLOURED = 0.8  # share of the pairs whose two views are recoloured, each in its own way
_PATCHES = (RESOLUTION // 8) ** 2


def train_dino(shop: Workshop, budget: Budget, renders: Renders, held_out: int) -> dict[str, float]:
    """Trains and exports the encoder; returns `same_identity` (nearest neighbour, held-out identities) and `steps`.

    The two views of a creature are crops of two pictures that show it in other scenes, styles, poses and expressions,
    as two frames of one track would; most are recoloured, see `recoloured`.
    """
    torch.manual_seed(shop.seed + 2)
    student = Dinov2Model.from_pretrained(shop.weights / "dino").train() if budget.warm else build_dino()
    student, head = on_device(student, shop.device), Heads().to(shop.device)
    slow, slow_head = Average(student, 0.996), Average(head, 0.996)  # the teacher
    shop.quicken(student)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((shop.seed, 3, step))
        views = torch.cat([to_tensor(view) for view in draw_views(renders, budget.batch_size, rng)]).to(shop.device)
        masks = torch.from_numpy(draw_masks(len(views), rng)).to(shop.device)
        return distil(student, head, slow.shadow, slow_head.shadow, views, masks)

    def follow(step: int) -> None:
        slow.update(step)
        slow_head.update(step)

    modules = {"student": student, "head": head, "teacher": slow.shadow, "teacher_head": slow_head.shadow}
    steps = train("dino", shop, budget, modules, loss_of, follow)
    save_dino(shop.weights, halved(slow.shadow))
    views = draw_same(held_out, shop.seed, "val")
    shares = {name: same_identity(embed, views) for name, embed in embeddings(slow.shadow).items()}
    return shares | {"steps": float(steps)}


def embeddings(dino: Dinov2Model) -> dict[str, Callable[[Tensor], Tensor]]:
    """How a picture (B, 3, H, W) becomes a vector: [CLS], or the mean of the unit patches, as evaluation takes it."""

    def states(x: Tensor) -> Tensor:
        return dino(x.to(dino.device)).last_hidden_state

    return {
        "same_identity": lambda x: states(x)[:, 0],
        "same_identity_by_patches": lambda x: functional.normalize(states(x)[:, 1:], dim=-1).mean(dim=1),
    }


def distil(
    student: Dinov2Model, head: "Heads", teacher: Dinov2Model, teacher_head: "Heads", x: Tensor, mask: Tensor
) -> Tensor:
    """The student learns from the averaged teacher twice over.

    Picture: from one view's [CLS] it finds the teacher's [CLS] of the other view among those of the whole batch
    (MoCo v3, Chen et al. 2021); identities are endless, so that the batch itself is a better vocabulary than
    prototypes. The mean of the patches does the same, since identity is read from patches wherever [CLS] is not kept.
    Patches: at hidden places it predicts the prototypes that the teacher sees there (iBOT, DINOv2).

    x: (2B, 3, H, W), the two views one after the other; mask: bool (2B, N), patches hidden from the student.
    """
    with torch.no_grad():
        seen = teacher(x).last_hidden_state
        keys = teacher_head.picture(seen)
        prototypes = balanced(teacher_head.patches(seen[:, 1:][mask]).float())
    states = student(x, bool_masked_pos=mask).last_hidden_state
    picture = torch.stack([_contrast(q, k) for q, k in zip(head.picture(states), keys, strict=True)]).mean()
    patch = -(prototypes * functional.log_softmax(head.patches(states[:, 1:][mask]).float() / 0.1, dim=-1))
    return picture + _PATCH_WEIGHT * patch.sum(-1).mean()


def _contrast(queries: Tensor, keys: Tensor) -> Tensor:
    """Each of the 2B views has to find the other one of its creature, B rows away, among all but itself."""
    itself = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
    similar = (queries @ keys.T / _TEMPERATURE).masked_fill(itself, -torch.inf)
    return functional.cross_entropy(similar, torch.arange(len(queries), device=queries.device).roll(len(queries) // 2))


def balanced(logits: Tensor, temperature: float = 0.05, rounds: int = 3) -> Tensor:
    """Sinkhorn-Knopp (SwAV, DINOv2): probabilities (B, K) in which every prototype is used alike, against collapse."""
    p = ((logits - logits.max()) / temperature).exp() + 1e-12
    for _ in range(rounds):
        p = p / p.sum(dim=0, keepdim=True)
        p = p / p.sum(dim=1, keepdim=True)
    return p


def draw_views(renders: Renders, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Crops (count, H, W, 3) uint8 of `count` different creatures, and as many of the same ones in other pictures."""
    rows = 2 * np.sort(rng.choice(len(renders) // 2, size=count, replace=False))
    changed = rng.random(count) < _RECOLOURED
    left, right = (recoloured(_crops(renders, side, rng), changed, rng) for side in (rows, rows + 1))
    return left, right


def recoloured(images: np.ndarray, changed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pictures (n, H, W, 3) uint8, of which the `changed` ones (bool (n,)) have other hues, saturation and brightness.

    Colours alone tell creatures apart. Where they can, an encoder learns nothing else, and whoever reads its patches
    finds no shape, ears or eyes in them: DINOv2 jitters colours too.
    """
    result = images.copy()
    for row in np.flatnonzero(changed):
        hue, saturation, brightness = rng.uniform((-0.5, 0.3, 0.75), (0.5, 1.3, 1.25))
        picture = colour.adjust_hue(torch.from_numpy(result[row]).permute(2, 0, 1), hue)
        picture = colour.adjust_brightness(colour.adjust_saturation(picture, saturation), brightness)
        result[row] = picture.permute(1, 2, 0).numpy()
    return result


def draw_masks(count: int, rng: np.random.Generator) -> np.ndarray:
    """Patches to hide, bool (count, N): none in half of the views, a tenth to a half of them in the others."""
    share = np.where(rng.random(count) < 0.5, 0.0, rng.uniform(0.1, 0.5, count))
    return rng.random((count, _PATCHES)) < share[:, None]


def draw_same(count: int, seed: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Crops of `count` creatures (count, H, W, 3) uint8, and of the same ones in another scene, pose and expression.

    All in the flat style and without accessories, so that the creature itself is the only thing to know it by.
    """
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for row in range(count):
        rng = np.random.default_rng((seed, row, len(split), 23))
        who = sample_identity(rng, split)
        scenes, moods, poses = (rng.permutation(names) for names in (SCENES, EXPRESSIONS, tuple(POSES)))
        for side in (0, 1):
            state = {"scene": str(scenes[side]), "expression": str(moods[side]), "pose": str(poses[side])}
            picture = place([who], rng, style="flat", accessory="nothing", action="standing", **state)
            frame = render(picture, RESOLUTION)
            sides[side].append(warp(frame.image, crop_matrix(frame.boxes[0], 1.1, (0.0, 0.0))))
    return np.stack(sides[0]), np.stack(sides[1])


@torch.no_grad()
def same_identity(embed: Callable[[Tensor], Tensor], views: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of crops whose nearest neighbour (cosine) among the other side's is the same creature.

    views: two crops of each creature, see `draw_same`; `embed` takes them as (B, 3, H, W) in -1..1.
    """
    left, right = (functional.normalize(embed(to_tensor(side)), dim=-1).cpu() for side in views)
    return float(((left @ right.T).argmax(dim=1) == torch.arange(len(left))).float().mean())


def _crops(renders: Renders, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    matrices = random_crops(renders.boxes[rows], rng)
    return np.stack([warp(renders.images[row], matrix) for row, matrix in zip(rows, matrices, strict=True)])


class Heads(nn.Module):
    """What the losses compare: unit vectors of whole pictures, and cosines of patches with prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.project_cls = nn.Sequential(nn.Linear(WIDTH, 512), nn.GELU(), nn.Linear(512, 128))
        self.project_mean = nn.Sequential(nn.Linear(WIDTH, 512), nn.GELU(), nn.Linear(512, 128))
        self.project_patches = nn.Sequential(nn.Linear(WIDTH, 256), nn.GELU(), nn.Linear(256, 64))
        self.prototypes = nn.Parameter(torch.randn(_PROTOTYPES, 64))

    def picture(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, 1 + N, D) to unit vectors (B, 128), of [CLS] and of the mean of the patches."""
        parts = self.project_cls(states[:, 0]), self.project_mean(states[:, 1:].mean(dim=1))
        cls, mean = (functional.normalize(part.float(), dim=-1) for part in parts)
        return cls, mean

    def patches(self, x: Tensor) -> Tensor:
        """(M, D) to cosines (M, K)."""
        return functional.normalize(self.project_patches(x), dim=-1) @ functional.normalize(self.prototypes, dim=-1).T

"""Semantic-Activated Attention: the faces of several people in one picture, each where the picture asks for it.

    A_i = softmax(Q K_i^T / sqrt(d)) V_i        w_i = minmax(Q K_i^T J), J = ones, over the positions of the layer
    Z  <- Z + sum_i w_i A_i                     (DynamicID, section on SAA; K_i, V_i of the tokens of identity i)

w_i is one number a position: near 1 where the layer draws a face, near 0 in the background. It is taken for each
identity by itself, so that several are kept apart: a position belongs to who activates it most, and inside a person's
box to that person. The published code has one w for all of them, and scores below 0.3 set to 0 when it samples.

All of it travels with the request (`Faces`, the companion of a `SubjectConditioning`). Rows without faces are computed
as if the others had none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexip.attention import Companion, KeysValues, SubjectConditioning, SubjectProjections, merge_heads, split_heads
from flexip.gate import Gate
from flexip.lora import LoraProjections, adapted
from flexip.people import Person

_EPSILON = 1e-6  # of the min-max; a layer that is activated alike everywhere is not activated


@dataclass(frozen=True)
class Faces(Companion):
    """The faces in the rows of a batch as the UNet's layers see them; each tensor has one row a face."""

    projected: Mapping[str, KeysValues]  # cross-attention layer -> its keys and values (F, K, E)
    shares: Float[Tensor, "F K"]  # weight of each token: 1, less where identities are mixed, 0 where there is none
    rows: Int[Tensor, " F"]  # the UNet row of each
    peopled: Int[Tensor, " R"]  # the rows that have any, each once
    boxes: Float[Tensor, "F 4"]  # x0, y0, x1, y1 as fractions of the picture; NaN: no box
    strength: Float[Tensor, " F"]
    guidance: Float[Tensor, " F"]  # s of the layout guidance, in this UNet call
    size: tuple[int, int]  # height and width of the latents, for the positions' aspect
    threshold: float = 0.0  # a w below it counts as 0: 0.3 in the published sampler, none in training
    activated: bool = True  # False: w = 1, the model without SAA
    lora: LoraProjections | None = None
    observe: Callable[[str, Float[Tensor, "F X"]], None] | None = None  # told each layer's w

    def adapt(self, attn: Any, name: str) -> Any:
        return attn if self.lora is None else adapted(attn, self.lora, name, self.peopled)

    def add(
        self, z: Float[Tensor, "B heads X d"], query: Float[Tensor, "B heads X d"], name: str
    ) -> Float[Tensor, "B heads X d"]:
        """Z + sum_i w_i A_i in each row."""
        if not len(self.rows):
            return z
        query, projected = query[self.rows], self.projected[name]
        w = self._weights(query, projected.keys, rows=len(z))
        if self.observe:
            self.observe(name, w.detach())
        w = (self.strength[:, None] * w).to(z.dtype)
        return z.index_add(0, self.rows, w[:, None, :, None] * attend(query, projected, self.shares))

    def at(self, guidance: float | Float[Tensor, " B"]) -> "Faces":
        """The same faces in a call with this layout guidance, one value or one a UNet row; only boxes are guided."""
        each = torch.as_tensor(guidance, dtype=self.guidance.dtype, device=self.guidance.device)
        each = each[self.rows] if each.ndim else each.expand(len(self.rows))
        return replace(self, guidance=torch.where(self.boxes.isnan().any(dim=1), torch.zeros_like(each), each))

    def _weights(self, query: Tensor, keys: Tensor, rows: int) -> Float[Tensor, "F X"]:
        """w of each face at each position of a layer, guided by boxes and decided between the faces of a row."""
        w = activation(query, keys, self.shares)
        w = torch.where(w < self.threshold, torch.zeros_like(w), w) if self.activated else torch.ones_like(w)
        inside = within(self.boxes, self.size, w.shape[1])
        w = guide_layout(w, inside, self.guidance)
        return w * owned(w.detach(), inside, self.rows, rows)


def attend(
    query: Float[Tensor, "F heads X d"], projected: KeysValues, shares: Float[Tensor, "F K"]
) -> Float[Tensor, "F heads X d"]:
    """A = softmax(Q K^T / sqrt(d) + log share) V: a token of half the share takes half the mass, one of none nothing.

    The published code multiplies the scores with the shares, which leaves a share of 0 some mass.
    """
    heads = query.shape[1]
    keys, values = split_heads(projected.keys, heads), split_heads(projected.values, heads)
    bias = shares.log().to(query.dtype)[:, None, None]
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)


def activation(
    query: Float[Tensor, "F heads X d"], keys: Float[Tensor, "F K E"], shares: Float[Tensor, "F K"]
) -> Float[Tensor, "F X"]:
    """w = minmax(Q K^T J) of each face: scores summed over its tokens and all heads, 0..1 over the positions.

    K^T J is summed first, which is the same and has no (X, K) scores; in single precision.
    """
    summed = torch.einsum("fk,fke->fe", shares.float(), keys.float())
    raw = torch.einsum("fxe,fe->fx", merge_heads(query).float(), summed)
    least, most = raw.amin(dim=1, keepdim=True), raw.amax(dim=1, keepdim=True)
    return (raw - least) / (most - least + _EPSILON)


def within(boxes: Float[Tensor, "F 4"], size: tuple[int, int], positions: int) -> Bool[Tensor, "F X"]:
    """Which positions have their middle inside each box; none for a face without one. Disjoint boxes share none."""
    height = round((positions * size[0] / size[1]) ** 0.5)
    width = positions // height
    y, x = ((torch.arange(n, device=boxes.device, dtype=boxes.dtype) + 0.5) / n for n in (height, width))
    x0, y0, x1, y1 = (edge[:, None] for edge in boxes.unbind(dim=1))
    down, across = (y >= y0) & (y < y1), (x >= x0) & (x < x1)
    return (down[:, :, None] & across[:, None, :]).flatten(1)


def guide_layout(
    w: Float[Tensor, "F X"], inside: Bool[Tensor, "F X"], guidance: Float[Tensor, " F"]
) -> Float[Tensor, "F X"]:
    """w + s inside the box and w / (1 + s) outside."""
    s = guidance[:, None]
    return torch.where(inside, w + s, w / (1 + s))


@torch.no_grad()
def owned(
    w: Float[Tensor, "F X"], inside: Bool[Tensor, "F X"], rows: Int[Tensor, " F"], count: int
) -> Float[Tensor, "F X"]:
    """How much of each position is whose: 1 for the face of the row that activates it most, 0 for the others.

    A box keeps everybody out but its owner; where boxes overlap, their owners compete. Equal faces share alike.
    """
    positions = w.shape[1]
    claims = w.new_zeros(count, positions).index_add(0, rows, inside.to(w.dtype))[rows]
    allowed = inside | (claims == 0)
    bids = torch.where(allowed, w, torch.full_like(w, -1))
    best = w.new_full((count, positions), -1).scatter_reduce(0, rows[:, None].expand(-1, positions), bids, "amax")
    wins = (allowed & (bids == best[rows])).to(w.dtype)
    winners = w.new_zeros(count, positions).index_add(0, rows, wins)[rows]
    return wins / winners.clamp(min=1)


def project_faces(
    projections: SubjectProjections,
    people: Sequence[Sequence[Person]],
    size: tuple[int, int],
    lora: LoraProjections | None = None,
    **options: Any,
) -> Faces:
    """Keys and values of everybody's tokens for every layer, once; without layout guidance, which `Faces.at` sets.

    Args:
        people: of each UNet row, in their order. size: height and width of the latents. options: fields of `Faces`.
    """
    everybody = [(row, person) for row, there in enumerate(people) for person in there]
    tokens = [person.tokens.flatten(0, 1) for _, person in everybody]
    like = next(projections.parameters())
    longest = max((len(part) for part in tokens), default=0)
    padded = [F.pad(part, (0, 0, 0, longest - len(part))) for part in tokens]
    shares = [F.pad(person.token_shares, (0, longest - len(person.token_shares))) for _, person in everybody]
    boxes = [person.box or (float("nan"),) * 4 for _, person in everybody]
    return Faces(
        projections.project(torch.stack(padded) if padded else like.new_zeros(0, longest, like.shape[1])),
        torch.stack(shares).to(like) if shares else like.new_zeros(0, longest),
        torch.tensor([row for row, _ in everybody], dtype=torch.long, device=like.device),
        torch.tensor([row for row, there in enumerate(people) if there], dtype=torch.long, device=like.device),
        like.new_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        like.new_tensor([person.strength for _, person in everybody], dtype=torch.float32),
        like.new_zeros(len(everybody), dtype=torch.float32),
        size,
        lora=lora,
        **options,
    )


def regroup_faces(parts: Sequence[tuple[Faces | None, int]], rows: Sequence[int]) -> Faces | None:
    """The faces of chosen UNet rows of several batches, counted through, as one batch; nothing is projected anew.

    Args:
        parts: faces of each batch, if it has any, and its number of UNet rows; options are those of the first that has.
        rows: in the new order. None: there are no faces in them.
    """
    starts = accumulate((count for _, count in parts), initial=0)
    peopled = [(one, start) for (one, _), start in zip(parts, starts, strict=False) if one is not None]
    owners = [row + start for one, start in peopled for row in one.rows.tolist()]
    place = {row: n for n, row in enumerate(rows)}
    picked = sorted((place[owner], i) for i, owner in enumerate(owners) if owner in place)
    if not picked:
        return None
    faces = [one for one, _ in peopled]
    device = faces[0].rows.device
    index = torch.tensor([i for _, i in picked], dtype=torch.long, device=device)
    longest = max(one.shares.shape[1] for one in faces)

    def chosen(values: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(values))[index]

    def padded(values: Sequence[Tensor]) -> Tensor:
        return chosen([F.pad(value, (0, 0, 0, longest - value.shape[1])) for value in values])

    projected = {
        name: KeysValues(*(padded([getattr(one.projected[name], of) for one in faces]) for of in ("keys", "values")))
        for name in faces[0].projected
    }
    return replace(
        faces[0],
        projected=projected,
        shares=chosen([F.pad(one.shares, (0, longest - one.shares.shape[1])) for one in faces]),
        rows=torch.tensor([row for row, _ in picked], dtype=torch.long, device=device),
        peopled=torch.tensor(sorted({row for row, _ in picked}), dtype=torch.long, device=device),
        **{name: chosen([getattr(one, name) for one in faces]) for name in ("boxes", "strength", "guidance")},
    )


def layout_guidance(step: int, steps: int, scale: float = 2.0, until: float = 0.24) -> float:
    """s at a step: `scale` for the first part of the steps, then 0. Published: 2 for the first 12 of 50."""
    return scale if step < until * steps else 0.0


def alone(faces: Faces) -> SubjectConditioning:
    """The conditioning of a batch that has faces and no subject of FlexIP."""
    nobody = faces.rows.new_zeros(0)
    return SubjectConditioning({}, {}, Gate(nobody.float(), nobody.float()), rows=nobody, companion=faces)

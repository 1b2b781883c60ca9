"""Which of ComfyUI's blocks a layer of diffusers' UNet is, and what FlexIP adds to its text attention there.

Everything a graph says travels in the patches of a cloned model, as is usual in ComfyUI; the UNet stays as it is.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from flexip.attention import KeysValues, SubjectConditioning, gated_attention, merge_heads, split_heads
from flexip.gate import Gate

Block = tuple[str, int]  # "input", "middle" or "output", and ComfyUI's number
Attention = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]  # q, k, v (B, X, E) -> (B, X, E)

LAYER = re.compile(r"(down_blocks|up_blocks|mid_block)\.(?:(\d+)\.)?attentions\.(\d+)\.")


def blocks_of(layers: Iterable[str]) -> dict[str, Block]:
    """ComfyUI's block of each cross-attention layer, by the layer's name in diffusers' UNet.

    ComfyUI counts through: its first input is the convolution, a level of inputs ends with what makes it smaller (a
    number of its own), a level of outputs has one resnet more and no such number.
    """
    found = {name: cast(re.Match, LAYER.match(name)).groups() for name in layers}
    resnets = 1 + max(int(place) for side, _, place in found.values() if side == "down_blocks")
    blocks: dict[str, Block] = {}
    for name, (side, level, place) in found.items():
        if side == "mid_block":
            blocks[name] = ("middle", 0)
        else:
            number = int(level) * (resnets + 1) + int(place)
            blocks[name] = ("input", 1 + number) if side == "down_blocks" else ("output", number)
    return blocks


@dataclass(frozen=True)
class Course:
    """The gate over the steps: from one gamma to another between two fractions of them, and nothing elsewhere."""

    gamma: float
    last: float  # gamma of the last step
    strength: float  # g_p = strength gamma, g_s = strength (1 - gamma)
    start: float  # within 0..1
    end: float
    mask: Tensor | None = None  # (1, H, W), 0..1: where the subject may act

    def at(self, options: Mapping[str, Any]) -> Gate | None:
        """The gate of one row at the step that ComfyUI says it is at; None where nothing acts.

        Raises:
            ValueError: a ComfyUI too old to say which steps there are.
        """
        if "sample_sigmas" not in options:
            raise ValueError("FlexIP: this ComfyUI tells nodes no sample_sigmas; update it")
        sigmas, sigma = options["sample_sigmas"], float(options["sigmas"][0])
        steps, step = len(sigmas) - 1, int((sigmas > sigma * (1 - 1e-4)).sum()) - 1
        step = min(max(step, 0), steps - 1)
        if not self.start <= (step + 0.5) / steps < self.end:
            return None
        gamma = self.gamma + (self.last - self.gamma) * step / max(steps - 1, 1)
        gate = Gate.weights([self.strength * gamma], [self.strength * (1 - gamma)])
        if self.mask is None:
            return gate
        height, width = options["original_shape"][-2:]
        return replace(gate, mask=adaptive_avg_pool2d(self.mask, (height, width)))


def gated(layer: str, subject: SubjectConditioning, course: Course, inner: Attention) -> Attention:
    """What takes the place of a layer's attention to the text: `inner`, and in the prompt's rows the subject's part.

    Args:
        subject: keys and values of one row. inner: the attention, or what another node put in its place.
    """

    def attention(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        out, gate = inner(q, k, v, options), course.at(options)
        chunks = options["cond_or_uncond"]  # 0: a chunk of the batch has the prompt; 1: the negative one
        size = len(q) // len(chunks)
        rows = [i * size + j for i, which in enumerate(chunks) if which == 0 for j in range(size)]
        if gate is None or not rows:
            return out
        heads, chosen, first = options["n_heads"], torch.tensor(rows, device=q.device), torch.zeros(len(rows)).long()
        here = SubjectConditioning(
            {layer: _repeated(subject.preservation[layer], q, len(rows))},
            {layer: _repeated(subject.personalization[layer], q, len(rows))},
            gate.select(first),
            subject.gating,
        )
        added = gated_attention(split_heads(q[chosen], heads), here, layer)
        return out.index_add(0, chosen, merge_heads(added).to(out.dtype))

    return attention


def _repeated(kv: KeysValues, like: Tensor, rows: int) -> KeysValues:
    return KeysValues(*(t.to(like.device, like.dtype).expand(rows, -1, -1) for t in (kv.keys, kv.values)))

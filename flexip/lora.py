"""Low-rank changes of the attention projections, in chosen rows of a batch alone (Hu et al. 2021, LoRA).

A row that is not chosen comes out of the frozen projection to the bit, whatever its neighbours are.
"""

from collections.abc import Sequence
from typing import Any

from diffusers.models.attention_processor import Attention
from jaxtyping import Float, Int
from torch import Tensor, nn

_NAMES = ("to_q", "to_k", "to_v", "to_out")


class LoraProjections(nn.ModuleDict):
    """A change B A of each projection of every attention layer, self- and cross-attention; zero at first."""

    def __init__(self, unet: nn.Module, rank: int):
        super().__init__()
        for name, layer in unet.named_modules():
            if isinstance(layer, Attention):
                changes = {which: _low_rank(_linear(layer, which), rank) for which in _NAMES}
                self[name.replace(".", "/")] = nn.ModuleDict(changes)

    def of(self, name: str) -> nn.ModuleDict:
        """The changes of one layer, by its name in the UNet."""
        return self[name.replace(".", "/")]  # type: ignore[return-value]


class RowProjection(nn.Module):
    """A projection that is W x in all rows and (W + B A) x in the chosen ones."""

    def __init__(self, base: nn.Module, change: nn.Module, rows: Int[Tensor, " R"]):
        super().__init__()
        self.base, self.change, self.rows = base, change, rows

    def forward(self, x: Float[Tensor, "B K D"]) -> Float[Tensor, "B K E"]:
        out = self.base(x)
        return out.index_add(0, self.rows, self.change(x[self.rows]).to(out.dtype))


class AdaptedLayer:
    """An attention layer with other projections; all else is the layer's own."""

    def __init__(self, layer: Any, projections: Sequence[nn.Module]):
        self._layer = layer
        self.to_q, self.to_k, self.to_v, out = projections
        self.to_out = [out, layer.to_out[1]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def adapted(layer: Any, lora: LoraProjections, name: str, rows: Int[Tensor, " R"]) -> AdaptedLayer:
    """The layer as these rows see it. Nothing is stored on the layer itself."""
    changes = lora.of(name)
    return AdaptedLayer(layer, [RowProjection(_linear(layer, which), changes[which], rows) for which in _NAMES])


def _linear(layer: Any, which: str) -> Any:
    return layer.to_out[0] if which == "to_out" else getattr(layer, which)


def _low_rank(linear: Any, rank: int) -> nn.Sequential:
    base = getattr(linear, "base_layer", linear)  # under PEFT the frozen layer lies one deeper
    down, up = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
    nn.init.normal_(down.weight, std=1 / rank)
    nn.init.zeros_(up.weight)
    return nn.Sequential(down, up)

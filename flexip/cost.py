"""What one training step costs, counted on the meta device: nothing is loaded and nothing is computed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from flexip.adapters import AdapterConfig
from flexip.gate import Gate
from flexip.model import AdapterBuilder, FlexIP

# Dense bf16 peaks of one device [FLOP/s], by a part of its name; from NVIDIA's data sheets.
PEAKS: Mapping[str, float] = {"A100": 312e12, "H100": 989e12, "H200": 989e12}


@dataclass(frozen=True)
class Cost:
    """Of one row, unless said otherwise."""

    parameters: dict[str, int]  # of each trained module, by name
    frozen: int  # parameters of the UNet
    tokens: dict[str, int]  # of text, preservation and personalization
    forward: int  # [FLOP], a multiply-add as two
    step: int  # [FLOP] forward and backward
    activations: int  # [bytes] in single precision, kept for the backward pass

    @property
    def trained(self) -> int:
        return sum(self.parameters.values())

    def memory(self, rows: int, ema: bool, workers: int) -> int:
        """Bytes on one device that computes `rows` at once: an estimate from above, in single precision.

        Weights, gradients, two moments, perhaps an average, and with several workers the buffer of their exchange.
        """
        copies = 4 + (1 if ema else 0) + (3 if workers > 1 else 0)
        return 4 * (self.frozen + copies * self.trained) + rows * self.activations


def training_cost(
    unet: Any, config: AdapterConfig, build: AdapterBuilder, shapes: Mapping[str, tuple[int, ...]]
) -> Cost:
    """The cost of training adapters on a UNet.

    Args:
        unet: on the meta device. shapes: of one row of each feature family, as in `Encoders.shapes`.
    """
    with torch.device("meta"):
        model = FlexIP(unet, config, build)
        channels, *size = shapes["vae"]
        text, cls, patches = (torch.zeros(1, *shapes[family]) for family in ("text", "clip", config.detail))
        noisy, gate = torch.zeros(1, channels // 2, *size), Gate(torch.zeros(1), torch.zeros(1))
        timesteps = torch.zeros(1, dtype=torch.long)
    kept = _Kept(model)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(kept.save, lambda tensor: tensor):
            prediction = model(noisy, timesteps, text, cls, patches, gate)
        forward = counter.get_total_flops()
        prediction.sum().backward()
        step = counter.get_total_flops()
    with torch.no_grad():
        tokens = model.subject_tokens(cls, patches, text)
    return Cost(
        parameters=_by_module(model),
        frozen=sum(p.numel() for p in unet.parameters()),
        tokens={
            "text": text.shape[1],
            "preservation": tokens.preservation.shape[1],
            "personalization": tokens.personalization.shape[1],
        },
        forward=forward,
        step=step,
        activations=sum(kept.sizes.values()),
    )


def _by_module(model: FlexIP) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, parameter in model.trainable().items():
        depth = 2 if name.startswith("adapters.") else 1
        counts[".".join(name.split(".")[:depth])] += parameter.numel()
    return dict(counts)


class _Kept:
    """Sizes of the storages that autograd keeps, each once, the parameters left out."""

    def __init__(self, model: nn.Module):
        self._parameters = {_storage(parameter) for parameter in model.parameters()}
        self._alive: list[Tensor] = []  # so that no address is used twice
        self.sizes: dict[int, int] = {}

    def save(self, tensor: Tensor) -> Tensor:
        if _storage(tensor) not in self._parameters:
            self.sizes[_storage(tensor)] = tensor.untyped_storage().nbytes()
            self._alive.append(tensor)
        return tensor


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def peak_of(device: str) -> float | None:
    """Dense bf16 peak [FLOP/s] of a device, e.g. "cuda:0"; None where it is not known."""
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)

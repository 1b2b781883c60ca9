"""How beautiful a picture is, by a head on CLIP's embedding: LAION's aesthetic predictors.

V1 (github.com/LAION-AI/aesthetic-predictor) is one linear layer, V2 (improved-aesthetic-predictor) several without
an activation between them, so that both are one linear map of the embedding of unit length.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float


class HeadError(ValueError):
    """A file that holds no aesthetic head."""


@dataclass(frozen=True)
class AestheticHead:
    """The one linear map that a file's layers make."""

    weight: Float[np.ndarray, " Dc"]
    bias: float

    def __call__(self, embeddings: Float[np.ndarray, "B Dc"]) -> Float[np.ndarray, " B"]:
        """Scores, about 1 ugly .. 10 beautiful, of CLIP image embeddings of any length."""
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        return unit @ self.weight + self.bias


def load_head(path: Path | str) -> AestheticHead:
    """LAION's `.pth`, of either version.

    Raises:
        HeadError: there is no such file, or its layers do not end in one value.
    """
    import torch

    wrong = OSError, pickle.UnpicklingError, RuntimeError, KeyError, IndexError, ValueError, TypeError, AttributeError
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        names = sorted((name for name in state if name.endswith("weight")), key=_layer)
        weight, bias = np.eye(state[names[0]].shape[1]), np.zeros(state[names[0]].shape[1])
        for name in names:
            layer = state[name].double().numpy()
            weight, bias = layer @ weight, layer @ bias + state[name.removesuffix("weight") + "bias"].double().numpy()
    except wrong as error:
        reason = str(error).strip().splitlines()[0] if Path(path).is_file() else "no such file"
        raise HeadError(f"{str(path)!r}: {reason}; give LAION's .pth of an aesthetic head") from error
    if weight.shape[0] != 1:
        raise HeadError(f"{str(path)!r}: ends in {weight.shape[0]} values; a head ends in one")
    return AestheticHead(weight[0], float(bias[0]))


def _layer(name: str) -> list[int]:
    """The layer's number in a name such as `layers.4.weight`."""
    return [int(part) for part in name.split(".") if part.isdigit()]

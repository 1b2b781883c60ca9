"""How beautiful a picture is, by a head on CLIP's embedding: LAION's aesthetic predictors.

V1 (github.com/LAION-AI/aesthetic-predictor) is one linear layer, V2 (improved-aesthetic-predictor) several without
an activation between them, so that both are one linear map of the embedding of unit length.
"""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flexip.images import Rgb
from pipelines import pretrained
from pipelines.pretrained import ModelError
from pipelines.settings import FilterSettings

Scorer = Callable[[Sequence[Rgb]], list[float]]
BATCH = 8


def open_scorer(settings: FilterSettings, device: str) -> Scorer:
    """A function from pictures to scores, about 1 ugly .. 10 beautiful.

    Raises:
        ModelError: head or CLIP cannot be loaded, or do not fit each other.
    """
    weight, bias = load_head(settings.aesthetic_head)
    field, name = "filters.aesthetic_clip", settings.aesthetic_clip
    loaded = pretrained.load(field, name, "CLIPVisionModelWithProjection", device, "CLIPImageProcessor")
    width = loaded.model.config.projection_dim
    if width != len(weight):
        raise ModelError(
            f"{field} = {name!r}: embeddings of {width} values; filters.aesthetic_head = {settings.aesthetic_head!r} "
            f"takes {len(weight)} (LAION's: 768 of ViT-L/14, 512 of ViT-B/32)"
        )

    def score(images: Sequence[Rgb]) -> list[float]:
        scores = list[float]()
        for start in range(0, len(images), BATCH):
            inputs = loaded.processor(images=list(images[start : start + BATCH]), return_tensors="pt")
            embeddings = loaded(inputs).image_embeds.cpu().numpy()
            scores += apply_head(embeddings, weight, bias).tolist()
        return scores

    return score


def load_head(path: str) -> tuple[Float[np.ndarray, "Dc"], float]:
    """Weight and bias of the one linear map that a file's layers make.

    Raises:
        ModelError: there is no such file, or its layers do not end in one value.
    """
    import torch

    field = f"filters.aesthetic_head = {path!r}"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        names = sorted((name for name in state if name.endswith("weight")), key=_layer)
        weight, bias = np.eye(state[names[0]].shape[1]), np.zeros(state[names[0]].shape[1])
        for name in names:
            layer = state[name].double().numpy()
            weight, bias = layer @ weight, layer @ bias + state[name.removesuffix("weight") + "bias"].double().numpy()
    except (
        OSError,
        pickle.UnpicklingError,
        RuntimeError,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if Path(path).is_file() else "no such file"
        raise ModelError(f"{field}: {reason}; give LAION's .pth of an aesthetic head") from error
    if weight.shape[0] != 1:
        raise ModelError(f"{field}: ends in {weight.shape[0]} values; a head ends in one")
    return weight[0], float(bias[0])


def _layer(name: str) -> list[int]:
    """The layer's number in a name such as `layers.4.weight`."""
    return [int(part) for part in name.split(".") if part.isdigit()]


def apply_head(
    embeddings: Float[np.ndarray, "B Dc"], weight: Float[np.ndarray, "Dc"], bias: float
) -> Float[np.ndarray, "B"]:
    """Scores of embeddings of any length."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ weight + bias

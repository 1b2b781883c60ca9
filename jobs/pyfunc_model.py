"""A checkpoint as MLflow's pyfunc flavour: MLflow runs this very file when it loads the model ("models from code").

Columns in: image (PNG, JPEG or WebP in base64), prompt; if wished gamma, seed, steps, guidance_scale, negative_prompt.
Column out: image, a PNG in base64.
"""

import base64
import math
from typing import Any

import mlflow.pyfunc
import torch
from mlflow.models import set_model

from flexip.checkpoint import load_checkpoint
from flexip.engine import Engine
from flexip.images import decode_image, encode_png
from flexip.request import Request
from flexip.sampler import sample

DEFAULTS = {"gamma": 0.7, "seed": 0, "steps": 25, "guidance_scale": 5.0, "negative_prompt": ""}


class SubjectDrawing(mlflow.pyfunc.PythonModel):
    """Draws every row of a table; the rows share UNet calls."""

    engine: Engine

    def load_context(self, context: Any) -> None:
        """Raises CheckpointError: the encoders that the checkpoint was trained on are not there."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.engine = load_checkpoint(context.artifacts["checkpoint"], device)

    def predict(
        self, context, model_input, params=None
    ):  # hints here would be a schema to MLflow; the model has its own
        """A DataFrame of one column, in the order of the rows of `model_input`, which is one too."""
        requests = [as_request(row) for row in model_input.to_dict("records")]
        pictures = [base64.b64encode(encode_png(picture)).decode() for picture in sample(self.engine, requests)]
        return model_input[[]].assign(image=pictures)


def as_request(row: dict[str, Any]) -> Request:
    """What a row asks for. Raises ValueError or ImageError, naming the column."""
    told = DEFAULTS | {key: value for key, value in row.items() if not _is_empty(value)}
    gamma = float(told["gamma"])
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma: {gamma:g} is not within 0..1; 1 keeps identity, 0 obeys the edit")
    return Request(
        prompt=told["prompt"],
        reference=decode_image(base64.b64decode(told["image"])),
        preservation=gamma,
        personalization=1 - gamma,
        negative_prompt=told["negative_prompt"],
        guidance_scale=float(told["guidance_scale"]),
        steps=int(told["steps"]),
        seed=int(told["seed"]),
    )


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


set_model(SubjectDrawing())

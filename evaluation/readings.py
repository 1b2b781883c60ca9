"""What oracles and encoders read from a grid of pictures, kept as it is: any statistic can be made of it later.

Axes, always in this order: creatures, edits, noises, settings of the dial.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int8, UInt8
from torch import nn

from evaluation import metrics
from evaluation.pocket import Truth, edit_obeyed, identity_kept, read_values
from evaluation.sweep import embed_images
from flexip.encoders import Encoders
from flexip.images import Rgb

Cells = Float[np.ndarray, "creatures edits noises settings"]


@dataclass(frozen=True)
class Readings:
    """One method's whole grid. Cosines are raw."""

    values: dict[str, Int8[np.ndarray, "oracles creatures edits noises settings"]]  # attribute -> index of its value
    dino: Cells  # mean patches against the reference's
    clip: Cells  # image embedding against the reference's
    text: Cells  # image embedding against the prompt's


def read_pictures(
    judges: Sequence[nn.Module],
    encoders: Encoders,
    references: Sequence[Rgb],
    prompts: Sequence[str],
    images: UInt8[np.ndarray, "creatures edits noises settings H W 3"],
) -> Readings:
    """Reads every picture with every oracle and compares it with its creature's reference and its edit's prompt."""
    cells, flat = images.shape[:4], list(images.reshape(-1, *images.shape[4:]))
    read = [read_values(oracle, flat) for oracle in judges]
    values = {name: np.stack([one[name] for one in read]).reshape(-1, *cells).astype(np.int8) for name in read[0]}
    drawn = {name: rows.reshape(*cells, -1) for name, rows in embed_images(encoders, flat).items()}
    asked, who = encoders.clip_text_embeddings(prompts).float().cpu().numpy(), embed_images(encoders, references)
    return Readings(
        values,
        dino=metrics.identity_similarity(who["dino"], drawn["dino"]).astype(np.float32),
        clip=metrics.identity_similarity(who["clip"], drawn["clip"]).astype(np.float32),
        text=metrics.text_alignment(asked, drawn["clip"]).astype(np.float32),
    )


def scored(readings: Readings, truth: Truth) -> tuple[Cells, Cells]:
    """Identity kept and edit obeyed of every cell, each the mean of the oracles."""
    count = len(next(iter(readings.values.values())))
    each = [{name: values[oracle] for name, values in readings.values.items()} for oracle in range(count)]
    kept, obeyed = ([score(values, truth) for values in each] for score in (identity_kept, edit_obeyed))
    return np.mean(kept, axis=0), np.mean(obeyed, axis=0)


def agreement(readings: Readings) -> float:
    """Share of attributes that all oracles read alike."""
    return float(np.mean([(values == values[:1]).all(axis=0).mean() for values in readings.values.values()]))


def joined(parts: Sequence[Readings]) -> Readings:
    """The grids of several groups of creatures as one."""
    return Readings(
        {name: np.concatenate([part.values[name] for part in parts], axis=1) for name in parts[0].values},
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("dino", "clip", "text")),
    )


def save_readings(path: Path, readings: Readings) -> None:
    """Writes one .npz. Cosines are kept in half precision (about 3 digits)."""
    arrays: dict[str, Any] = {name: getattr(readings, name).astype(np.float16) for name in ("dino", "clip", "text")}
    arrays |= {f"value.{name}": array for name, array in readings.values.items()}
    save_arrays(path, arrays)


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes one .npz; a reader finds all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft.npz")
    np.savez_compressed(draft, **arrays)
    draft.replace(path)


def load_readings(path: Path) -> Readings:
    """What `save_readings` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        values = {name.removeprefix("value."): stored[name] for name in stored.files if name.startswith("value.")}
        cosines = [stored[name].astype(np.float32) for name in ("dino", "clip", "text")]
    return Readings(values, *cosines)

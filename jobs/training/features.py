"""Where the features of a row come from: the shards, or the frozen encoders once more."""

from collections.abc import Callable, Sequence

import numpy as np

from flexip.encoders import Detail, EncoderNames, load_encoders
from flexip.rows import Split
from jobs.training.config import TrainConfig
from pipelines.face_shards import open_faces_dataset
from pipelines.features import encode_family
from pipelines.shards import PairDataset, open_dataset

FeatureSource = Callable[[str, Split, Sequence[int]], dict[str, np.ndarray]]  # family -> (rows, *shape)

FACE_FAMILIES = {
    "anchoring": ("identity", "hidden", "text", "vae"),
    "reconfiguration": ("identity", "hidden", "vae", "map", "prompt"),
}


def families(detail: Detail) -> tuple[str, ...]:
    """The feature families that training reads."""
    return ("clip", detail, "text", "vae")


def open_data(config: TrainConfig) -> PairDataset:
    """The dataset, of the kind that the stage reads. Raises DatasetError."""
    return (open_dataset if config.stage == "adapters" else open_faces_dataset)(config.dataset)


def needed_families(config: TrainConfig) -> tuple[str, ...]:
    """Those of the configuration's stage."""
    return families(config.adapter.detail) if config.stage == "adapters" else FACE_FAMILIES[config.stage]


def feature_source(config: TrainConfig, dataset: PairDataset, names: EncoderNames, device: str) -> FeatureSource:
    """Reads rows of a dataset, or encodes their pictures and captions on `device`, where `features` says so.

    What is encoded is rounded as it would be on disk, so that both give the same numbers, up to the order of sums.
    """
    needed = needed_families(config)

    def read(name: str, split: Split, rows: Sequence[int]) -> dict[str, np.ndarray]:
        found = dataset.read(name, split, rows, needed)
        return {family: found[family] for family in needed}

    if config.features == "cached":
        return read
    encoders, dtype = load_encoders(names, device), dataset.manifest.dtype

    def encode(name: str, split: Split, rows: Sequence[int]) -> dict[str, np.ndarray]:
        pairs = dataset.read_pairs(name, split, rows)
        return {family: encode_family(encoders, pairs, family, len(pairs), dtype) for family in needed}

    return encode

"""Where the features of a row come from: the shards, or the frozen encoders once more."""

from collections.abc import Callable, Sequence

import numpy as np

from flexip.encoders import Detail, EncoderNames, load_encoders
from flexip.rows import DatasetName, Split
from jobs.training.config import TrainConfig
from pipelines.features import encode_family
from pipelines.shards import PairDataset

FeatureSource = Callable[[DatasetName, Split, Sequence[int]], dict[str, np.ndarray]]  # family -> (rows, *shape)


def families(detail: Detail) -> tuple[str, ...]:
    """The feature families that training reads."""
    return ("clip", detail, "text", "vae")


def feature_source(config: TrainConfig, dataset: PairDataset, names: EncoderNames, device: str) -> FeatureSource:
    """Reads rows of a dataset, or encodes their pictures and captions on `device`, where `features` says so.

    What is encoded is rounded as it would be on disk, so that both give the same numbers, up to the order of sums.
    """
    needed = families(config.adapter.detail)

    def read(name: DatasetName, split: Split, rows: Sequence[int]) -> dict[str, np.ndarray]:
        found = dataset.read(name, split, rows, needed)
        return {family: found[family] for family in needed}

    if config.features == "cached":
        return read
    encoders, dtype = load_encoders(names, device), dataset.manifest.dtype

    def encode(name: DatasetName, split: Split, rows: Sequence[int]) -> dict[str, np.ndarray]:
        pairs = dataset.read_pairs(name, split, rows)
        return {family: encode_family(encoders, pairs, family, len(pairs), dtype) for family in needed}

    return encode

"""Where trials are made and kept, what they depend on, and when no further one begins."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from flexip.pocket.oracle import ORACLES
from flexip.pocket.pretrain_oracle import load_oracle, oracle_path
from jobs.config import RayConfig

P = TypeVar("P")


class OutOfTime(Exception):
    """The minutes given are over; what is finished is kept."""


@dataclass(frozen=True)
class Place(Generic[P]):
    """Where and with what the trials are made."""

    output: Path  # world, dataset, runs, unfinished parts
    archive: Path  # readings, facts and strips of what is finished
    recipe: Path  # YAML: what all trainings have in common
    weights: Path  # of the pocket models
    preset: P  # how much of it
    ray: RayConfig

    @cached_property
    def judges(self) -> list[nn.Module]:
        """The oracles."""
        return [load_oracle(self.weights, name) for name in ORACLES]

    @cached_property
    def judges_digest(self) -> str:
        """Of the oracles that read the pictures."""
        return digest_of(oracle_path(self.weights, name) for name in ORACLES)

    @cached_property
    def models_digest(self) -> str:
        """Of what trains and draws: the base model and the encoders, not who only looks at the pictures."""
        found = self.weights.rglob("*.safetensors")
        return digest_of(sorted(path for path in found if path.parent.name not in ("oracles", "faces")))


def digest_of(paths: Iterable[Path]) -> str:
    """SHA-256 of files one after the other, hex."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(content: Any) -> str:
    """Twelve hex characters that stand for a content of JSON's types."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

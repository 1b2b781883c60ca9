"""What the driver tells a worker, and where the worker stands."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from flexip.encoders import EncoderNames
from flexip.training import Noising
from jobs.training.config import TrainConfig


@dataclass(frozen=True)
class FaceInputs:
    """What the stages of DynamicID need of the encoders and the dataset beside its rows."""

    nobody: Float[Tensor, "N Dh"]  # CLIP states of a black picture
    text: Float[Tensor, "L D"]  # what the UNet is told in reconfiguration
    people: list[list[int]]  # training rows of everybody who has two or more


@dataclass(frozen=True)
class Assignment:
    """All that a worker is told by the driver, which has checked it."""

    config: TrainConfig
    names: EncoderNames
    sizes: dict[str, int]  # training rows of each dataset
    shapes: dict[str, tuple[int, ...]]  # of one row of each feature family
    fingerprints: dict[str, str]
    noising: Noising
    flops: int  # of one row, forward and backward; 0: not counted
    tracking_uri: str
    run_id: str
    folder: Path  # of the run, on storage that all machines see
    faces: FaceInputs | None = None  # of the stages of DynamicID


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Place:
    """One worker among all."""

    rank: int
    world: int
    device: str
    preempted: Callable[[], bool] = _never  # whether the cluster is about to take a machine away; asked on all ranks

    @property
    def on_cpu(self) -> bool:
        return self.device.startswith("cpu")

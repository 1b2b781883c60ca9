"""What is compared with what, and how much of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from flexip.precision import Precision
from flexip.solvers import Solver

_ALWAYS_ONE = {"gate.invariant": 1.0, "gate.variant": 1.0}  # a baseline's scale in training
GAMMAS = tuple(round(0.1 * i, 1) for i in range(11))
SCALES = tuple(round(0.15 * i, 2) for i in range(11))


@dataclass(frozen=True)
class Method:
    """One way of training, and the dial that its pictures are drawn with."""

    name: str
    title: str
    options: Mapping[str, Any] = field(
        default_factory=dict, hash=False
    )  # what its training has otherwise than FlexIP's
    dial: Literal["gamma", "scale", "none"] = "gamma"

    def weights(self, setting: float) -> tuple[float, float]:
        """The gate's two weights at a setting of the dial."""
        if self.dial == "none":
            return 0.0, 0.0
        return (setting, 1 - setting) if self.dial == "gamma" else (setting, 0.0)


FLEXIP = Method("flexip", "FlexIP")
BASE = Method("base", "the base model", dial="none")  # FlexIP's checkpoint with both weights zero: the same thing
BASELINES = (
    Method("ip-adapter", "(a) IP-Adapter", {"adapter.method": "ip-adapter"} | _ALWAYS_ONE, "scale"),
    Method(
        "ip-adapter-plus",
        "(b) IP-Adapter-Plus",
        {"adapter.method": "ip-adapter-plus", "adapter.depth": 4} | _ALWAYS_ONE,
        "scale",
    ),
    Method("plus-dino", "(c) Plus on DINO", {"adapter.method": "plus-dino"} | _ALWAYS_ONE, "scale"),
    Method("plus-dino-by-dataset", "(d) (c), scale by dataset", {"adapter.method": "plus-dino"}, "scale"),
)
ABLATIONS = (
    Method("token", "gate on tokens instead of branches", {"adapter.gating": "token"}),
    Method("constant", "gamma 0.5 in training, whatever the dataset", {"gate.invariant": 0.5, "gate.variant": 0.5}),
    Method("no-edits", "without the Personalization Adapter", {"adapter.method": "flexip-without-edits"}),
    Method("no-shape", "without the [CLS] stream", {"adapter.method": "flexip-without-shape"}),
    Method("no-variant", "without variant data", {"mixture.variant": 0.0}),
)


@dataclass(frozen=True)
class Sweep:
    """How a trained method is drawn and read."""

    split: Literal["val", "test"]
    creatures: int
    settings: int  # of the dial, evenly from its one end to the other
    noises: int
    steps: int  # of denoising
    solver: Solver = "dpm++2m"  # which draws in 15 steps what DDIM draws in 25 to 30
    precision: Precision = "bf16"

    def dial(self, method: Method) -> tuple[float, ...]:
        """The settings to draw, rising; with 11 they are GAMMAS or SCALES."""
        whole = GAMMAS if method.dial == "gamma" else SCALES
        return tuple(whole[round(i)] for i in np.linspace(0, len(whole) - 1, self.settings))


@dataclass(frozen=True)
class Preset:
    """Everything that decides how long it takes."""

    videos: int
    stills: int
    steps: int  # of each training
    seeds: tuple[int, ...]  # of the trainings in the main comparison
    guidances: tuple[float, ...]
    choosing: Sweep  # of the guidance
    main: Sweep
    ablation: Sweep
    ablations: bool = True


PRESETS = {
    "full": Preset(
        videos=900,
        stills=6000,
        steps=2000,
        seeds=(0, 1, 2),
        guidances=(1.0, 3.0, 5.0, 7.5),
        choosing=Sweep("val", creatures=12, settings=6, noises=1, steps=15),
        main=Sweep("test", creatures=64, settings=11, noises=2, steps=15),
        ablation=Sweep("test", creatures=64, settings=5, noises=1, steps=15),
    ),
    "quick": Preset(
        videos=60,
        stills=400,
        steps=250,
        seeds=(0,),
        guidances=(1.0, 3.0),
        choosing=Sweep("val", creatures=4, settings=3, noises=1, steps=8),
        main=Sweep("test", creatures=8, settings=5, noises=1, steps=10),
        ablation=Sweep("test", creatures=8, settings=3, noises=1, steps=8),
        ablations=False,
    ),
    "smoke": Preset(
        videos=8,
        stills=24,
        steps=2,
        seeds=(0,),
        guidances=(3.0,),
        choosing=Sweep("val", creatures=2, settings=3, noises=1, steps=2),
        main=Sweep("test", creatures=2, settings=3, noises=1, steps=2),
        ablation=Sweep("test", creatures=2, settings=3, noises=1, steps=2),
        ablations=False,
    ),
}

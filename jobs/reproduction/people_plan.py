"""What of DynamicID is compared with what, and how much of it."""

from dataclasses import dataclass
from typing import Literal

from evaluation.people import CELLS
from flexip.solvers import Solver
from pipelines.face_shards import FaceSettings

Way = Literal["drawn", "rendered", "rendered and coded", "pasted", "copied"]


@dataclass(frozen=True)
class PeopleMethod:
    """Where pictures come from: drawn by a training, or a control that nobody drew."""

    name: str
    title: str
    way: Way = "drawn"
    activated: bool = True  # SAA, each person in a box; False: everybody's tokens in one row, alike everywhere
    moved: bool = True  # IMR; False: people keep the tokens of their pictures
    told: bool = False  # the prompt says everybody's expression and pose, not the scene alone


DRAWN = (
    PeopleMethod("dynamicid", "DynamicID"),
    PeopleMethod("plain", "without SAA: plain concatenation", activated=False),
    PeopleMethod("anchored", "without IMR", moved=False),
    PeopleMethod("dynamicid-told", "DynamicID, and the prompt says the motions", told=True),
    PeopleMethod("anchored-told", "without IMR, and the prompt says the motions", moved=False, told=True),
)
CONTROLS = (
    PeopleMethod("copied", "copy: the sources' pictures", "copied"),
    PeopleMethod("pasted", "paste: the sources, cut out without a flaw, in the scene", "pasted"),
    PeopleMethod("coded", "the truth rendered, coded and decoded by the VAE", "rendered and coded"),
    PeopleMethod("rendered", "the truth rendered", "rendered"),
)


@dataclass(frozen=True)
class Scenario:
    """How pictures of so many people are drawn."""

    people: int
    groups: int  # of other people each; 35, or a multiple, balance sources and targets
    cells: int  # pictures of each group
    steps: int  # of denoising
    guidance: float
    solver: Solver = "dpm++2m"


@dataclass(frozen=True)
class PeoplePreset:
    """Everything that decides how long it takes."""

    faces: FaceSettings
    anchoring: int  # steps
    reconfiguration: int  # steps
    scenarios: tuple[Scenario, ...]
    workers: int = 2


PRESETS = {
    "full": PeoplePreset(
        FaceSettings(train=300, val=0, test=0),
        anchoring=7000,
        reconfiguration=3500,
        scenarios=tuple(Scenario(people, 35, CELLS, steps=12, guidance=3.0) for people in (1, 2, 3)),
    ),
    "quick": PeoplePreset(
        FaceSettings(train=40, val=0, test=0),
        anchoring=400,
        reconfiguration=300,
        scenarios=tuple(Scenario(people, 7, 7, steps=8, guidance=3.0) for people in (1, 2, 3)),
    ),
    "smoke": PeoplePreset(
        FaceSettings(train=2, val=0, test=0, people_per_file=2),
        anchoring=2,
        reconfiguration=2,
        scenarios=tuple(Scenario(people, 2, 2, steps=2, guidance=3.0) for people in (1, 2)),
        workers=1,
    ),
}

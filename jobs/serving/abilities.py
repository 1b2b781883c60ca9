"""What a model can draw, as /v1/models and the playground tell it: its sizes, and people with their expressions."""

from typing import Any

from flexip.motion import EXPRESSIONS, POSES
from jobs.serving.models import Model
from jobs.serving.requests import Served
from jobs.sizes import size_words


def abilities(model: Model, served: Served) -> dict[str, Any]:
    """`people` is None for a model that draws none; without expressions and poses they keep those of their files."""
    casting, people = model.engine.casting, None
    if casting is not None:
        expressions, poses = (EXPRESSIONS, POSES) if casting.moves else ((), ())
        people = {"expressions": [*expressions], "poses": [*poses]}
    sizes = {"own": size_words(served.size), "multiples_of": served.unit, "most_pixels": served.most_pixels}
    return {"sizes": sizes, "people": people}

"""The gate as a client says it: a dial, an amount of identity or two weights, constant or changing over the steps."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from flexip.calibration import Calibration
from flexip.gate import linear, window
from jobs.serving.errors import RequestError

BALANCED = 0.5  # the gate of a subject that comes without one
DIALS = ("gate", "identity", "preservation", "personalization")

Weight = Annotated[float, Field(ge=0, le=1)]


class Fields(BaseModel):
    """Fields of a request; an unknown one is an error, and so is NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Constant(Fields):
    """The same in all steps."""

    type: Literal["constant"]


class Linear(Fields):
    """The dial goes evenly from one value to another."""

    type: Literal["linear"]
    first: Weight = Field(description="the gate in the first step")
    last: Weight = Field(description="the gate in the last step")


class Window(Fields):
    """The subject acts in a part of the steps and is absent from the others."""

    type: Literal["window"]
    start: Weight = Field(description="fraction of the steps after which it begins")
    end: Weight = Field(description="fraction of the steps after which it ends")


class Values(Fields):
    """The dial has each of these values for an equal part of the steps."""

    type: Literal["list"]
    values: list[Weight] = Field(min_length=1, max_length=1000, description="the gate, at most one value a step")


Schedule = Annotated[Constant | Linear | Window | Values, Field(discriminator="type")]


class GateFields(Fields):
    """How much of a subject: one of `gate`, `identity` and the two weights; nothing means gate = 0.5."""

    gate: Weight | None = Field(None, description="the dial: 0 obeys the prompt, 1 keeps the subject")
    identity: float | None = Field(
        None, description="how much identity to keep, instead of gate; for a model with a calibration"
    )
    preservation: Weight | None = Field(None, description="weight of identity, with personalization instead of gate")
    personalization: Weight | None = Field(None, description="weight of the edit, with preservation instead of gate")
    schedule: Schedule | None = Field(
        None, description="how the gate changes over the steps; linear and list bring its values, window bounds it"
    )

    @property
    def dials(self) -> list[str]:
        """The dials that are turned, by name."""
        return [name for name in DIALS if getattr(self, name) is not None]

    @property
    def said(self) -> list[str]:
        """All that is said of the gate, by name."""
        return [*self.dials, *(["schedule"] if self.schedule else [])]


def weights(
    asked: GateFields, steps: int, calibration: Calibration | None, where: str = ""
) -> tuple[float | list[float], float | list[float]]:
    """(preservation, personalization), each one number or, for a schedule, one a step.

    Raises:
        RequestError: dials that exclude each other, a schedule out of bounds; `where` is the path of the fields.
    """
    _check_dials(asked, where)
    schedule = asked.schedule
    if isinstance(schedule, Linear | Values):
        return _dialled(schedule, asked, steps, where)
    preservation, personalization = _constant(asked, calibration, where)
    if not isinstance(schedule, Window):
        return preservation, personalization
    if schedule.start > schedule.end:
        message = f"{where}schedule.start = {schedule.start:g}: after the end, {schedule.end:g}; send a smaller one"
        raise RequestError(message, f"{where}schedule.start", status=422)
    part = schedule.start, schedule.end, steps
    return list(window(preservation, *part)), list(window(personalization, *part))


def _dialled(schedule: Linear | Values, asked: GateFields, steps: int, where: str) -> tuple[list[float], list[float]]:
    if asked.dials:
        name = asked.dials[0]
        message = f"{where}{name}: a {schedule.type} schedule brings the values itself; leave {name} out"
        raise RequestError(message, f"{where}{name}", status=422)
    if isinstance(schedule, Values) and len(schedule.values) > steps:
        message = f"{where}schedule.values: {len(schedule.values)} values for {steps} steps; send at most {steps}"
        raise RequestError(message, f"{where}schedule.values", status=422)
    gates = schedule.values if isinstance(schedule, Values) else linear(schedule.first, schedule.last, steps)
    return [*gates], [1 - gate for gate in gates]


def _constant(asked: GateFields, calibration: Calibration | None, where: str) -> tuple[float, float]:
    if asked.preservation is not None and asked.personalization is not None:
        return asked.preservation, asked.personalization
    gate = BALANCED if asked.gate is None else asked.gate
    if asked.identity is not None:
        gate = _gate_for(asked.identity, calibration, where)
    return gate, 1 - gate


def _gate_for(identity: float, calibration: Calibration | None, where: str) -> float:
    if calibration is None:
        message = f"{where}identity = {identity:g}: this model was not calibrated; send gate instead"
        raise RequestError(message, f"{where}identity", status=422)
    try:
        return calibration.gamma_for(identity)
    except ValueError as error:
        raise RequestError(f"{where}{error}", f"{where}identity", status=422) from error


def _check_dials(asked: GateFields, where: str) -> None:
    """One of the three ways, and of the two weights both."""
    dials = asked.dials
    pair = [name for name in DIALS[2:] if name in dials]
    if len(pair) == 1:
        (missing,) = (name for name in DIALS[2:] if name not in pair)
        message = f"{where}{missing}: missing beside {pair[0]}; send both weights, or gate instead of them"
        raise RequestError(message, f"{where}{missing}", "missing_field", 422)
    ways = [*dials[:-2], "the two weights"] if pair else dials
    if len(ways) > 1:
        message = f"{where}{dials[0]} = {getattr(asked, dials[0]):g}: given together with {ways[1]}; send one of them"
        raise RequestError(message, f"{where}{dials[0]}", status=422)

"""The table of costs: what one frame, pair, row or picture takes, and who says so.

measured.json    written by `python -m benchmarks.curation`, on the machine that it names
assumed.yaml     what nobody here has measured: numbers of others, each with its source

A table of one's own, `--costs mine.json`, replaces any of both, entry by entry.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import Field, ValidationError, model_validator

from jobs.config import Section
from jobs.console import UserError

HERE = Path(__file__).parent
TABLES = (HERE / "measured.json", HERE / "assumed.yaml")


class Cost(Section):
    """One entry of the table."""

    value: float = Field(gt=0, allow_inf_nan=False, description="in `unit`")
    unit: str = Field(min_length=1, description="of the value")
    machine: str | None = Field(default=None, description="that it was measured on")
    command: str | None = Field(default=None, description="that measured it")
    source: str | None = Field(default=None, description="of an assumption: who says it")
    note: str | None = Field(default=None, description="what else one should know")

    @model_validator(mode="after")
    def _has_provenance(self) -> "Cost":
        if not self.source and not (self.machine and self.command):
            raise ValueError("says not where it is from; give machine and command, or the source of an assumption")
        return self


Costs = Mapping[str, Cost]


def read_costs(own: Sequence[Path] = ()) -> dict[str, Cost]:
    """All costs by name; later tables win. Raises UserError: a table that cannot be read, a name nobody asks for."""
    costs: dict[str, Cost] = {}
    for file in TABLES:
        costs |= read_table(file)
    for file in own:
        found = read_table(file)
        if unknown := sorted(found.keys() - costs.keys()):
            raise UserError(f"costs = {file}: {unknown[0]} is no cost that is known; one of {', '.join(sorted(costs))}")
        costs |= found
    return costs


def read_table(file: Path) -> dict[str, Cost]:
    """One file, YAML or JSON (which is YAML). Raises UserError naming file, entry and value."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "problem", None) or "it is not YAML"
        raise UserError(f"costs = {file}: cannot be read ({reason}); give a table as in jobs/planning") from error
    if not isinstance(content, dict):
        raise UserError(f"costs = {file}: entries `name: {{value: ..., unit: ...}}` are expected")
    return {str(name): _cost(file, name, entry) for name, entry in content.items()}


def _cost(file: Path, name: object, entry: object) -> Cost:
    try:
        return Cost.model_validate(entry)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in (name, *problem["loc"]))
        given = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
        said = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"costs = {file}: {where}{given}: {said[:1].lower()}{said[1:]}") from error

"""Pictures that methods drew, one row each: a PNG whose own text says what it answers, or a file that a manifest names.

A row is one file, written under another name first, so that it is there whole or not at all: nothing else has to be
kept to go on after a kill.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.benchmarks import Benchmark, BenchmarkError, Photo, manifest_lines, text_field
from flexip.images import Rgb, encode_png

ROW = "flexip-row"  # key of the PNG's text


@dataclass(frozen=True)
class Cell:
    """What was asked for: one picture of the grid."""

    method: str
    unit: str  # the subject, or those that appear together
    number: int  # of the prompt
    seed: int
    gamma: float | None = None  # None where there is no dial

    def file(self, root: Path) -> Path:
        """Where its picture lies below a folder of pictures."""
        dial = "" if self.gamma is None else f"-g{self.gamma:.3f}"
        return root / slug(self.method) / slug(self.unit) / f"{self.number:03d}-s{self.seed}{dial}.png"


@dataclass(frozen=True)
class Answer:
    """A picture and what it answers."""

    cell: Cell
    source: Path | Photo

    @property
    def photo(self) -> Photo:
        """Its bytes, read now and not kept. Raises BenchmarkError when the file is gone."""
        if isinstance(self.source, Photo):
            return self.source
        try:
            return Photo(self.source.read_bytes(), str(self.source))
        except OSError as error:
            raise BenchmarkError(f"{self.source}: cannot be read ({error.strerror})") from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, hex."""
        return self.photo.digest

    @property
    def image(self) -> Rgb:
        """RGB, decoded now. Raises BenchmarkError for what is no picture."""
        return self.photo.image


def write_answer(root: Path, cell: Cell, image: Rgb, prompt: str, maker: str) -> Path:
    """Writes the row of a cell; a reader finds all of it or nothing.

    maker: hash of the weights and settings that drew it, so that others' pictures are not taken for these.
    """
    path = cell.file(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    row = json.dumps({**asdict(cell), "prompt": prompt, "maker": maker}, sort_keys=True)
    draft = path.with_suffix(".draft")
    draft.write_bytes(encode_png(image, text={ROW: row}))
    draft.replace(path)
    return path


def read_row(path: Path) -> dict[str, Any] | None:
    """What a picture's own text says, or None for a file that is no row. Pixels are not decoded."""
    try:
        with Image.open(path) as image:
            return json.loads(getattr(image, "text", {})[ROW])
    except (OSError, ValueError, KeyError, SyntaxError):
        return None


def is_drawn(root: Path, cell: Cell, prompt: str, maker: str) -> bool:
    """Whether the row of this cell is there, drawn from this prompt by this maker."""
    row = read_row(cell.file(root))
    return row is not None and (row.get("prompt"), row.get("maker")) == (prompt, maker)


def grid(
    method: str, benchmark: Benchmark, seeds: Sequence[int], gammas: Sequence[float | None] = (None,)
) -> list[tuple[Cell, str]]:
    """Every cell of a method with its prompt, in the order of the benchmark."""
    return [
        (Cell(method, case.unit, case.number, seed, gamma), case.prompt)
        for case in benchmark.cases
        for seed in seeds
        for gamma in gammas
    ]


def foreign_answers(method: str, manifest: Path, benchmark: Benchmark) -> list[Answer]:
    """Somebody else's pictures, by a manifest of JSON lines beside them.

    A line has `file`, `subject` (or a list, `subjects`), `prompt` as the benchmark says it, and optionally `seed` and
    `gamma`. A unique token in the prompt, as in "a sks dog", is not the benchmark's: leave it out. Of a benchmark that
    is a part of one, lines of other subjects and prompts are passed over.

    Raises:
        BenchmarkError: a line that names no picture, subject or prompt, or what another line has, with its place; or
            no line at all.
    """
    numbers = {(case.unit, _plain(case.prompt)): case.number for case in benchmark.cases}
    answers, seen = list[Answer](), dict[Cell, str]()
    for place, row in manifest_lines(manifest):
        unit, prompt = _unit(place, row), text_field(place, row, "prompt")
        if benchmark.part and (unit, _plain(prompt)) not in numbers:
            continue
        if unit not in benchmark.units:
            raise BenchmarkError(f"{place}: subject = {unit!r}; {benchmark.name} has {_some(benchmark.units)}")
        number = numbers.get((unit, _plain(prompt)))
        if number is None:
            known = [case.prompt for case in benchmark.cases if case.unit == unit]
            raise BenchmarkError(f"{place}: prompt = {prompt!r}; of {unit} there are {_some(known)}")
        cell = Cell(
            method, unit, number, _number(place, row, "seed", 0, int), _number(place, row, "gamma", None, float)
        )
        if cell in seen:
            raise BenchmarkError(f"{place}: the same picture as in {seen[cell]}; give another seed or gamma")
        seen[cell], file = place, manifest.parent / text_field(place, row, "file")
        if not file.is_file():
            raise BenchmarkError(f"{place}: file = {str(file)!r}: no such file")
        answers.append(Answer(cell, file))
    if not answers:
        raise BenchmarkError(f"{manifest}: no line of {_some(benchmark.units)}; a picture a line is needed")
    return answers


def slug(text: str) -> str:
    """The text as a file's name, of another text another: where a character had to go, a hash of the text follows."""
    name = re.sub(r"[^\w.+-]+", "_", text)
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _unit(place: str, row: Mapping[str, Any]) -> str:
    names = row.get("subjects", row.get("subject"))
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise BenchmarkError(f"{place}: subject = {names!r}; a name is needed, or a list of names as `subjects`")
    return "+".join(names)


def _number(place: str, row: Mapping[str, Any], name: str, absent: Any, kind: type) -> Any:
    value = row.get(name, absent)
    if value is None or (isinstance(value, int | float) and math.isfinite(value) and kind(value) == value):
        return value if value is None else kind(value)
    raise BenchmarkError(f"{place}: {name} = {value!r}; a number is needed")


def _plain(prompt: str) -> str:
    return " ".join(prompt.lower().strip(" .").split())


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"

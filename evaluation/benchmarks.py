"""A benchmark as data: subjects with their pictures, and the prompts that each is asked for with."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from flexip.images import ImageError, Rgb, decode_image


class BenchmarkError(ValueError):
    """A benchmark that cannot be read. The message names the file, the line where there is one, and what is wrong."""


@dataclass(frozen=True)
class Photo:
    """A picture that is known by the hash of its bytes."""

    data: bytes = field(repr=False)
    origin: str  # file or what it was rendered from, for messages

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, hex."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def image(self) -> Rgb:
        """RGB, decoded now: a benchmark's pixels would not fit into memory. Raises BenchmarkError for no picture."""
        try:
            return decode_image(self.data)
        except ImageError as error:
            raise BenchmarkError(f"{self.origin}: {error}") from error


@dataclass(frozen=True)
class Subject:
    """Somebody or something to draw, and the photographs of it."""

    name: str
    word: str  # what it is, as prompts say it: "dog"
    photos: tuple[Photo, ...]
    shown: int = 0  # which of the photographs conditions the answers
    kind: str = ""  # category, e.g. "live" or "object"

    @property
    def reference(self) -> Photo:
        """The photograph that is shown to a method."""
        return self.photos[self.shown]


@dataclass(frozen=True)
class Case:
    """One thing to draw: the subjects in it, by name, and the prompt as it is scored, without any unique token."""

    subjects: tuple[str, ...]
    number: int  # of the prompt among those of these subjects
    prompt: str
    truth: tuple[tuple[str, str], ...] = ()  # what the prompt states, where that can be read off: (attribute, value)

    @property
    def unit(self) -> str:
        """What statistics resample: the subject, or those that appear together."""
        return "+".join(self.subjects)


@dataclass(frozen=True)
class Benchmark:
    """Subjects and cases, each case's subjects being among them."""

    name: str
    subjects: tuple[Subject, ...]
    cases: tuple[Case, ...]
    part: bool = False  # whether subjects or prompts were left out: a manifest may speak of those

    def subject(self, name: str) -> Subject:
        return next(subject for subject in self.subjects if subject.name == name)

    @property
    def units(self) -> tuple[str, ...]:
        """Of the cases, in order, each once."""
        return tuple(dict.fromkeys(case.unit for case in self.cases))

    @cached_property
    def digest(self) -> str:
        """12 hex characters of all pictures and prompts: scores of equal digests are of the same questions."""
        content = [[s.name, s.word, s.shown, [photo.digest for photo in s.photos]] for s in self.subjects]
        content += [[*case.subjects, case.prompt] for case in self.cases]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def first(self, subjects: int | None = None, prompts: int | None = None) -> "Benchmark":
        """The first so many units and prompts of each; subjects that no case needs any more are left out."""
        units = set(self.units[:subjects])
        cases = [case for case in self.cases if case.unit in units and (prompts is None or case.number < prompts)]
        needed = {name for case in cases for name in case.subjects}
        kept = tuple(s for s in self.subjects if s.name in needed)
        return replace(self, subjects=kept, cases=tuple(cases), part=self.part or len(cases) < len(self.cases))


def cases_of(subject: Subject, prompts: Iterable[str]) -> list[Case]:
    """One case a prompt, in which `{}` stands for what the subject is; a prompt without it is taken as it is."""
    return [Case((subject.name,), i, prompt.replace("{}", subject.word)) for i, prompt in enumerate(prompts)]


def without_subject(prompt: str, words: Sequence[str]) -> str:
    """What a prompt says beside its subjects: "a happy dog on a beach" without "dog" is "on a beach"; may be empty.

    The article and up to three words before the subject go with it, for they describe it.
    """
    for word in words:
        name = re.escape(word)
        prompt = re.sub(rf"\b(an?|the)\s+(\w+\s+){{0,3}}?{name}\b|\b{name}\b", "", prompt, flags=re.IGNORECASE)
    return " ".join(prompt.split()).strip(" ,.")


def pooled(benchmarks: Sequence[Benchmark]) -> tuple[Benchmark, list[str]]:
    """Several benchmarks as one, and a line for every subject that was left out.

    A subject with a photograph that is, byte for byte, one of an earlier benchmark's is the same subject: 15 of
    MS-Bench's 39 pictures are DreamBench's. It goes, with its cases; counted twice it would weigh double, and the two
    would not be independent.

    Raises:
        BenchmarkError: two benchmarks of one name, whose subjects could not be told apart.
    """
    names = [benchmark.name for benchmark in benchmarks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BenchmarkError(f"benchmarks: {twice!r} is there twice; a folder is called as it is named, rename one")
    subjects, cases, dropped = list[Subject](), list[Case](), list[str]()
    owner = dict[str, str]()  # digest of a photograph -> who was there first
    for benchmark in benchmarks:
        alias = dict[str, str]()
        for subject in benchmark.subjects:
            earlier = next((owner[photo.digest] for photo in subject.photos if photo.digest in owner), None)
            if earlier:
                dropped.append(f"{benchmark.name}/{subject.name}: the same picture as {earlier}")
                continue
            alias[subject.name] = f"{_prefix(benchmark.name)}/{subject.name}"
            subjects.append(replace(subject, name=alias[subject.name]))
        owner |= {p.digest: alias[s.name] for s in benchmark.subjects if s.name in alias for p in s.photos}
        for case in benchmark.cases:
            if all(name in alias for name in case.subjects):
                cases.append(replace(case, subjects=tuple(alias[name] for name in case.subjects)))
    part = bool(dropped) or any(benchmark.part for benchmark in benchmarks)
    return Benchmark("+".join(names), tuple(subjects), tuple(cases), part), dropped


def _prefix(name: str) -> str:
    """A benchmark's name as the names of its subjects have it in a pool: + would join several subjects."""
    return name.replace("++", "-plus").replace("+", "-")


def without_broken(benchmark: Benchmark) -> tuple[Benchmark, list[str]]:
    """The benchmark without subjects that have a photograph which is no picture, and a line for each of those.

    Raises:
        BenchmarkError: no subject is left; the message is about the first.
    """
    broken = dict[str, str]()
    for subject in benchmark.subjects:
        try:
            _ = [photo.image for photo in subject.photos]
        except BenchmarkError as error:
            broken[subject.name] = f"{subject.name}: {error}"
    subjects = tuple(subject for subject in benchmark.subjects if subject.name not in broken)
    cases = tuple(case for case in benchmark.cases if not broken.keys() & set(case.subjects))
    if broken and not cases:
        raise BenchmarkError(f"{benchmark.name}: no subject is left; {next(iter(broken.values()))}")
    part = benchmark.part or bool(broken)
    return replace(benchmark, subjects=subjects, cases=cases, part=part), list(broken.values())


def manifest_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line of a JSON-lines file with its place, `file:line`, for messages; empty lines are skipped.

    Raises:
        BenchmarkError: the file cannot be read, or a line is no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path}: cannot be read ({error}); give a file of JSON lines") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BenchmarkError(f"{place}: not JSON ({error}); one object a line is expected") from error
        if not isinstance(row, dict):
            raise BenchmarkError(f"{place}: a {type(row).__name__}; one object a line is expected")
        yield place, row


def text_field(place: str, row: dict[str, Any], name: str, fallback: str | None = None) -> str:
    """A field that must be text. Raises BenchmarkError with the place, the field and its value."""
    value = row.get(name, fallback)
    if not isinstance(value, str) or not value.strip():
        raise BenchmarkError(f"{place}: {name} = {value!r}; a text is needed")
    return value


def photo_at(path: Path, place: str = "") -> Photo:
    """A picture's bytes. Raises BenchmarkError when there is no such file."""
    try:
        return Photo(path.read_bytes(), str(path))
    except OSError as error:
        raise BenchmarkError(f"{place or path}: {path} cannot be read ({error.strerror}); give a picture") from error

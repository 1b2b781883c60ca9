"""Benchmarks as they lie on a disk, each brought into the one form of `evaluation.benchmarks`. Nothing is downloaded.

dreambench     google/dreambooth's dataset/: a folder of photographs a subject, and prompts_and_classes.txt
dreambench++   images/<category>/NN.jpg beside captions/<category>/NN.txt, whose first line is the subject
ms-bench       a checkout of MS-Diffusion: msbench/<category>/<name>.*, its prompts in the one file msbench.py
folder         a picture or a folder of pictures a subject, with prompts.txt, or a manifest.jsonl that says everything
pocket         rendered creatures of the test split, and edits whose obedience can be read off
"""

import ast
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from evaluation.benchmarks import (
    Benchmark,
    BenchmarkError,
    Case,
    Photo,
    Subject,
    cases_of,
    manifest_lines,
    photo_at,
    text_field,
)
from evaluation.pocket import EDITS
from flexip.images import encode_png
from flexip.pocket.identity import identity
from flexip.pocket.world import place as placed
from flexip.pocket.world import render
from flexip.rows import Split

Layout = Literal["dreambench", "dreambench++", "ms-bench", "folder", "pocket"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
MANIFEST, PROMPTS = "manifest.jsonl", "prompts.txt"
_LIVE = {"cat", "dog"}  # classes that DreamBooth's prompts for live subjects are for
_SIDE = 96  # [px] of a pocket creature's photograph


def read_benchmark(layout: Layout, path: Path | None, prompts: Sequence[str] = ()) -> Benchmark:
    """A benchmark from a local copy.

    Args:
        path: its folder; the pocket benchmark needs none.
        prompts: instead of a folder's own; `{}` stands for what the subject is.

    Raises:
        BenchmarkError: files that are missing or cannot be read; the message names file and line.
    """
    if layout == "pocket":
        return pocket_benchmark()
    if path is None or not path.is_dir():
        raise BenchmarkError(f"benchmark {layout}: no folder {path}; give the path of a local copy")
    if layout == "dreambench":
        return _dreambench(path)
    if layout == "dreambench++":
        return _dreambench_plus(path)
    return _ms_bench(path) if layout == "ms-bench" else folder_benchmark(path, prompts)


def folder_benchmark(path: Path, prompts: Sequence[str] = ()) -> Benchmark:
    """One's own pictures: the first of each folder, by name, is the one that is shown."""
    if (path / MANIFEST).is_file():
        return _from_manifest(path / MANIFEST)
    prompts = list(prompts) or _own_prompts(path / PROMPTS)
    subjects = []
    for entry in sorted(path.iterdir()):
        files = pictures(entry) if entry.is_dir() else [entry] if entry.suffix.lower() in SUFFIXES else []
        if files:
            name = entry.name if entry.is_dir() else entry.stem
            word = re.sub(r"[_\-\d]+", " ", name).strip() or name
            subjects.append(Subject(name, word, tuple(photo_at(file) for file in files)))
    return _checked(
        path.resolve().name, subjects, [case for subject in subjects for case in cases_of(subject, prompts)], path
    )


def pocket_benchmark(split: Split = "test", creatures: int = 64, photos: int = 3) -> Benchmark:
    """Creatures that no model of the pocket world was trained on, photographed in different scenes and moods."""
    subjects, cases = [], []
    for number in range(creatures):
        who, name = identity(split, number), f"{split}-{number:03d}"
        shots = []
        for shot in range(photos):
            rng = np.random.default_rng((number, len(split), 31, shot))
            picture = placed([who], rng, style="flat", pose="front", accessory="nothing", action="standing")
            shots.append(Photo(encode_png(render(picture, _SIDE).image), f"pocket creature {name}, picture {shot}"))
        subjects.append(Subject(name, "creature", tuple(shots), kind="creature"))
        cases += [Case((name,), i, edit.prompt(who), tuple(edit.stated.items())) for i, edit in enumerate(EDITS)]
    return Benchmark("pocket", tuple(subjects), tuple(cases))


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, by name."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())


def _dreambench(path: Path) -> Benchmark:
    listing = path / "prompts_and_classes.txt"
    text = _text(listing)
    classes = dict(re.findall(r"^(\w+),([\w ]+)$", text.split("Prompts", 1)[0], re.MULTILINE))
    classes.pop("subject_name", None)
    blocks = [re.findall(r"'([^']*)'\.format", block) for block in text.split("prompt_list")[1:]]
    if not classes or len(blocks) != 2 or not all(blocks):
        raise BenchmarkError(f"{listing}: {len(classes)} classes, {len(blocks)} lists of prompts; DreamBench's has two")
    objects, live = ([prompt.replace("{0} {1}", "{}") for prompt in block] for block in blocks)
    subjects = [
        Subject(name, word, tuple(photo_at(file) for file in pictures(path / name)), kind=_kind(word))
        for name, word in classes.items()
        if (path / name).is_dir() and pictures(path / name)
    ]
    cases = [case for s in subjects for case in cases_of(s, live if s.kind == "live" else objects)]
    return _checked("dreambench", subjects, cases, path)


def _kind(word: str) -> str:
    return "live" if word in _LIVE else "object"


def _dreambench_plus(path: Path) -> Benchmark:
    subjects, cases = [], []
    for caption in sorted((path / "captions").rglob("*.txt")):
        inside = caption.relative_to(path / "captions").with_suffix("")
        found = [p for p in pictures((path / "images" / inside).parent) if p.stem == inside.name]
        if not found:
            raise BenchmarkError(f"{caption}: no picture {path / 'images' / inside}.*; captions and images go together")
        word, *prompts = [line.strip() for line in _text(caption).splitlines() if line.strip()] or [""]
        if not prompts:
            raise BenchmarkError(f"{caption}:1: a subject and no prompt; one line each is expected")
        subject = Subject(str(inside), word, (photo_at(found[0]),), kind=inside.parts[0])
        subjects.append(subject)
        cases += cases_of(subject, prompts)
    return _checked("dreambench++", subjects, cases, path)


def _ms_bench(path: Path) -> Benchmark:
    listing = next(iter(sorted(path.rglob("msbench.py"))), path / "msbench.py")
    names = _constants(listing)
    try:
        words, templates = names["data_class_dict"], names["subject_combination_prompts"]
    except KeyError as error:
        raise BenchmarkError(f"{listing}: has no {error}; give a checkout of MS-Diffusion") from error
    groups = dict[str, list[Subject]]()
    for file in sorted(file for file in (path / "msbench").rglob("*") if file.suffix.lower() in SUFFIXES):
        subject = Subject(file.stem, words.get(file.stem, file.stem), (photo_at(file),), kind=file.parent.name)
        groups.setdefault(subject.kind, []).append(subject)
    cases = []
    for combination, prompts in templates.items():
        kinds = combination.split("_")
        for chosen in itertools.product(*(groups.get(kind, []) for kind in kinds)):
            members = [subject.name for subject in chosen]
            same = [(a, b) for (a, x), (b, y) in itertools.combinations(zip(members, kinds, strict=True), 2) if x == y]
            if all(a < b for a, b in same):  # two of one category once, and nobody beside itself
                said = [prompt.format(*(subject.word for subject in chosen)) for prompt in prompts]
                cases += [Case(tuple(members), i, prompt) for i, prompt in enumerate(said)]
    return _checked("ms-bench", [subject for group in groups.values() for subject in group], cases, path)


def _constants(file: Path) -> dict[str, Any]:
    """The literals that a Python file assigns, one assigned name standing for its value; nothing is run."""

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return found[node.id]
        if isinstance(node, ast.Dict):
            return {value(k): value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
        return ast.literal_eval(node)

    found, text = dict[str, Any](), _text(file)
    try:
        for statement in ast.parse(text, str(file)).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                found[statement.targets[0].id] = value(statement.value)
    except (SyntaxError, ValueError, KeyError) as error:
        raise BenchmarkError(f"{file}: {error}; lists and dictionaries of texts are expected") from error
    return found


def _from_manifest(file: Path) -> Benchmark:
    """Lines of `{"subject", "pictures": [...], "prompts": [...]}`, optionally `word`, `kind` and `shown`."""
    subjects, cases = [], []
    for place, row in manifest_lines(file):
        name = text_field(place, row, "subject")
        if any(name == subject.name for subject in subjects):
            raise BenchmarkError(f"{place}: subject = {name!r}: it has a line already; a subject has one")
        files, prompts = (_texts(place, row, field) for field in ("pictures", "prompts"))
        photos = tuple(photo_at(file.parent / picture, place) for picture in files)
        shown = row.get("shown", 0)
        if not isinstance(shown, int) or not 0 <= shown < len(photos):
            raise BenchmarkError(f"{place}: shown = {shown!r}; needs a number within 0..{len(photos) - 1}")
        word, kind = text_field(place, row, "word", name), str(row.get("kind", ""))
        subjects.append(Subject(name, word, photos, shown, kind))
        cases += cases_of(subjects[-1], prompts)
    return _checked(file.parent.resolve().name, subjects, cases, file)


def _texts(place: str, row: dict[str, Any], name: str) -> list[str]:
    values = row.get(name)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) and value for value in values):
        raise BenchmarkError(f"{place}: {name} = {values!r}; a list of texts is needed, one at least")
    return values


def _own_prompts(file: Path) -> list[str]:
    if not file.is_file():
        raise BenchmarkError(f"{file}: cannot be read (no such file); write a prompt a line, or give benchmark.prompts")
    prompts = [line.strip() for line in _text(file).splitlines() if line.strip()]
    if not prompts:
        raise BenchmarkError(f"{file}: no prompt; one a line is expected, in which {{}} stands for the subject")
    return prompts


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise BenchmarkError(f"{file}: cannot be read ({reason}); a local copy of the benchmark has it") from error


def _checked(name: str, subjects: Sequence[Subject], cases: Sequence[Case], where: Path) -> Benchmark:
    if not subjects or not cases:
        raise BenchmarkError(f"{where}: {len(subjects)} subjects, {len(cases)} cases; a benchmark has both")
    if joined := next((subject.name for subject in subjects if "+" in subject.name), None):
        raise BenchmarkError(f"{where}: subject = {joined!r}; + joins several subjects of one picture, name it without")
    names = [subject.name for subject in subjects]
    if twice := next((known for known in names if names.count(known) > 1), None):
        raise BenchmarkError(f"{where}: subject = {twice!r}: there are two of this name; rename a file or a folder")
    return Benchmark(name, tuple(subjects), tuple(cases))

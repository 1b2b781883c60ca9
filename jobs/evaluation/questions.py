"""What is asked of whom: the benchmark and the methods that a configuration names."""

from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.benchmarks import Benchmark, Photo, Subject, cases_of, pooled, without_broken
from evaluation.layouts import read_benchmark
from flexip.rows import DATASETS, Split
from jobs.console import UserError
from jobs.evaluation.config import BenchmarkConfig, MethodConfig
from pipelines.shards import open_dataset

if TYPE_CHECKING:
    from jobs.evaluate import EvaluateConfig

PHOTOS = 4  # most references of one identity of a dataset


def questions_of(config: "EvaluateConfig") -> tuple[Benchmark, list[str]]:
    """The benchmark, and a line for whatever was left out of it.

    It is the pool of the layouts given, or else asks for the subjects of a dataset or a folder with `prompts`.

    Raises:
        BenchmarkError, DatasetError, UserError: something given that cannot be read, or none of them, or several.
    """
    given = [name for name in ("dataset", "references") if getattr(config, name) is not None]
    given += ["benchmark.layout"] if config.benchmark.layout else []
    if len(given) != 1:
        said = " and ".join(given) or "none"
        raise UserError(f"dataset, references, benchmark.layout: {said} given; give the one to take subjects from")
    if config.benchmark.layout:
        benchmark, dropped = benchmark_of(config.benchmark)
    elif config.references is not None:
        benchmark, dropped = read_benchmark("folder", config.references, config.prompts).first(config.subjects), []
    else:
        assert config.dataset is not None
        subjects = subjects_of(config.dataset, config.split, config.subjects)
        cases = [case for subject in subjects for case in cases_of(subject, config.prompts)]
        benchmark, dropped = Benchmark(f"{config.split} subjects", tuple(subjects), tuple(cases)), []
    readable, broken = without_broken(benchmark)
    return readable, [*dropped, *broken]


def benchmark_of(config: BenchmarkConfig) -> tuple[Benchmark, list[str]]:
    """The pool of the layouts that the configuration names, and what pooling left out.

    Raises:
        BenchmarkError, UserError: a benchmark that cannot be read, or one without its path.
    """
    local = [layout for layout in config.layout if layout != "pocket"]
    if len(local) != len(config.path):
        raise UserError(
            f"benchmark.path: {len(config.path)} given for {len(local)} layouts ({', '.join(local) or 'none'}); every "
            "layout but pocket needs its local copy, in the same order"
        )
    paths = iter(config.path)
    found = [
        read_benchmark(layout, None if layout == "pocket" else next(paths), config.prompts) for layout in config.layout
    ]
    together, dropped = (found[0], []) if len(found) == 1 else pooled(found)
    return together.first(config.subjects, config.prompts_each), dropped


def subjects_of(path: Path, split: Split, most: int) -> list[Subject]:
    """The identities of a dataset's split, by name, each with its first references; the first of all is shown.

    Raises:
        DatasetError: not a dataset. UserError: one without subjects in this split.
    """
    dataset, references = open_dataset(path), dict[str, dict[bytes, None]]()
    for name in DATASETS:
        if not dataset.size(name, split):
            continue
        table = dataset.pairs(name, split, ["cluster", "reference"])
        for cluster, reference in zip(*table.to_pydict().values(), strict=True):
            seen = references.setdefault(cluster, {})
            if len(seen) < PHOTOS:
                seen[reference] = None
    if not references:
        raise UserError(
            f"dataset {path}: no subject in its {split} split; choose another --split, or give --references"
        )
    return [
        Subject(cluster, "subject", tuple(Photo(data, f"{path}, {cluster}") for data in references[cluster]))
        for cluster in sorted(references)[:most]
    ]


def methods_of(config: "EvaluateConfig") -> list[MethodConfig]:
    """The methods of a configuration, `--checkpoint` first. Raises UserError for none, or two of one name."""
    methods = list(config.methods)
    if config.checkpoint is not None:
        cut_out = config.dataset is None  # a dataset's references were cut out when it was curated
        methods.insert(0, MethodConfig(name="flexip", kind="flexip", checkpoint=config.checkpoint, cut_out=cut_out))
    names = [method.name for method in methods]
    if not names:
        raise UserError("methods: none; give --checkpoint, or a list of methods in the --config file")
    twice = next((name for name in names if names.count(name) > 1 or name in ("copy", "wrong subject")), None)
    if twice:
        raise UserError(f"methods: name {twice!r} is taken; every method needs one of its own")
    return methods

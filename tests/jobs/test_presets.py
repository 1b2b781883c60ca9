"""Every configuration that comes with the repository is one that its job takes."""

from pathlib import Path
from typing import Any

import pytest

from flexip.weights import PAPER
from jobs.config import JobConfig, load
from jobs.console import UserError
from jobs.curate import CurateConfig
from jobs.demo import DemoConfig
from jobs.planning.config import PlanConfig
from jobs.training.config import TrainConfig

ROOT = Path(__file__).parents[2] / "configs" / "sd15"
CLASSES: dict[str, type[JobConfig]] = {
    **{path.relative_to(ROOT).as_posix(): CurateConfig for path in sorted((ROOT / "sources").glob("*.yaml"))},
    "curate.yaml": CurateConfig,
    "train.yaml": TrainConfig,
    "single_gpu.yaml": TrainConfig,
    "dreambench.yaml": TrainConfig,
}


def read(name: str) -> Any:
    return load(CLASSES[name], ["--config", str(ROOT / name)])


def test_each_file_is_known():
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.yaml")}
    assert files == CLASSES.keys() | {"demo.yaml", "plan.yaml"}


def test_the_plan_counts_what_the_paper_has():
    config = load(PlanConfig, ["--config", str(ROOT / "plan.yaml")])
    assert config.images == pytest.approx(9.0e6 + 2.1e6)
    assert config.clips + config.sets == pytest.approx(1_232_150)


def test_the_demo_takes_the_papers_models_and_an_input_of_ones_own():
    argv = ["--config", str(ROOT / "demo.yaml")]
    config = load(DemoConfig, [*argv, "--input", "videos"])
    assert config.models.model_dump() == PAPER
    assert config.training == Path("configs/sd15/single_gpu.yaml")
    with pytest.raises(UserError, match="input: missing"):
        load(DemoConfig, argv)


@pytest.mark.parametrize("name", CLASSES)
def test_the_jobs_own_class_takes_it_with_the_papers_models(name):
    config = read(name)
    assert config.models.model_dump() == PAPER
    assert str(config.output).startswith("runs/sd15/")


def test_every_source_of_the_paper_has_its_licence_and_origin():
    sources = [read(name) for name in CLASSES if name.startswith("sources/")]
    assert len(sources) == 15 + 1  # the paper's, and DreamBench
    for config in sources:
        assert config.input.licence
        assert config.input.provenance.startswith("https://")
        assert config.input.path == f"data/{config.output.name}"


def test_the_adapters_are_the_papers_everywhere():
    train, single, tuned = (read(name) for name in ("train.yaml", "single_gpu.yaml", "dreambench.yaml"))
    assert train.adapter == single.adapter == tuned.adapter
    assert train.batch_size == single.batch_size == 64
    assert tuned.start == f"{train.output}/checkpoint"

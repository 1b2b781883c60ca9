"""The plan: its formula against a simulation, its numbers against each other, and what it refuses."""

import dataclasses
import itertools
import json
import math
import shlex
import statistics
from pathlib import Path
from typing import Any

import pytest

from jobs.config import load
from jobs.console import UserError
from jobs.plan import main, run
from jobs.planning import curation, estimates, numbers
from jobs.planning.config import PlanConfig
from jobs.planning.costs import TABLES, read_costs, read_table
from jobs.planning.flow import CORES, GPUS, Cluster, Stage, bottleneck, limits, redone
from jobs.planning.simulation import Simulated, simulate
from jobs.training.estimate import MFU
from pipelines.passes import Pools

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scale.md"
ITEMS, MORE = 1000, 3000  # the more for failures, which are few
CHAINS = {
    "search": ([Stage("read", 8, 1.0), Stage("search", 8, 3.0, 0.1), Stage("pairs", 24, 0.5)], Cluster(32, 4)),
    "embed": ([Stage("read", 4, 1.0), Stage("search", 8, 1.0), Stage("embed", 2, 0.1, 1.4)], Cluster(16, 4)),
    CORES: ([Stage("read", 8, 1.0), Stage("search", 16, 2.0), Stage("pairs", 40, 1.5)], Cluster(12)),
    GPUS: ([Stage("search", 16, 0.5, 2.0), Stage("embed", 8, 0.1, 1.0), Stage("pairs", 8, 0.3)], Cluster(32, 4)),
}


def seen(
    name: str, spread: float = 0.0, items: int = ITEMS, seed: int = 0, **changes: Any
) -> tuple[float, str, Simulated]:
    """The simulation's rate over the formula's, the formula's limit, and what was simulated."""
    stages, cluster = CHAINS[name]
    cluster = dataclasses.replace(cluster, **changes)
    limit, rate = bottleneck(limits(stages, cluster))
    found = simulate(stages, cluster, items, spread=spread, seed=seed)
    return found.rate / rate, limit, found


@pytest.mark.parametrize("name", CHAINS)
def test_the_formula_is_the_simulations_rate(name):
    ratio, limit, found = seen(name)
    assert limit == name
    assert ratio == pytest.approx(1, abs=0.01)
    assert not found.redone


@pytest.mark.parametrize("name", CHAINS)
def test_times_that_vary_change_little(name):
    ratio, _, _ = seen(name, spread=0.5)
    assert ratio == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("mtbf", "repair"), [(120.0, 12.0), (30.0, 3.0)])
def test_failures_cost_what_the_formula_says(mtbf, repair):
    calm = bottleneck(limits(*CHAINS["search"]))[1]
    runs = [seen("search", 0.5, MORE, seed, nodes=4, mtbf_s=mtbf, repair_s=repair) for seed in range(4)]
    assert all(found.redone > 50 and found.rate < 0.97 * calm for _, _, found in runs)
    assert statistics.fmean(ratio for ratio, _, _ in runs) == pytest.approx(1, abs=0.05)


def test_the_busiest_workers_are_those_of_the_bottleneck():
    for name in ("search", "embed"):
        _, _, found = seen(name, spread=0.5)
        assert max(found.busy, key=lambda stage: found.busy[stage]) == name
        assert found.busy[name] > 0.9


def test_work_done_twice_is_counted_from_the_first_stage_on():
    """Two stages of s = mtbf ln 2: each is got through in every second try, from the first one on."""
    second = math.log(2)
    factors = redone([Stage("a", 1, second), Stage("b", 1, second)], Cluster(1, mtbf_s=1.0))
    tried = 0.5 / second  # what a try of a stage takes on average, of its time
    assert factors == pytest.approx([4 * tried, 2 * tried])
    assert redone([Stage("a", 1, 1.0)], Cluster(1)) == [1.0]


def test_items_neither_vanish_nor_wait_for_ever():
    stages = [Stage("a", 2, 1.0), Stage("b", 2, 1.0)]
    found = simulate(stages, Cluster(4, nodes=2, mtbf_s=5.0, repair_s=2.0), 200, buffer=1, spread=1.0)
    assert found.seconds > 200 / 2
    assert found.redone > 0
    assert found == simulate(stages, Cluster(4, nodes=2, mtbf_s=5.0, repair_s=2.0), 200, buffer=1, spread=1.0)


@pytest.mark.parametrize("stage", [("a", 0, 1.0), ("a", 1, 0.0), ("a", 1, -1.0, 2.0), ("a", 1, math.inf)])
def test_a_stage_without_workers_or_time_is_refused(stage):
    with pytest.raises(ValueError, match=r"^a: "):
        Stage(*stage)


@pytest.mark.parametrize(
    ("words", "value"),
    [("11.1M", 11.1e6), ("1_200", 1200), ("35k", 35e3), ("1.2B", 1.2e9), ("9e6", 9e6), (7, 7), (0.5, 0.5)],
)
def test_numbers_as_people_write_them(words, value):
    assert numbers.amount(words) == pytest.approx(value)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--images", "11.1Q"], "--images = '11.1Q': a number is expected, as 1200, 35k, 11.1M or 1.2B"),
        (["--images=-3"], "--images = '-3': a number is expected, as 1200, 35k, 11.1M or 1.2B"),
        (["--images", "1", "--gpus", "8H200"], "--gpus = '8H200': a number and a model are expected, as 8xH200"),
        (["--images", "1", "--gpus", "0xH200"], "--gpus = '0xH200': a number and a model are expected, as 8xH200"),
        (["--images", "1", "--gpus", "8xB7"], "gpus = 8xB7: the peak is known of A100, H100, H200 alone; give"),
        ([], "images, clips, sets: all are 0; give what is to be curated"),
        (["--images", "1", "--prices.gpu-hour", "0"], "--prices.gpu_hour = '0': input should be greater than 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused_in_one_line(argv, said):
    argv = argv if "--gpus" in argv else [*argv, "--gpus", "8xH200"]
    with pytest.raises(UserError) as caught:
        load(PlanConfig, argv)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"value": 0, "unit": "s", "source": "me"}, "embed.value = 0: input should be greater than 0"),
        ({"value": 1, "unit": "s"}, "embed: says not where it is from; give machine and command, or the source"),
        ({"value": 1, "unit": "s", "machine": "mine"}, "embed: says not where it is from"),
        ({"valu": 1, "unit": "s", "source": "me"}, "embed.value: field required"),
        (None, "embed = None: input should be a valid dictionary"),
    ],
)
def test_a_cost_of_nothing_or_from_nowhere_is_refused(entry, said, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"embed": entry}))
    with pytest.raises(UserError) as caught:
        read_costs([file])
    assert str(caught.value).startswith(f"costs = {file}: {said}")


def test_own_costs_replace_ours_and_an_unknown_name_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("embed: {value: 7, unit: core-s/crop, source: me}\n")
    assert read_costs([file])["embed"].value == 7
    file.write_text("embedd: {value: 7, unit: core-s/crop, source: me}\n")
    with pytest.raises(UserError, match="embedd is no cost that is known; one of clip"):
        read_costs([file])


def test_every_cost_says_where_it_is_from_and_none_is_told_twice():
    measured, assumed = (read_table(file) for file in TABLES)
    assert not measured.keys() & assumed.keys()
    assert all(cost.command and cost.machine for cost in measured.values())
    assert all(cost.source for cost in assumed.values())
    assert assumed["utilisation.train"].value == MFU


def planned(**given: Any) -> estimates.Plan:
    config = PlanConfig(**({"images": 1e6, "clips": 1e5, "sets": 1e4, "gpus": "8xH200"} | given))
    return estimates.reckon(config, read_costs(config.costs))


def test_more_machines_are_never_slower():
    several = [planned(gpus=f"{number}xH200") for number in (1, 2, 4, 8, 16, 64)]
    for few, many in itertools.pairwise(several):
        for one, other in zip([*few.curation, few.training], [*many.curation, many.training], strict=True):
            assert other.seconds <= one.seconds * (1 + 1e-9), one.name
    cpus = [planned(cpus=number).curation_s for number in (8, 32, 90, 400)]
    assert cpus == sorted(cpus, reverse=True)


def test_more_inputs_take_longer_and_more_room():
    small, large = planned(), planned(images=2e6)
    assert large.curation_s > small.curation_s
    assert all(large.bytes[name] > small.bytes[name] for name in ("raw", "subjects", "pairs", "features"))


def test_the_bottleneck_is_named_where_it_is_made():
    slow = {leg.name: leg.limit for leg in planned(storage_gb_s=1e-3).curation}
    assert slow["hash"] == slow["clips"] == "storage"
    assert planned(storage_gb_s=1e-3).training.limit == "storage"
    clips = {leg.name: leg for leg in planned(cpus=1000, gpus="1xH200").curation}["clips"]
    assert clips.limit == "search"  # two searchers on each GPU, however many CPUs there are
    assert planned(cpus=4, captions=False).curation[1].limit in ("read", "search", CORES)


def test_workers_are_those_that_curation_takes():
    config = PlanConfig(images=1e6, gpus="4xH200", cpus=64)
    costs = read_costs()
    steps = {stage.name: stage.workers for stage in curation.chain(config, costs, curation.kinds(config, costs))}
    pools = Pools.of(64, 4, True)
    assert (steps["read"], steps["search"], steps["embed"]) == (pools.readers, pools.searchers, pools.encoders)


def test_failures_and_prices_are_reckoned_in():
    calm, stormy = planned(), planned(mtbf_hours=5)
    assert stormy.curation_s > calm.curation_s
    assert stormy.training.seconds > calm.training.seconds
    config = PlanConfig(images=1e6, gpus="8xH200", prices={"gpu_hour": 2})  # type: ignore[arg-type]
    plan = estimates.reckon(config, read_costs())
    paid = estimates.money(config, plan)
    assert paid["training"] == pytest.approx(16 * plan.training.seconds / 3600)
    assert "storage, a month" not in paid
    assert not estimates.money(PlanConfig(images=1e6, gpus="8xH200"), plan)


def test_the_terminal_says_it_all(capsys):
    main(["--images", "11.1M", "--clips", "1.23M", "--gpus", "8xH200", "--prices.gpu-hour", "2"])
    said = capsys.readouterr().out
    for words in (
        "bottleneck",
        "hash",
        "features",
        "training",
        "dataset, with features",
        "pictures/s of a GPU",
        "Cost",
    ):
        assert words in said


def test_the_page_is_what_its_command_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(PAGE.read_text().split("`")[1])
    assert words[:3] == ["python", "-m", "jobs.plan"]
    config = load(PlanConfig, words[3:])
    run(config.model_copy(update={"output": tmp_path / "scale.md"}), shlex.join(words))
    assert (tmp_path / "scale.md").read_text() == PAGE.read_text()

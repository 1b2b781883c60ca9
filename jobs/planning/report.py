"""A plan in words: tables for the terminal, and the same ones as a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.planning import curation, estimates
from jobs.planning.config import PlanConfig
from jobs.planning.costs import Costs
from jobs.planning.estimates import Leg, Plan
from jobs.planning.flow import redone
from jobs.planning.numbers import duration, short, size
from jobs.planning.simulation import Simulated

MEANINGS = {
    "hash": "every byte once, for its SHA-256",
    "clips": "decode, find subjects, embed, pair",
    "driver": "find what looks the same, plan splits and shards",
    "features": "encode and write the pairs' features",
    "rows": "bring the subject rows together",
    "training": "the adapters, at 512 px",
}


@dataclass(frozen=True)
class Table:
    """The first column is text."""

    title: str
    header: list[str]
    rows: list[list[str]]


def tables(config: PlanConfig, costs: Costs, plan: Plan) -> list[Table]:
    """Everything but where the costs are from."""
    found = [_time_table(plan), _chain_table(config, costs, plan), _other_table(config, costs)]
    found += [_training_table(config, costs), _storage_table(plan), _serving_table(config, plan)]
    if paid := estimates.money(config, plan):
        rows = [[name, f"{value:,.0f}"] for name, value in paid.items()]
        found.append(Table("Cost, in the money of the prices given", ["what", "cost"], rows))
    return found


def _time_table(plan: Plan) -> Table:
    rows = [_leg_row(leg) for leg in [*plan.curation, plan.training]]
    rows.insert(len(plan.curation), ["curation, all", "", "", duration(plan.curation_s), "", ""])
    header = ["stage", "items", "a second", "time", "bottleneck", "without it"]
    return Table("Time", header, rows)


def _leg_row(leg: Leg) -> list[str]:
    without = f"{leg.headroom:.1f}x, then {leg.next_limit}" if leg.next_limit else ""
    many = leg.unit if leg.unit.endswith("s") else f"{leg.unit}s"
    return [leg.name, f"{short(leg.items)} {many}", short(leg.rate), duration(leg.seconds), leg.limit, without]


def _chain_table(config: PlanConfig, costs: Costs, plan: Plan) -> Table:
    clips = next(one for one in curation.passes(config, costs) if one.name == "clips")
    rate = clips.rate(plan.cluster, None)[1]
    rows = [
        [s.name, str(s.workers), f"{s.cpu_s:.3g}", f"{s.gpu_s:.3g}", f"{min(1, rate * s.seconds / s.workers):.0%}"]
        for s in clips.stages
    ]
    title = "The pass over clips, for a mean image, clip or set"
    return Table(title, ["step", "workers", "CPU, s", "GPU, s", "busy"], rows)


def _other_table(config: PlanConfig, costs: Costs) -> Table:
    """The same on other machines."""
    twice: dict[str, dict[str, object]] = {
        "as asked": {"cpus": config.cores},
        "twice the CPUs": {"cpus": 2 * config.cores},
        "twice the GPUs": {"cpus": config.cores, "gpus": f"{2 * config.machines.number}x{config.machines.model}"},
    }
    if config.captions:
        twice["captions that are there"] = {"cpus": config.cores, "captions": False}
        twice["these, and twice the CPUs"] = {"cpus": 2 * config.cores, "captions": False}
    rows = []
    for name, changes in twice.items():
        plan = estimates.reckon(config.model_copy(update=changes), costs)
        clips = next(leg for leg in plan.curation if leg.name == "clips")
        rows.append(
            [name, duration(plan.curation_s), clips.limit, duration(plan.training.seconds), plan.training.limit]
        )
    return Table("What if", ["machines", "curation", "clips wait for", "training", "it waits for"], rows)


def _training_table(config: PlanConfig, costs: Costs) -> Table:
    allowed = estimates.samples_per_second(config, costs)
    rows = [[name, short(rate), size(rate * costs["train.bytes"].value)] for name, rate in allowed.items()]
    asked = config.training
    title = f"Training, {short(asked.steps)} steps of {short(asked.batch_size)} rows: what each limit would allow"
    return Table(title, ["limit", "rows/s", "read a second"], rows)


def _storage_table(plan: Plan) -> Table:
    rows = [[name, size(value)] for name, value in plan.bytes.items()]
    dataset = sum(plan.bytes[name] for name in ("subjects", "pairs", "features"))
    rows.insert(4, ["dataset, without features", size(dataset - plan.bytes["features"])])
    rows.insert(5, ["dataset, with features", size(dataset)])
    rows.append(["staging, beside them until curation ends", size(plan.staging)])
    return Table("Storage", ["what", "size"], rows)


def _serving_table(config: PlanConfig, plan: Plan) -> Table:
    asked, one = config.serving, plan.pictures / config.serving.gpus
    rows = [
        ["pictures/s of a GPU", f"{one:.2f}"],
        [f"pictures/s of {asked.gpus}", f"{plan.pictures:.2f}"],
        ["pictures a day", short(86400 * plan.pictures)],
    ]
    if plan.gpus_asked is not None:
        rows.append([f"GPUs for {short(asked.pictures_a_day)} pictures a day", f"{plan.gpus_asked:.2f}"])
    guided = "with guidance" if asked.guided else "without guidance"
    return Table(f"Serving, {asked.steps} steps {guided} at 512 px", ["what", "value"], rows)


def simulation_line(config: PlanConfig, costs: Costs, plan: Plan, seen: Simulated) -> str:
    """The formula beside the simulation."""
    chain = estimates.simulated_chain(config, costs)
    limit, rate = chain.rate(plan.cluster, None)
    extra = max(redone(chain.stages, plan.cluster)) - 1
    busiest = max(seen.busy, key=lambda name: seen.busy[name])
    return (
        f"{short(chain.items)} units of {curation.MOST_CLIPS} clips, event by event: {short(seen.rate)} units/s, where "
        f"the formula says {short(rate)} ({limit}), {seen.rate / rate - 1:+.1%}; busiest {busiest} "
        f"({seen.busy[busiest]:.0%}), {seen.redone} units redone. By the formula {1 - plan.cluster.availability:.2%} "
        f"of the time is lost to repairs, and {extra:.2%} of the work at most is done twice"
    )


def aligned(table: Table) -> list[str]:
    """Lines for a terminal."""
    cells = [table.header, *table.rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.header))]
    lines = []
    for row in cells:
        first, *others = (
            cell.ljust(width) if column == 0 or column >= 4 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([f"  {first}", *others]).rstrip())
    return [f"{table.title}:", *lines]


def markdown(table: Table) -> str:
    """The same as Markdown."""
    rows = [table.header, ["---"] * len(table.header), *table.rows]
    return f"### {table.title}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def costs_table(costs: Costs, names: Sequence[str]) -> str:
    """Value, unit and provenance of each, as Markdown."""
    rows = [["cost", "value", "unit", "from"], ["---", "---:", "---", "---"]]
    for name in names:
        cost = costs[name]
        rows.append([f"`{name}`", f"{cost.value:.4g}", cost.unit, cost.source or str(cost.machine)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)

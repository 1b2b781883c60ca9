"""docs/scale.md: a plan as a page, with the provenance of every number in it."""

from pathlib import Path

from jobs.planning.config import PlanConfig
from jobs.planning.costs import Costs
from jobs.planning.estimates import Plan
from jobs.planning.numbers import short
from jobs.planning.report import MEANINGS, costs_table, markdown, tables


def write_page(config: PlanConfig, costs: Costs, plan: Plan, simulation: str, command: str) -> Path:
    """Writes it to `config.output`."""
    assert config.output is not None
    config.output.parent.mkdir(parents=True, exist_ok=True)
    config.output.write_text(page(config, costs, plan, simulation, command), encoding="utf-8")
    return config.output


def page(config: PlanConfig, costs: Costs, plan: Plan, simulation: str, command: str) -> str:
    """The whole document."""
    shown = "\n".join(markdown(table) for table in tables(config, costs, plan))
    checked = f"\n## Event by event\n\n{simulation}.\n" if simulation else ""
    meanings = "\n".join(f"* {name}: {meaning}" for name, meaning in MEANINGS.items())
    return f"""# Scale, on paper

Written by `{command}`, not by hand.
Reckoned, not run: {_given(config)}.

{meanings}

{_READING}
## The plan

{shown}{checked}
{_FORMULA}
{_provenance(costs)}"""


def _given(config: PlanConfig) -> str:
    storage = f"a storage of {config.storage_gb_s:g} GB/s" if config.storage_gb_s else "a storage that is no limit"
    captions = "captions by a model" if config.captions else "captions that are there"
    machines = "one machine" if config.node_count == 1 else f"{config.node_count} machines"
    return (
        f"{short(config.images)} images, {short(config.clips)} films and {short(config.sets)} multi-view sets on "
        f"{config.gpus} with {config.cores} logical CPUs in {machines}, {storage}, {captions}"
    )


_READING = """Each pass of curation, and the training, has a bottleneck: the workers of one step, all `cores`, all
`GPUs`, the `storage`, or the thread of each training worker that reads rows. The last column says how much faster it
would be without that, and what limits it then. Numbers of workers follow from the machines, by the same function that
curation asks.
"""

_FORMULA = """## The formula

A step with `w` workers that are busy `s` seconds with an item hands on at most `w / s` items a second; all steps
together take at most the cores and the GPUs that there are; the least of these is the rate of the pass. Failures take
two things. A machine is up for `mtbf / (mtbf + repair)` of the time. And what its workers were busy with begins anew at
the first step: with `p = exp(-s / mtbf)` of each step, an item starts step `i` `1 / (p_i p_(i+1) ... p_n)` times. A
training loses half the steps between two checkpoints and a restart for every failure.

`jobs/planning/simulation.py` runs the same chain event by event, with bounded queues, workers that hold what the next
queue has no place for, times that vary, and machines that fail and come back. A test holds the formula to it: within 1%
where nothing fails and times are alike, within 5% where they vary by half, within 5% with failures (the mean of several
runs), each step having workers on every machine. A step with a single worker stands still with that worker's machine,
and all others soon after: there the formula promises too much.
"""


def _provenance(costs: Costs) -> str:
    measured = [name for name, cost in costs.items() if cost.command and not (cost.machine or "").startswith("counted")]
    counted = [name for name, cost in costs.items() if cost.command and name not in measured]
    assumed = [name for name, cost in costs.items() if not cost.command]
    commands = " and ".join(sorted({f"`{costs[name].command}`" for name in [*measured, *counted]}))
    notes = "; ".join(sorted({costs[name].note or "" for name in measured}))
    return f"""## Where the numbers are from

Measured and counted by {commands}.
On your own machine, write another table with it and give it as `--costs`.

### Measured

{notes}. CPU time of one thread. So few inputs tell the time of a frame or a pair well enough, but not how many crops
and pairs there will be: look at those of your own with `python -m jobs.curate --dry-run`, and give them as `--costs`.

{costs_table(costs, sorted(measured))}
### Counted

{costs_table(costs, sorted(counted))}
### Assumed

{costs_table(costs, sorted(assumed))}"""

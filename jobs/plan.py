"""What a data set of any size takes: time, storage, cost and the bottleneck of every stage. Nothing is run.

    python -m jobs.plan --images 11.1M --clips 1.23M --gpus 8xH200
    python -m jobs.plan --config configs/sd15/plan.yaml --simulate 3000 --output docs/scale.md      the paper's data set
    python -m jobs.plan --images 200k --gpus 16xH100 --cpus 400 --storage-gb-s 5 --prices.gpu-hour 2 --costs mine.json

Reckoned from tables of costs, jobs/planning/measured.json and assumed.yaml, where every number says where it is from.
"""

import shlex
import sys

from jobs.config import load
from jobs.console import UserError, command_line, say
from jobs.planning import estimates
from jobs.planning.config import PlanConfig
from jobs.planning.costs import Costs, read_costs
from jobs.planning.estimates import Plan
from jobs.planning.page import write_page
from jobs.planning.report import aligned, simulation_line, tables
from jobs.planning.simulation import simulate

SPREAD = 0.5  # of the times in the simulation: inputs differ
BUFFER = 16  # places of each queue


def run(config: PlanConfig, command: str = "python -m jobs.plan") -> Plan:
    """Reckon, print, and write the page if one is asked for. Raises UserError."""
    costs = read_costs(config.costs)
    try:
        plan = estimates.reckon(config, costs)
        simulation = _simulated(config, costs, plan) if config.simulate else ""
    except ValueError as error:
        raise UserError(f"gpus = {config.gpus}, cpus = {config.cores}: {error}; give more") from error
    for table in tables(config, costs, plan):
        for line in aligned(table):
            say("plan", line)
    if simulation:
        say("simulate", simulation)
    if config.output:
        say("plan", f"page {write_page(config, costs, plan, simulation, command)}")
    return plan


def _simulated(config: PlanConfig, costs: Costs, plan: Plan) -> str:
    chain = estimates.simulated_chain(config, costs)
    seen = simulate(chain.stages, plan.cluster, int(config.simulate), buffer=BUFFER, spread=SPREAD, seed=config.seed)
    return simulation_line(config, costs, plan, seen)


@command_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the top of the file."""
    words = sys.argv[1:] if argv is None else argv
    run(load(PlanConfig, words, "python -m jobs.plan"), shlex.join(["python", "-m", "jobs.plan", *words]))


if __name__ == "__main__":
    main()

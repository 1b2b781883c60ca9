"""DynamicID's results from nothing: data, trainings, pictures, tables and figures. What is finished is skipped.

    python -m jobs.reproduce_people                    hours of two cores; stop it and start it again as you like
    python -m jobs.reproduce_people --preset quick     shows that everything works, and is never a result
    python -m jobs.reproduce_people --minutes 100      begins no further training or series of pictures after that

<output>                      dataset, runs, albums of held-out people
docs/results/dynamicid.md     the page; its figures, and what was read of every picture, lie in docs/results/dynamicid/
"""

import json
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from evaluation.people_scores import Standing, copying, guessing, score_people
from flexip.checkpoint import load_people
from flexip.faces import open_faces
from flexip.images import Rgb, decode_image, encode_png
from flexip.pocket import weights_path
from jobs.cluster import ray_session
from jobs.config import JobConfig, RayConfig, load
from jobs.console import command_line, say
from jobs.reproduction.people_albums import album_of
from jobs.reproduction.people_drawing import base_engine
from jobs.reproduction.people_figures import FRONT, activation_rows, motion_grid, stacked
from jobs.reproduction.people_page import PeopleComparison, Round, write_people_page
from jobs.reproduction.people_plan import CONTROLS, DRAWN, PRESETS, Scenario
from jobs.reproduction.people_trials import Clock, Here, PeopleTrial, archived, case_of, readings_of, trained
from jobs.reproduction.place import OutOfTime, Place


class ReproducePeopleConfig(JobConfig):
    """Compare DynamicID with its ablations and with copies, from nothing to the page of its results."""

    preset: Literal["full", "quick", "smoke"] = Field(default="full", description="how much of it")
    output: Path | None = Field(default=None, description="working directory; by default runs/reproduce-people-PRESET")
    page: Path | None = Field(
        default=None,
        description="page to write; by default docs/results/dynamicid.md, or <output>/dynamicid.md of another preset",
    )
    recipe: Path = Field(
        default=Path("configs/pocket/reproduce_people.yaml"), description="what all trainings have in common"
    )
    minutes: float = Field(default=1e9, gt=0, description="begin nothing further after so long [min]")
    ray: RayConfig = Field(default=RayConfig(), description="where curation and training run")


def run(config: ReproducePeopleConfig) -> Path | None:
    """Does what is missing and writes the page; None when the minutes were over before that.

    Raises:
        UserError and the jobs' own errors: a recipe or an output that cannot be used.
    """
    clock = Clock(time.monotonic() + 60 * config.minutes)
    whole = config.preset == "full"
    output = (config.output or Path(f"runs/reproduce-people-{config.preset}")).resolve()
    page = (config.page or (Path("docs/results/dynamicid.md") if whole else output / "dynamicid.md")).resolve()
    recipe, preset = config.recipe.resolve(), PRESETS[config.preset]
    place = Place(output, page.with_suffix(""), recipe, weights_path(), preset, config.ray)
    with ray_session(config.ray):
        try:
            comparison = _compare(place, clock)
        except OutOfTime as stopped:
            say("reproduce", f"{config.minutes:g} minutes are over; next would be {stopped}; start again to go on")
            return None
    words = "python -m jobs.reproduce_people" + ("" if whole else f" --preset {config.preset}")
    write_people_page(comparison, page, words)
    say("reproduce", f"{page}, figures and readings in {place.archive}")
    return page


def _compare(place: Here, clock: Clock) -> PeopleComparison:
    rounds = [_round(place, scenario, clock) for scenario in place.preset.scenarios]
    first = place.preset.scenarios[0]
    grid, activations = _figures(place, clock)
    return PeopleComparison(
        preset=place.preset,
        rounds=rounds,
        grid=grid,
        activations=activations,
        facts={
            method.title: json.loads(archived(place, PeopleTrial(method, first)).with_suffix(".json").read_text())
            for method in DRAWN
        },
    )


def _round(place: Here, scenario: Scenario, clock: Clock) -> Round:
    """All methods and controls for so many people in a picture."""
    trials = [PeopleTrial(method, scenario) for method in (*DRAWN, *CONTROLS)]
    readings = [readings_of(place, trial, clock) for trial in trials]
    case = case_of(scenario)
    standings = [
        Standing(trial.method.name, trial.method.title, score_people(one, case))
        for trial, one in zip(trials, readings, strict=True)
    ]
    standings.append(Standing("copying", "copying, by the cells alone", copying(case)))
    standings.append(Standing("guessing", "guessing", guessing(case)))
    strips = [(trial.method.title, archived(place, trial).with_suffix(".png")) for trial in (trials[-1], *trials[:-2])]
    return Round(scenario, standings, strips)


def _figures(place: Here, clock: Clock) -> tuple[Rgb, Rgb]:
    """The grid and the activation maps, drawn by DynamicID; kept beside its readings."""
    scenario = place.preset.scenarios[0]
    path = archived(place, PeopleTrial(DRAWN[0], scenario))
    files = [path.with_name(f"{path.stem}-{name}.png") for name in ("grid", "activations")]
    if not all(file.is_file() for file in files):
        library = open_faces("pocket")
        engine = load_people(base_engine(), trained(place, DRAWN[0], clock), library)
        albums = [album_of(number, [FRONT], library, place.output / "albums") for number in range(3)]
        rows = [activation_rows(engine, albums[: one.people], one) for one in place.preset.scenarios]
        files[0].write_bytes(encode_png(motion_grid(engine, albums[0], scenario)))
        files[1].write_bytes(encode_png(stacked(rows)))
    grid, activations = (decode_image(file.read_bytes()) for file in files)
    return grid, activations


@command_line
def main(argv: list[str] | None = None) -> None:
    """The command line; see `--help`."""
    run(load(ReproducePeopleConfig, argv, "python -m jobs.reproduce_people"))


if __name__ == "__main__":
    main()

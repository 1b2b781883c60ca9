"""The whole comparison from nothing: data, trainings, sweeps, tables and figures. What is finished is skipped.

    python -m jobs.reproduce                    hours of two cores; stop it and start it again as you like
    python -m jobs.reproduce --preset quick     45 minutes: shows that everything works, and is never a result
    python -m jobs.reproduce --minutes 100      begins no further trial after that

<output>          world, dataset, runs
docs/results.md   the page; its figures, and what was read of every picture, lie in docs/results/
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from evaluation.comparison import Scores
from evaluation.pocket import EDITS, Truth, ceiling, truth_of
from evaluation.readings import Readings, agreement, scored
from evaluation.results import Contender, Control, chance
from flexip.encoders import load_encoders
from flexip.images import resize
from flexip.pocket import weights_path
from flexip.pocket.identity import identity
from jobs.cluster import ray_session
from jobs.config import JobConfig, RayConfig, load
from jobs.console import command_line, say
from jobs.reproduction.page import Comparison, write_page
from jobs.reproduction.place import OutOfTime, Place
from jobs.reproduction.plan import ABLATIONS, BASE, BASELINES, FLEXIP, PRESETS, Method
from jobs.reproduction.trials import Trial, archived, read, readings_of
from jobs.reproduction.worlds import held_out


class ReproduceConfig(JobConfig):
    """Compare FlexIP with its baselines and ablations, from nothing to the results page."""

    preset: Literal["full", "quick", "smoke"] = Field(default="full", description="how much of it")
    output: Path | None = Field(default=None, description="working directory; by default runs/reproduce[-preset]")
    page: Path | None = Field(
        default=None, description="page to write; by default docs/results.md, or <output>/results.md of another preset"
    )
    recipe: Path = Field(default=Path("configs/pocket/reproduce.yaml"), description="what all trainings have in common")
    minutes: float = Field(default=1e9, gt=0, description="begin no further trial after so long [min]")
    ray: RayConfig = Field(default=RayConfig(), description="where curation and training run")


def run(config: ReproduceConfig) -> Path | None:
    """Does what is missing and writes the page; None when the minutes were over before that.

    Raises:
        UserError and the jobs' own errors: a recipe or an output that cannot be used.
    """
    deadline = time.monotonic() + 60 * config.minutes
    whole = config.preset == "full"
    output = (config.output or Path("runs/reproduce" if whole else f"runs/reproduce-{config.preset}")).resolve()
    page = (config.page or (Path("docs/results.md") if whole else output / "results.md")).resolve()
    recipe, preset = config.recipe.resolve(), PRESETS[config.preset]
    place = Place(output, page.with_suffix(""), recipe, weights_path(), preset, config.ray)
    with ray_session(config.ray):
        try:
            comparison = compare(place, deadline)
        except OutOfTime as stopped:
            say("reproduce", f"{config.minutes:g} minutes are over; next would be {stopped}; start again to go on")
            return None
    words = "python -m jobs.reproduce" + ("" if whole else f" --preset {config.preset}")
    write_page(comparison, page, words)
    say("reproduce", f"{page}, figures and readings in {place.archive}")
    return page


def compare(place: Place, deadline: float) -> Comparison:
    """Each method on validation first, then on the test split, opened with what validation chose."""
    preset, methods = place.preset, (FLEXIP, *BASELINES)
    areas, trials = dict[Method, dict[float, float]](), dict[Method, list[Trial]]()
    for method in methods:
        found = areas[method] = _areas(place, method, deadline)
        best = max(found, key=found.__getitem__)
        trials[method] = [Trial(method, seed, preset.main, best) for seed in preset.seeds]
        first = trials[FLEXIP][0]
        alike = [first, _base(first), replace(first, sweep=preset.ablation)] if method is FLEXIP else trials[method][:1]
        for trial in alike:  # all of a training, which may be gone with its machine before the others are made
            _readings(place, trial, deadline)
    for of_seed in zip(*trials.values(), strict=True):  # a whole comparison of the second seed before the third
        for trial in of_seed:
            _readings(place, trial, deadline)
    truth = truth_of([identity("test", k) for k in range(preset.main.creatures)])
    first, others = trials[FLEXIP][0], ABLATIONS if preset.ablations else ()
    contenders = [_contender(place, trials[method], truth, deadline) for method in methods]
    whole, *ablations = [
        _contender(place, [replace(first, method=method, sweep=preset.ablation)], truth, deadline)
        for method in (FLEXIP, *others)
    ]
    return Comparison(
        preset=preset,
        contenders=contenders,
        whole=whole,
        ablations=ablations,
        controls=_controls(place, first, truth, deadline),
        corner=chance(truth),
        strips=[(m.title, archived(place, trials[m][0]).with_suffix(".png")) for m in methods],
        chosen={m.title: {f"{g:g}": area for g, area in found.items()} for m, found in areas.items()},
        facts=_facts(place, first),
    )


def _base(trial: Trial) -> Trial:
    """The base model as the trial draws it: its checkpoint with both weights zero."""
    return replace(trial, method=BASE, sweep=replace(trial.sweep, settings=1))


def _readings(place: Place, trial: Trial, deadline: float) -> Readings:
    if time.monotonic() > deadline and not archived(place, trial).is_file():
        raise OutOfTime(trial.name)
    return readings_of(place, trial)


def _areas(place: Place, method: Method, deadline: float) -> dict[float, float]:
    """Area above chance that a method's dial dominates on validation, by guidance."""
    sweep = place.preset.choosing
    truth = truth_of([identity(sweep.split, k) for k in range(sweep.creatures)])
    areas = {}
    for guidance in place.preset.guidances:
        trial = Trial(method, place.preset.seeds[0], sweep, guidance)
        scores = _scores([trial], [_readings(place, trial, deadline)], truth)
        areas[guidance] = float(scores.sweep(method.title, chance(truth)).area.mean)
    say("choose", f"{method.title}: " + ", ".join(f"guidance {g:g} {area:.3f}" for g, area in areas.items()))
    return areas


def _scores(trials: Sequence[Trial], readings: Sequence[Readings], truth: Truth) -> Scores:
    grids = [scored(one, truth) for one in readings]
    identity, edit = (np.stack([grid[axis] for grid in grids]) for axis in (0, 1))
    return Scores(np.array(trials[0].dial), identity, edit)


def _contender(place: Place, trials: Sequence[Trial], truth: Truth, deadline: float) -> Contender:
    readings = [_readings(place, trial, deadline) for trial in trials]
    facts = [_facts(place, trial) for trial in trials]
    seconds = [f["training"]["steps"] * f["training"]["batch_size"] / f["speed"]["samples_per_second"] for f in facts]
    method = trials[0].method
    return Contender(
        name=method.name,
        title=method.title,
        guidance=trials[0].guidance,
        scores=_scores(trials, readings, truth),
        cosines={kind: np.stack([getattr(one, kind) for one in readings]) for kind in ("dino", "clip", "text")},
        agreement=float(np.mean([agreement(one) for one in readings])),
        parameters=facts[0]["parameters"],
        minutes=float(np.mean(seconds)) / 60,
    )


def _facts(place: Place, trial: Trial) -> dict:
    return json.loads(archived(place, trial).with_suffix(".json").read_text())


def _controls(place: Place, trial: Trial, truth: Truth, deadline: float) -> list[Control]:
    """The base model, the wrong reference, a copy of the reference, and the perfect answers."""
    creatures = held_out("test", trial.sweep.creatures)
    others = truth_of([creature.who for creature in [*creatures[1:], creatures[0]]])
    strongest = _readings(place, trial, deadline)
    encoders, shape = load_encoders(), (len(creatures), len(EDITS), 1, 1, 64, 64, 3)
    copies = np.broadcast_to(
        np.stack([resize(creature.reference, (64, 64)) for creature in creatures])[:, None, None, None], shape
    )
    perfect = np.stack(ceiling([creature.who for creature in creatures])).reshape(shape)
    identity, _ = scored(strongest, others)
    wrong = Control("read as another creature (gamma 1)", float(np.nanmean(identity[..., -1])), float("nan"), {})
    return [
        Control("guessing", *chance(truth), {}),
        _control("the base model", _readings(place, _base(trial), deadline), truth),
        wrong,
        _control("a copy of the reference", read(place, encoders, creatures, copies), truth),
        _control("the perfect answer, rendered", read(place, encoders, creatures, perfect), truth),
    ]


def _control(title: str, readings: Readings, truth: Truth) -> Control:
    kept, obeyed = scored(readings, truth)
    cosines = {kind: float(getattr(readings, kind).mean()) for kind in ("dino", "clip", "text")}
    return Control(title, float(np.nanmean(kept)), float(np.nanmean(obeyed)), cosines)


@command_line
def main(argv: list[str] | None = None) -> None:
    """The command line; see `--help`."""
    run(load(ReproduceConfig, argv, "python -m jobs.reproduce"))


if __name__ == "__main__":
    main()

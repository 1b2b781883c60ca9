"""The page of DynamicID's results and its figures, from the readings of all trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.people import CELLS, picture_size
from evaluation.people_scores import Standing, people_table, people_verdicts
from evaluation.sheet import draw_strips
from flexip.images import Rgb, decode_image, encode_png
from flexip.pocket.face import EXPRESSIONS
from jobs.reproduction.people_plan import PeoplePreset, Scenario

_NUMBERS = {1: "One person", 2: "Two people", 3: "Three people"}
_READING = (
    "Everybody is read in their own place of the picture, cut out without the neighbours and enlarged to the size that "
    "the oracles know, and places are given to people by the best assignment of their faces, for all methods alike: "
    "plain concatenation cannot be told who is to stand where.",
    "**face similarity**: cosine of the identity net with the face of the source, 0 where no creature is seen; the "
    "same net gives DynamicID its identity vector. **identity kept**: share of the seven attributes of identity that "
    "two oracles read right; they condition nothing. **expression**, **pose**: share that shows what was asked for, of "
    "all cells, and (**new**) of those whose source shows another. **leakage**: share of faces that are nearer to "
    "somebody else's source than to their own. **borrowed**: share of the attributes in which others differ that are "
    "read as one of these others'. **in place**: share of people who stand where they were asked to. **CLIP-T** with "
    "the sentence that says the scene, and share of pictures that show this **scene**.",
)


@dataclass(frozen=True)
class Round:
    """The results for so many people in a picture; strips in the order of the standings that have pictures."""

    scenario: Scenario
    standings: Sequence[Standing]
    strips: Sequence[tuple[str, Path]]

    @property
    def by_name(self) -> dict[str, Standing]:
        """The standings."""
        return {one.name: one for one in self.standings}


@dataclass(frozen=True)
class PeopleComparison:
    """All that the page is made of."""

    preset: PeoplePreset
    rounds: Sequence[Round]  # of one person first
    grid: Rgb
    activations: Rgb
    facts: Mapping[str, Mapping]  # title of a method -> what is kept beside its readings


def write_people_page(comparison: PeopleComparison, page: Path, command: str) -> None:
    """Writes the page, and its figures into the folder of the page's own name."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for one in comparison.rounds:
        rows = [(title, decode_image(path.read_bytes())) for title, path in one.strips]
        (folder / f"people-{one.scenario.people}.png").write_bytes(encode_png(draw_strips(rows, side=64)))
    (folder / "grid.png").write_bytes(encode_png(comparison.grid))
    (folder / "activations.png").write_bytes(encode_png(comparison.activations))
    page.write_text("\n".join(_lines(comparison, folder.name, command)) + "\n")


def _lines(c: PeopleComparison, folder: str, command: str) -> list[str]:
    by_people = {one.scenario.people: one for one in c.rounds}
    double = by_people[2].by_name if 2 in by_people else None
    return [
        "# DynamicID, on the pocket world",
        "",
        f"Written by `{command}`; nothing here was typed by hand. FlexIP has its own: [results.md](../results.md).",
        "",
        "Creatures that no model has seen in training are drawn in a scene, each from one picture (the source) and "
        "with an expression and a pose that are asked for. Prompts say the scene alone, but in the rows that say "
        f"otherwise. {_balance(c.rounds[0].scenario)} Brackets are 95% intervals of a bootstrap over people, or over "
        "groups of people who are drawn together: nobody is in two groups.",
        "",
        *(line for paragraph in _READING for line in (paragraph, "")),
        "## What was hoped for",
        "",
        *people_verdicts(by_people[1].by_name, double),
        "",
        *(line for one in c.rounds for line in _round(one, folder)),
        "## Expressions and poses",
        "",
        "The first person of the test split from one picture (left), poses from fully left to fully right in rows, "
        f"expressions in columns: {', '.join(EXPRESSIONS)}.",
        "",
        f"![Grid of expressions and poses]({folder}/grid.png)",
        "",
        "## Where each person acts",
        "",
        "Sources, the picture, and over it the activation w of each person, the mean over layers and steps, from its "
        "least value (blue) to its most (red).",
        "",
        f"![Activation maps]({folder}/activations.png)",
        "",
        "## How it was made",
        "",
        *_recipe(c),
    ]


def _balance(scenario: Scenario) -> str:
    if scenario.cells == CELLS and scenario.groups % CELLS == 0:
        return (
            "Every one of the 35 motions of a source meets every one of the 35 that are asked for equally often, so "
            "that a copy of the source is right by chance, in 1/7 of expressions and 1/5 of poses, and never in the "
            "cells where source and target differ."
        )
    return "This preset has too few pictures to balance sources against targets: its numbers are no results."


def _round(one: Round, folder: str) -> list[str]:
    height, width = picture_size(one.scenario.people)
    count = one.scenario.groups * one.scenario.cells
    return [
        f"## {_NUMBERS[one.scenario.people]}",
        "",
        f"{count} pictures of {width} x {height} px by each method, of {one.scenario.groups * one.scenario.people} "
        f"people. What can be reached at all stands in the rows of the truth: read from perfect answers, and from "
        "these after the VAE, which every drawn picture has come through.",
        "",
        *people_table(one.standings, one.scenario.people),
        "",
        f"![Pictures]({folder}/people-{one.scenario.people}.png)",
        "",
    ]


def _recipe(c: PeopleComparison) -> list[str]:
    facts, preset = next(iter(c.facts.values())), c.preset
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    scenarios = "; ".join(
        f"{s.people}: {s.groups} groups, {s.cells} cells, {s.steps} steps of {s.solver}, guidance {s.guidance:g}"
        for s in (one.scenario for one in c.rounds)
    )
    return [
        f"{preset.faces.train} people to train on, 35 pictures each; {preset.anchoring} steps of anchoring and "
        f"{preset.reconfiguration} of reconfiguration, with SAA and without, each once from seed 0. Drawn by number "
        f"of people: {scenarios}. Of one person, {facts['sources']} source pictures were looked at, and "
        f"{facts['retakes']} more were taken in vain: the face library found no face in them, or several.",
        "",
        "| | stored parameters | pictures a second in its last training | minutes of drawing and reading one person |",
        "|---|---|---|---|",
        *(
            f"| {title} | {one['parameters']} | {one['speed']['samples_per_second']:.1f} | "
            f"{one['seconds_of_drawing'] / 60:.0f} |"
            for title, one in c.facts.items()
        ),
        "",
        f"Machine: {facts['machine']}; {versions}. The recipe is `configs/pocket/reproduce_people.yaml`; what each "
        "method has otherwise, and what is drawn, stand in `jobs/reproduction/people_plan.py`; readings of every "
        "picture lie beside the figures.",
    ]

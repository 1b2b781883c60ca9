"""docs/results.md and its figures, from the readings of all trials."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.figures import curves_figure, plane_figure
from evaluation.results import (
    Contender,
    Control,
    ablation_table,
    comparison_table,
    control_table,
    dial_table,
    verdicts,
)
from evaluation.sheet import draw_strips
from flexip.images import decode_image, encode_png
from jobs.reproduction.plan import Preset


@dataclass(frozen=True)
class Comparison:
    """All that the page is made of; the first contender is FlexIP."""

    preset: Preset
    contenders: Sequence[Contender]
    whole: Contender  # FlexIP as the ablations are drawn
    ablations: Sequence[Contender]
    controls: Sequence[Control]
    corner: tuple[float, float]  # chance
    strips: Sequence[tuple[str, Path]]  # title and picture of each contender
    chosen: Mapping[str, Mapping[str, float]]  # contender -> guidance -> area on validation
    facts: Mapping[str, object]  # of the first trial, as kept beside its readings


def write_page(comparison: Comparison, page: Path, command: str) -> None:
    """Writes the page, and its figures into the folder of the page's own name."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    sweeps = [contender.sweep(comparison.corner) for contender in comparison.contenders]
    controls = {control.title: (control.identity, control.edit) for control in comparison.controls}
    (folder / "curves.svg").write_text(curves_figure(sweeps))
    (folder / "plane.svg").write_text(plane_figure(sweeps, {}, controls))
    rows = [(title, decode_image(path.read_bytes())) for title, path in comparison.strips]
    (folder / "strips.png").write_bytes(encode_png(draw_strips(rows, side=64)))
    page.write_text("\n".join(_lines(comparison, folder.name, command)) + "\n")


def _lines(c: Comparison, folder: str, command: str) -> list[str]:
    main, corner = c.preset.main, c.corner
    creatures, pictures = main.creatures, main.creatures * 8 * main.noises * main.settings
    return [
        "# FlexIP against IP-Adapter, on the pocket world",
        "",
        f"Written by `{command}`; nothing here was typed by hand. DynamicID, people with expressions of their own, "
        "has another page, by `python -m jobs.reproduce_people`: [dynamicid.md](results/dynamicid.md).",
        "",
        f"{creatures} creatures that no model has seen in training, 8 edits (scene, expression, pose, style; no "
        f"prompt says who), {main.noises} noises, {main.settings} settings of each dial: {pictures} pictures of each "
        f"training, {len(c.preset.seeds)} trainings of each method on the same data, for the same {c.preset.steps} "
        "steps of the same batches, from the same seeds. Identity kept is the share of the creature's attributes "
        "that two oracles read right, of those that show in that style and pose; edit obeyed is the share of right "
        "values among what the prompt states. Both oracles saw neither the methods nor these creatures. Brackets are "
        "95% intervals of a bootstrap over trainings and creatures.",
        "",
        "## What was hoped for",
        "",
        *verdicts(c.contenders, corner),
        "",
        "## Identity against edit",
        "",
        f"![Curves over the dial]({folder}/curves.svg)",
        "",
        f"![Identity against edit]({folder}/plane.svg)",
        "",
        "Paths lead from one end of the dial to the other (gamma 0 to 1; a baseline's scale 0 to 1.5). The area is "
        f"what the settings dominate above chance, identity {corner[0]:.3f} and edit {corner[1]:.3f}; the last column "
        "but three is paired by training seed and creature.",
        "",
        *comparison_table(c.contenders, corner),
        "",
        "(a) and (b) are IP-Adapter's own adapters; (c) and (d) see what FlexIP sees with as many parameters, and (d) "
        "also has a scale by dataset in training: only the comparison with (d) is about decoupling.",
        "",
        "What the numbers are worth:",
        "",
        *control_table(c.controls),
        "",
        *_parts(c, folder),
    ]


def _parts(c: Comparison, folder: str) -> list[str]:
    """The dial, the ablations, the pictures, and how it was made."""
    return [
        "## The dial",
        "",
        "Kendall's tau of the setting against the mean; the largest step between two of "
        f"{c.preset.main.settings} settings as a share of the range: of the mean, of single pictures (one creature, "
        "edit, noise), and of these after each dial was relabelled so that its mean rises evenly.",
        "",
        *dial_table(c.contenders, c.corner),
        "",
        "## Without its parts",
        "",
        f"One training each, {c.preset.ablation.settings} settings, {c.preset.ablation.steps} steps of denoising, "
        "guidance as chosen for FlexIP; intervals over creatures.",
        "",
        *(ablation_table(c.whole, c.ablations, c.corner) if c.ablations else ["Left out of this preset."]),
        "",
        "## Pictures",
        "",
        "The first eight creatures of the test split, an edit each, nothing chosen. Left the reference.",
        "",
        f"![Strips of pictures]({folder}/strips.png)",
        "",
        "## How it was made",
        "",
        *_recipe(c),
    ]


def _recipe(c: Comparison) -> list[str]:
    chosen = [
        f"* {title}: " + ", ".join(f"guidance {g} gives {area:.3f}" for g, area in areas.items())
        for title, areas in c.chosen.items()
    ]
    versions = ", ".join(f"{name} {number}" for name, number in dict(c.facts["versions"]).items())  # type: ignore[call-overload]
    return [
        f"Guidance was chosen on {c.preset.choosing.creatures} validation creatures, by the area at "
        f"{c.preset.choosing.steps} steps of the first training; checkpoints are the averaged weights of the last "
        "step.",
        "",
        *chosen,
        "",
        "| | trained parameters | minutes of one training | both oracles read alike |",
        "|---|---|---|---|",
        *(
            f"| {one.title} | {one.parameters} | {one.minutes:.0f} | {100 * one.agreement:.1f}% |"
            for one in [*c.contenders, *c.ablations]
        ),
        "",
        f"Machine: {c.facts['machine']}; {versions}. Training pairs: {json.dumps(c.facts['dataset'])}. "
        "The recipe is `configs/pocket/reproduce.yaml`; what each method has otherwise, and what is drawn, stand in "
        "`jobs/reproduction/plan.py`; readings of every picture lie beside the figures.",
    ]

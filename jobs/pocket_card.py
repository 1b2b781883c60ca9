"""Measures the pocket models on identities that no training saw, and writes the figures into their model card.

python -m jobs.pretrain_pocket evaluate --prompts 500
"""

import hashlib
from pathlib import Path

import torch
from pydantic import Field

from flexip.images import encode_png
from flexip.pocket import weights_path
from flexip.pocket.face_nets import FACE_NETS, face_net_path
from flexip.pocket.models import total_bytes
from flexip.pocket.oracle import ORACLES
from flexip.pocket.pretrain_data import load_renders
from flexip.pocket.pretrain_oracle import oracle_path
from flexip.pocket.quality import (
    STRENGTHS,
    Figure,
    draw_held_out,
    draw_prompts,
    grid,
    load_judges,
    load_pipe,
    measure_encoders,
    measure_faces,
    measure_image_to_image,
    measure_oracles,
    measure_patches,
    measure_prompts,
    measure_vae,
)
from jobs.config import JobConfig, load
from jobs.console import UserError, progress, say

BEGIN, END = "<!-- figures: written by `python -m jobs.pretrain_pocket evaluate` -->", "<!-- end of figures -->"


class CardConfig(JobConfig):
    """Measure the pocket models and write their model card."""

    directory: Path = Field(default=Path("runs/pretrain"), description="renders of held-out identities are kept here")
    weights: Path = Field(default_factory=weights_path, description="folder of the models")
    card: Path = Field(
        default_factory=lambda: weights_path().parent / "MODEL_CARD.md", description="file whose figures are replaced"
    )
    grid: Path = Field(
        default=Path("runs/pretrain/grid.png"), description="8 x 8 pictures drawn from held-out captions"
    )
    prompts: int = Field(default=500, ge=8, description="held-out pictures to read, and captions to draw")
    renders: int = Field(default=1024, ge=128, description="held-out pictures for the VAE and the encoders")
    crops: int = Field(
        default=3000,
        ge=64,
        description="pictures that readers of the encoders' patches learn from; a sixth as many are read",
    )
    reader_steps: int = Field(default=400, ge=1, description="training steps of such a reader")
    steps: int = Field(default=25, ge=1, description="denoising steps of text-to-image")
    threads: int = Field(default=2, ge=1, description="torch threads")
    seed: int = Field(default=1000, ge=0, description="of the held-out pictures and the noise")


def run(config: CardConfig) -> list[Figure]:
    """Measures everything, writes card and grid, and returns the figures.

    Raises:
        UserError: the card has no place for figures, or models are missing.
    """
    _split_card(config.card)
    for stage, paths in {
        "oracles": [oracle_path(config.weights, name) for name in ORACLES],
        "faces": [face_net_path(config.weights, name) for name in FACE_NETS],
    }.items():
        if missing := [path for path in paths if not path.is_file()]:
            raise UserError(f"weights = {config.weights}: no {missing[0].name}; train it with --stages {stage}")
    torch.set_num_threads(config.threads)
    held, renders = (
        draw_held_out(config.prompts, config.seed),
        load_renders(config.directory, config.renders, config.seed, "test"),
    )
    judges, pipe = load_judges(config.weights), load_pipe(config.weights)
    figures = measure_oracles(judges, held)
    figures += measure_vae(pipe, judges, held, renders)
    figures += measure_encoders(config.weights, pipe, renders, config.seed)
    figures += measure_patches(config.weights, config.seed, config.crops, config.reader_steps)
    figures += measure_faces(config.weights, renders, config.seed)
    with progress(-(-config.prompts // 25) + len(STRENGTHS), "draw", "batch") as bar:
        drawn = draw_prompts(pipe, held.captions, steps=config.steps, seed=config.seed, tick=bar.update)
        figures += measure_prompts(judges, drawn, held)
        figures += measure_image_to_image(pipe, judges, held, seed=config.seed, tick=bar.update)
    config.grid.parent.mkdir(parents=True, exist_ok=True)
    config.grid.write_bytes(encode_png(grid(drawn[:64])))
    _write_card(config, figures)
    for figure in figures:
        say("quality", _line(figure))
    say("card", f"{config.card}, grid {config.grid}")
    return figures


def main(argv: list[str]) -> None:
    """The command line after the word `evaluate`."""
    run(load(CardConfig, argv, "python -m jobs.pretrain_pocket evaluate"))


def _split_card(card: Path) -> tuple[str, str]:
    """What stands before and after the figures."""
    text = card.read_text() if card.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"card = {card}: needs the two lines {BEGIN!r} and {END!r}, once each")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def _write_card(config: CardConfig, figures: list[Figure]) -> None:
    before, after = _split_card(config.card)
    rows = [f"| {f.what} | {f.value:.1f} {f.unit} | {_asked(f)} |" for f in figures]
    table = ["| what | measured | asked for |", "|---|---|---|", *rows]
    megabytes = total_bytes(config.weights) / 1e6
    size = f"{config.prompts} held-out pictures and captions, seed {config.seed}; weights {megabytes:.1f} MB."
    hashes = ["| file | SHA-256 |", "|---|---|"] + [
        f"| `{path.relative_to(config.weights)}` | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |"
        for path in sorted(config.weights.rglob("*.safetensors"))
    ]
    config.card.write_text(before + "\n".join([BEGIN, "", size, "", *table, "", *hashes, "", END]) + after)


def _asked(figure: Figure) -> str:
    if figure.least is None:
        return ""
    return f"{figure.least:g} {figure.unit}" + ("" if figure.value >= figure.least else " **(not reached)**")


def _line(figure: Figure) -> str:
    asked = f" (asked for: {_asked(figure)})" if figure.least is not None else ""
    return f"{figure.what}: {figure.value:.1f} {figure.unit}{asked}".replace("**", "")

"""Writes docs/performance.md: what FlexIP costs beside its base model and beside diffusers' own IP-Adapters.

    python -m benchmarks.card                               what can be counted, on the meta device; no GPU, no weights
    python -m benchmarks.card --measured runs/device.json   also what `python -m benchmarks.device` has measured

The counts are of the full size, whatever the machine; a test holds their limits.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import sd15
from benchmarks.contenders import contenders, preparation
from benchmarks.flops import encoder_flops
from benchmarks.launches import Work, count
from flexip.adapters import AdapterConfig, Adapters
from flexip.cost import Cost, training_cost

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MOST_LAUNCHES, MOST_FLOPS = 1.08, 1.002  # of the base model's, of one UNet call
BASE, OURS, IMAGE_ALONE = "base", "FlexIP", "FlexIP, image tokens alone"
FIRST, ONCE = "FlexIP, first call of a picture", "FlexIP, once a picture, before its calls"
PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch")


def unet_calls() -> dict[str, Work]:
    """Work of one UNet call of one row at 512 px, by what is compared; FlexIP's without what the first call caches."""
    with torch.no_grad():
        with torch.device("meta"):
            unet = sd15.unet()
        calls = contenders(unet, AdapterConfig(), sd15.SHAPES, rows=1)
        first = {FIRST: count(calls[OURS])}
        count(calls[IMAGE_ALONE])
        works = {name: count(call) for name, call in calls.items()}
        return works | first | {ONCE: count(preparation(unet, AdapterConfig(), sd15.SHAPES, rows=1))}


def training(side: int) -> Cost:
    """Of one row, with the default adapters."""
    with torch.device("meta"):
        unet = sd15.unet(side)
    return training_cost(unet, AdapterConfig(), Adapters, sd15.SHAPES | {"vae": (8, side // 8, side // 8)})


def parameters() -> dict[str, int]:
    """Of each frozen model."""
    with torch.device("meta"):
        models = {
            "UNet": sd15.unet(),
            "VAE": sd15.vae(),
            "CLIP ViT-L/14, text": sd15.text_encoder(),
            "OpenCLIP ViT-H/14, image": sd15.clip().visual,
            "DINOv2-L": sd15.dino(),
        }
    return {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def calls_table(works: dict[str, Work]) -> str:
    """Launches and FLOPs, and of the base model's."""
    base = works[BASE]
    rows = [
        [
            name,
            str(work.launches),
            f"{work.launches / base.launches:.3f}",
            f"{work.flops / 1e9:.1f}",
            f"{work.flops / base.flops:.4f}",
        ]
        for name, work in works.items()
    ]
    return table(["one row at 512 px", "launches", "of base", "GFLOP", "of base"], rows)


def added_table(works: dict[str, Work]) -> str:
    """Which operators a call has more or less of than the base model's."""
    base = works[BASE].operators
    others = {name: works[name].operators for name in (OURS, "IP-Adapter", "IP-Adapter-Plus", "both IP-Adapters")}
    names = sorted({op for seen in others.values() for op in seen | base if seen[op] != base[op]})
    rows = [[op, *(f"{seen[op] - base[op]:+d}" for seen in others.values())] for op in names]
    return table(["operator", *others], rows)


def sizes_table(cost: Cost) -> str:
    """Parameters of what is frozen and of what is trained."""
    rows = [[name, "frozen", f"{number / 1e6:.2f}"] for name, number in parameters().items()]
    rows += [[f"`{name}`", "trained", f"{number / 1e6:.2f}"] for name, number in cost.parameters.items()]
    return table(["module", "", "M parameters"], [*rows, ["all that is trained", "", f"{cost.trained / 1e6:.2f}"]])


def training_table(costs: dict[int, Cost]) -> str:
    """FLOPs of a row of training and of encoding it."""
    rows = []
    for side, cost in costs.items():
        encoding = sum(encoder_flops(side).values())
        numbers = (cost.forward, cost.step, encoding)
        rows.append(
            [f"{side} px", *(f"{n / 1e9:.1f}" for n in numbers), f"{1 + encoding / cost.step:.2f}"],
        )
    return table(["a row", "forward, GFLOP", "step, GFLOP", "encoding it, GFLOP", "online of cached"], rows)


def counted() -> str:
    """The sections that every machine gives alike."""
    works, costs = unet_calls(), {side: training(side) for side in (512, 256)}
    tokens = costs[512].tokens
    return f"""## One UNet call, counted

A launch is an operator that does work: views are none, and an attention is one. At batch 1 a GPU waits for launches
rather than for arithmetic. FlexIP keeps keys and values of a picture's tokens and of its text over the steps; diffusers
projects both in every call. A test holds FlexIP's launches at {MOST_LAUNCHES:g} of the base model's at most, and its
FLOPs at {MOST_FLOPS:g}.

{calls_table(works)}
What a call has more of than the base model's, or less:

{added_table(works)}
## Sizes

Tokens of a row: {tokens["preservation"]} of the image (16 + 4), {tokens["personalization"]} of personalization,
{tokens["text"]} of the text.

{sizes_table(costs[512])}
## Training, counted

The UNet is frozen: no gradients of its weights. Features that were computed beforehand save the encoding.

{training_table(costs)}"""


def measured(files: Sequence[Path]) -> str:
    """The sections of the given reports of `benchmarks.device`."""
    if not files:
        return """## On a GPU

Not measured yet. On a machine with one:

```bash
python -m benchmarks.device --output runs/device.json
python -m benchmarks.card --measured runs/device.json
```
"""
    parts = []
    for file in files:
        report = json.loads(file.read_text())
        tables = "\n".join(f"{part['title']}\n\n{table(part['header'], part['rows'])}" for part in report["tables"])
        parts.append(f"## {report['machine']}\n\n`{report['command']}`, {report['versions']}.\n\n{tables}")
    return "\n".join(parts)


def versions() -> str:
    """Of what decides the counts and times."""
    return ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def page(files: Sequence[Path] = ()) -> str:
    """The whole document."""
    return f"""# Performance

Written by `python -m benchmarks.card`, not by hand. Counted on the meta device, which any machine has alike, with
Python {platform.python_version()}, {versions()}.

{counted()}
{measured(files)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, nargs="*", default=[], help="what benchmarks.device wrote")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    options.output.write_text(page(options.measured))
    print(f"card      {options.output}")


if __name__ == "__main__":
    main()

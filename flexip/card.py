"""The model card of a checkpoint: what it is, what it was trained on, what its gate means, and what it cannot do."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from flexip.calibration import Calibration

LIMITS = """\
* A reference shows one side of its subject, and nothing is known of the others. Several references of one subject help.
* A gamma towards 1 copies the reference, its pose and light included; towards 0 it may lose the subject. The curve
  between them holds for subjects like those it was measured on.
* Prompts end after the text encoder's length, {length} tokens.
* Pictures of people need their consent. Receipts say that a picture is generated; nothing else marks it.
* The base model has a licence and biases of its own, which these adapters neither lift nor remove.
"""

USE = """\
```python
from flexip.gate import Gate
from flexip.hub import from_pretrained
from flexip.images import decode_image

engine = from_pretrained("{name}")
reference = decode_image(open("subject.png", "rb").read())
conditioning = engine.model.condition(
    engine.pipe,
    prompt=["in the snow"],
    subjects=engine.encoders.encode_references([reference]),
    gate=Gate.dial([0.7]),  # 1 keeps the identity, 0 obeys the prompt
    guidance_scale=5.0,
)
image = engine.pipe(**conditioning, guidance_scale=5.0).images[0]
```
"""


def model_card(
    config: Mapping[str, Any], name: str, licence: str, data: Sequence[str] = (), files: Mapping[str, str] | None = None
) -> str:
    """README.md for a checkpoint, with the metadata that the Hub reads at its head.

    Args:
        config: the checkpoint's `config.json`. name: of the repository or folder. licence: of the adapters, as the Hub
            spells it. data: lines on what it was trained on. files: further files of the folder, with what they are.
    """
    sections = {
        f"# {name}": _summary(config),
        "## Use": USE.format(name=name),
        "## Training data": _list(data) or "Not told by who made this card.\n",
        "## Training": _list(_training(config)),
        "## What gamma keeps": _calibration(config),
        "## Encoders": _encoders(config),
        "## Files": _list(_files(files or {})),
        "## Limits": LIMITS.format(length=77),
        "## Licence": f"The adapters: {licence}. The models beside them have licences of their own.\n",
    }
    body = "\n".join(f"{title}\n\n{text}" for title, text in sections.items())
    return f"---\n{yaml.safe_dump(_metadata(config, licence), sort_keys=False)}---\n\n{body}"


def _metadata(config: Mapping[str, Any], licence: str) -> dict[str, Any]:
    base = config["encoders"]["base"]
    metadata: dict[str, Any] = {"license": licence, "library_name": "flexip", "pipeline_tag": "text-to-image"}
    if "/" in base and not base.startswith(("/", ".")):  # a hub name; a path of this machine says nothing to others
        metadata |= {"base_model": base, "base_model_relation": "adapter"}
    return metadata | {"tags": ["flexip", "stable-diffusion", "diffusers", "subject-driven", "ip-adapter"]}


def _summary(config: Mapping[str, Any]) -> str:
    architecture = config["architecture"]
    if architecture.get("method") == "dynamicid":
        return (
            "DynamicID for Stable Diffusion 1.5: several people in one picture, each with an expression and a pose.\n"
        )
    return (
        "Adapters for Stable Diffusion 1.5 that bring the subject of a picture into a new one, with a dial between "
        "keeping its identity and obeying the prompt "
        f"([FlexIP](https://arxiv.org/abs/2504.07405); method `{architecture.get('method', 'flexip')}`).\n"
    )


def _training(config: Mapping[str, Any]) -> list[str]:
    training = config.get("training") or {}
    told = [f"{key}: {training[key]}" for key in ("steps", "batch_size", "precision", "seed") if key in training]
    for section in ("mixture", "gate", "drops", "optimizer"):
        values = training.get(section) or {}
        told += [f"{section}: " + ", ".join(f"{key} {value}" for key, value in values.items())] if values else []
    return told or ["not told by the checkpoint"]


def _calibration(config: Mapping[str, Any]) -> str:
    if not config.get("calibration"):
        return "Not measured; `python -m jobs.calibrate` measures it on held-out subjects.\n"
    curve = Calibration(**config["calibration"])
    rows = "".join(f"| {g:g} | {i:.3f} |\n" for g, i in zip(curve.gammas, curve.identity, strict=True))
    said = f"{curve.metric}, mean over {curve.subjects} subjects held out from training, made monotone."
    return f"{said}\n\n| gamma | identity |\n|---|---|\n{rows}"


def _encoders(config: Mapping[str, Any]) -> str:
    marks = ", ".join(f"{family} {mark}" for family, mark in config["fingerprints"].items())
    return _list([f"{kind}: `{name}`" for kind, name in config["encoders"].items()] + [f"fingerprints: {marks}"])


def _files(others: Mapping[str, str]) -> list[str]:
    known = {
        "adapters.safetensors": "the adapters by name",
        "config.json": "architecture, encoders, training, calibration",
    }
    return [f"`{name}`: {meaning}" for name, meaning in (known | dict(others)).items()]


def _list(lines: Sequence[str]) -> str:
    return "".join(f"* {line}\n" for line in lines)

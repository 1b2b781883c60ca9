"""Where the files of the frozen models lie, and what to fetch when they are not there."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from flexip import pocket

Part = Literal["base", "clip", "dino"]
Needs = Sequence[tuple[str, ...]]  # files, each with others that would do instead of it

PAPER: Mapping[Part, str] = {  # hub names of the paper's models
    "base": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "clip": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "dino": "facebook/dinov2-large",
}
NEEDS: Mapping[Part, Needs] = {
    "base": [
        ("model_index.json",),
        ("scheduler/scheduler_config.json",),
        ("text_encoder/config.json",),
        ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
        ("tokenizer/tokenizer_config.json",),
        ("tokenizer/vocab.json", "tokenizer/tokenizer.json"),
        ("tokenizer/merges.txt", "tokenizer/tokenizer.json"),
        ("unet/config.json",),
        ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin"),
        ("vae/config.json",),
        ("vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin"),
    ],
    "clip": [
        ("open_clip_config.json",),
        ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    ],
    "dino": [
        ("config.json",),
        ("model.safetensors", "pytorch_model.bin"),
        ("preprocessor_config.json",),
    ],
}
_POCKET: Mapping[Part, str] = {"base": "", "clip": "open_clip", "dino": "dino"}  # below the pocket weights


class WeightsError(ValueError):
    """A frozen model that is not there. The message says which files to fetch, from where and into which folder."""


def model_folder(part: Part, name: str) -> Path:
    """The folder of a frozen model, complete: "pocket", a local folder, or a hub name, fetched unless it is cached.

    With HF_HUB_OFFLINE=1 nothing is fetched. open_clip's own `local-dir:` and `hf-hub:` before a name are understood.

    Raises:
        WeightsError: files are missing, and cannot be fetched.
    """
    if name == "pocket":
        return pocket.weights_path() / _POCKET[part]
    name = re.sub("^(local-dir|hf-hub):", "", name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if missing := _missing(part, folder):
            raise WeightsError(f"{part} = {name}: lacks {', '.join(missing)}; {_command(part, folder, missing)}")
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise WeightsError(f"{part} = {name}: no such folder; {_command(part, folder, [])}, or give a hub name")
    return _from_hub(part, name)


def _from_hub(part: Part, name: str) -> Path:
    """The hub's snapshot, of which no more is fetched than is needed."""
    from huggingface_hub import constants, snapshot_download

    wanted, folder, reason = [need[0] for need in NEEDS[part]], None, "it has no such files"
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted))
        if missing := _missing(part, folder):  # perhaps in another format
            others = [other for need in NEEDS[part] if need[0] in missing for other in need[1:]]
            folder = Path(snapshot_download(name, allow_patterns=[*wanted, *others]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
    missing = _missing(part, folder) if folder else wanted
    if folder and not missing:
        return folder
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE forbids to fetch it"
    raise WeightsError(
        f"{part} = {name}: {', '.join(missing)} not in {constants.HF_HUB_CACHE} ({reason}); where there is a network: "
        f"hf download {name} {' '.join(missing)}, which fills that folder; with --local-dir FOLDER, {part} = FOLDER"
    )


def _missing(part: Part, folder: Path) -> list[str]:
    return [need[0] for need in NEEDS[part] if not any((folder / file).is_file() for file in need)]


def _command(part: Part, folder: Path, missing: Sequence[str]) -> str:
    files = missing or [need[0] for need in NEEDS[part]]
    return f"for the paper's: hf download {PAPER[part]} {' '.join(files)} --local-dir {folder}"

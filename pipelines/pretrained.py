"""Weights that curation's stages may be told to use: loaded from a folder, a file or the hub, and told apart.

Torch and transformers are imported by the functions that load something: most workers never call them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.settings import CurationSettings


class ModelError(ValueError):
    """A model that cannot be used. The message names the setting, its value and what would be right."""


@dataclass(frozen=True)
class Pretrained:
    """A transformers model in single precision, ready to run, and its processor."""

    model: Any
    processor: Any
    device: str

    def __call__(self, inputs: Mapping[str, Any], **options: Any) -> Any:
        """The model's outputs for the processor's tensors."""
        import torch

        with torch.inference_mode():
            return self.model(**self.placed(inputs), **options)

    def placed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The processor's tensors on the model's device."""
        return {name: value.to(self.device) for name, value in inputs.items()}


def load(field: str, name: str, model_class: str, device: str, processor_class: str = "AutoProcessor") -> Pretrained:
    """A model of one of transformers' classes, and its processor, from a local folder or the hub.

    Raises:
        ModelError: there is none of that name, or it is of another kind; `field` is the setting to name.
    """
    import torch
    import transformers

    try:
        processor = getattr(transformers, processor_class).from_pretrained(name)
        model = getattr(transformers, model_class).from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{field} = {name!r}: cannot be loaded as {model_class} ({reason}); give a folder or a hub name of one"
        ) from error
    return Pretrained(model.eval().to(device), processor, device)


def device_of(gpu: bool) -> str:
    """Where models run. On a CPU with one thread: parallelism comes from processes, and the last bits stay equal."""
    import torch

    if not gpu:
        torch.set_num_threads(1)
    return "cuda" if gpu else "cpu"


def needed(settings: CurationSettings) -> dict[str, tuple[str, str]]:
    """What finding and captioning need weights for: use -> (setting, file, folder or hub name)."""
    subjects, wanted = settings.subjects, dict[str, tuple[str, str]]()
    if subjects.model:
        wanted["detector"] = ("subjects.detector_model", subjects.model)
    if subjects.masks == "sam2":
        wanted["masks"] = ("subjects.masks_model", subjects.masks_model)
    if settings.captions.model:
        wanted["captions"] = ("captions.model", settings.captions.model)
    if settings.filters.aesthetic_head:
        wanted["aesthetic_head"] = ("filters.aesthetic_head", settings.filters.aesthetic_head)
        wanted["aesthetic_clip"] = ("filters.aesthetic_clip", settings.filters.aesthetic_clip)
    return wanted


def on_torch(settings: CurationSettings) -> bool:
    """Whether any of it runs on torch, and so on a GPU where there is one. OpenCV's detectors do not."""
    return bool(set(needed(settings)) - ({"detector"} if settings.subjects.detector == "yunet" else set()))


def fingerprints(settings: CurationSettings) -> dict[str, str]:
    """Use -> 16 hex characters of the weights' bytes, or of the hub's commit.

    Raises:
        ModelError: weights are missing.
    """
    return {use: _fingerprint(field, name) for use, (field, name) in needed(settings).items()}


def _fingerprint(field: str, name: str) -> str:
    path, digest = Path(name), hashlib.sha256()
    if path.is_file():
        digest.update(path.read_bytes())
    elif path.is_dir():
        for file in sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")):
            with file.open("rb") as stream:
                digest.update(f"{file.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    else:
        digest.update(_commit(field, name).encode())
    return digest.hexdigest()[:16]


def _commit(field: str, name: str) -> str:
    """The commit of a hub model that loading it by name would take."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json")).parent.name  # .../snapshots/<commit>/config.json
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{field} = {name!r}: no such file or folder, and not found on the hub ({reason})") from error

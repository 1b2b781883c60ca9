"""The pocket world: a renderer of creatures with known truth, and small models trained on it, as package data."""

from pathlib import Path


def weights_path() -> Path:
    """Folder of the pocket models: a diffusers Stable Diffusion pipeline, `open_clip/` and `dino/` beside its parts."""
    return Path(__file__).parent / "weights"


def adapters_path() -> Path:
    """Folder of the pocket adapters: a checkpoint of FlexIP, trained on the pocket world for the pocket models."""
    return Path(__file__).parent / "adapters"

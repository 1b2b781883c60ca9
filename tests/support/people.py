"""A DynamicID on the pocket models whose every part acts, and pictures of creatures to be cast."""

from pathlib import Path

import torch

from flexip.checkpoint import save_checkpoint
from flexip.dynamicid import DynamicID
from flexip.encoders import Encoders, load_unet
from flexip.face_encoder import FaceConfig
from flexip.faces import FaceLibrary
from flexip.images import Rgb
from flexip.imr import ReconfiguratorConfig
from flexip.pocket.identity import identity
from flexip.pocket.world import Picture, Placement, render

SMALL = ReconfiguratorConfig(128, 128, tokens=2, width=32, heads=2, dim_head=16, channels=(2, 2, 4, 4, 8, 8))


def save_people(folder: Path, encoders: Encoders, library: FaceLibrary, second: ReconfiguratorConfig | None) -> Path:
    """A checkpoint of the second stage, or of the first where there is no reconfigurator."""
    torch.manual_seed(0)
    width, hidden = encoders.shapes["text"][-1], encoders.shapes["hidden"][-1]
    config = FaceConfig(library.identity_width, hidden, width, depth=1, heads=2, dim_head=32, lora_rank=2)
    model = DynamicID(load_unet(), config, second)
    assert model.lora is not None
    for parameter in model.lora.parameters():
        parameter.data.normal_(std=0.1)
    for name, tensor in model.stored().items():
        if name.endswith("running_mean"):  # no parameter, and still of the checkpoint
            tensor.normal_()
    marks = encoders.fingerprints | {"faces": library.fingerprint}
    return save_checkpoint(folder, model, names=encoders.names, fingerprints=marks)


def portrait(number: int) -> Rgb:
    """A picture of one creature."""
    return render(Picture((Placement(identity("train", number), size=0.8),), "beach"), 96).image


def crowd(people: int) -> Rgb:
    """None or two side by side."""
    side_by_side = (Placement(identity("train", k), x=0.27 + 0.46 * k, size=0.45) for k in range(people))
    return render(Picture(tuple(side_by_side), "beach"), 64).image

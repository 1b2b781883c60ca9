"""Shared by all tests: shape checks switched on, real data, a tiny UNet and an engine on the pocket models."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from jaxtyping import install_import_hook

if os.environ.get("FLEXIP_SHAPE_CHECKS", "1") == "1":
    install_import_hook(["flexip", "evaluation"], "shape_checks.checked")

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Directory of real videos and photographs; skips when there is none."""
    root = os.environ.get("FLEXIP_TEST_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("FLEXIP_TEST_DATA is not set to a directory with real videos and photographs")
    return Path(root)


@pytest.fixture
def tiny_unet():
    import tiny_models

    return tiny_models.unet().eval()


@pytest.fixture(scope="session")
def pocket_encoders():
    from flexip.encoders import load_encoders

    return load_encoders()


@pytest.fixture(scope="session")
def paper_models(tmp_path_factory):
    """Names of the paper's models, narrow, of random weights."""
    import tiny_models

    return tiny_models.paper(tmp_path_factory.mktemp("paper") / "models")


@pytest.fixture(scope="session")
def untrained_checkpoint(pocket_encoders, tmp_path_factory) -> Path:
    """A checkpoint of adapters with their initial weights on the pocket models."""
    from flexip.checkpoint import save_checkpoint
    from flexip.encoders import load_unet
    from flexip.model import FlexIP, adapter_config

    torch.manual_seed(0)
    unet = load_unet()
    model = FlexIP(unet, adapter_config(unet, pocket_encoders.shapes, queries=4, depth=1, heads=2, dim_head=32))
    return save_checkpoint(
        tmp_path_factory.mktemp("checkpoint"),
        model,
        names=pocket_encoders.names,
        fingerprints=pocket_encoders.fingerprints,
    )


@pytest.fixture(scope="session")
def people_checkpoint(pocket_encoders, tmp_path_factory) -> Path:
    """A checkpoint of a DynamicID of both stages on the pocket models."""
    from people import SMALL, save_people

    from flexip.faces import open_faces

    return save_people(tmp_path_factory.mktemp("people"), pocket_encoders, open_faces("pocket"), SMALL)


@pytest.fixture(scope="session")
def reference() -> np.ndarray:
    """A reference crop: a red disc with a dark stripe on white, 64 px."""
    y, x = np.mgrid[:64, :64]
    image = np.full((64, 64, 3), 255, np.uint8)
    image[(x - 32) ** 2 + (y - 32) ** 2 < 24**2] = (200, 40, 40)
    image[28:36, 12:52] = (60, 20, 20)
    return image

"""Frozen models that are not where they should be: what is missing, and how to get it."""

import re
import shutil
from pathlib import Path

import pytest

from flexip.encoders import EncoderNames, load_encoders, load_unet
from flexip.weights import NEEDS, PAPER, WeightsError, model_folder


def test_names_mean_folders(paper_models):
    assert model_folder("clip", f"local-dir:{paper_models.clip}") == model_folder("clip", paper_models.clip)
    for part in NEEDS:
        assert model_folder(part, "pocket").is_dir()
        assert model_folder(part, getattr(paper_models, part)) == Path(getattr(paper_models, part))


def test_a_folder_with_holes_says_which_files_to_fetch_and_where_they_go(paper_models, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(paper_models.base, folder)
    (folder / "unet" / "config.json").unlink()
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    files = "unet/config.json vae/diffusion_pytorch_model.safetensors"
    words = f"base = {folder}: lacks {files.replace(' ', ', ')}; for the paper's: "
    words += f"hf download {PAPER['base']} {files} --local-dir {folder}"
    with pytest.raises(WeightsError, match=f"^{re.escape(words)}$"):
        load_unet(str(folder))
    with pytest.raises(WeightsError, match=f"^dino = {tmp_path}/none: no such folder; .*--local-dir {tmp_path}/none"):
        load_encoders(EncoderNames(paper_models.base, paper_models.clip, f"{tmp_path}/none"))


def test_offline_a_hub_name_says_what_its_cache_lacks():
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE  # as tests are run
    with pytest.raises(WeightsError) as caught:
        model_folder("dino", "nobody/nothing-at-all")
    said = str(caught.value)
    assert said.startswith("dino = nobody/nothing-at-all: config.json, model.safetensors, preprocessor_config.json not")
    assert f"{constants.HF_HUB_CACHE} (HF_HUB_OFFLINE forbids to fetch it)" in said
    assert "hf download nobody/nothing-at-all config.json model.safetensors preprocessor_config.json" in said

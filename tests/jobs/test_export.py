"""A checkpoint in other tools' formats: what each of them reads is what was trained."""

import base64
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
from training_data import write_dataset

from evaluation.baselines import ADAPTERS
from flexip.checkpoint import load_checkpoint, save_checkpoint
from flexip.encoders import load_pipeline, load_unet
from flexip.images import decode_image, encode_png
from flexip.model import FlexIP, adapter_config
from flexip.request import Request
from flexip.sampler import sample
from jobs.console import UserError
from jobs.curate import main as curation
from jobs.export import ExportConfig, describe_data, run


@pytest.fixture(scope="module")
def checkpoint(pocket_encoders, tmp_path_factory) -> Path:
    """Of sizes that IP-Adapter's layout knows."""
    torch.manual_seed(0)
    unet = load_unet()
    config = adapter_config(unet, pocket_encoders.shapes, queries=2, depth=4, heads=1, dim_head=64)
    where = {"names": pocket_encoders.names, "fingerprints": pocket_encoders.fingerprints}
    return save_checkpoint(tmp_path_factory.mktemp("exported"), FlexIP(unet, config), **where)


def test_a_folder_has_a_card_and_the_file_that_diffusers_loads(checkpoint, pocket_encoders, tmp_path, capsys):
    dataset, output = write_dataset(tmp_path / "dataset", pocket_encoders), tmp_path / "release"
    run(ExportConfig(checkpoint=checkpoint, to="folder", output=output, dataset=dataset, licence="mit"))
    assert capsys.readouterr().out.split() == ["export", str(output)]
    card = (output / "README.md").read_text()
    assert [line for line in describe_data(dataset) if f"* {line}" not in card] == []
    assert "`ip-adapter.safetensors`: one branch alone" in card
    pipe = load_pipeline()
    pipe.load_ip_adapter(str(output), subfolder="", weight_name="ip-adapter.safetensors", image_encoder_folder=None)
    assert load_checkpoint(output).digest == load_checkpoint(checkpoint).digest
    with pytest.raises(UserError, match="is there already; give another name"):
        run(ExportConfig(checkpoint=checkpoint, to="folder", output=output))


def test_what_stands_in_the_way_of_an_ip_adapter_is_said(checkpoint, untrained_checkpoint, tmp_path, capsys):
    run(ExportConfig(checkpoint=checkpoint, to="ip-adapter", output=tmp_path / "one.safetensors"))
    said = capsys.readouterr().out
    assert "ComfyUI's and InvokeAI's IP-Adapter do not, because queries is 2, not 16" in said
    assert "because it reads DINOv2 patches" in said
    with pytest.raises(UserError, match=r"adapter\.depth = 1: IP-Adapter's layout takes 4 for granted"):
        run(ExportConfig(checkpoint=untrained_checkpoint, to="ip-adapter", output=tmp_path / "two.safetensors"))
    run(ExportConfig(checkpoint=untrained_checkpoint, to="folder", output=tmp_path / "release"))
    assert "without ip-adapter.safetensors: adapter.depth = 1" in capsys.readouterr().out
    assert not (tmp_path / "release" / "ip-adapter.safetensors").exists()


def test_mlflow_s_model_draws_the_sampler_s_pictures(checkpoint, reference, tmp_path):
    """In the process that loads it; `mlflow models predict` is among the long tests."""
    run(ExportConfig(checkpoint=checkpoint, to="mlflow", output=tmp_path / "model"))
    assert not list((tmp_path / "model").rglob("*.pkl"))  # the model is its code
    table = pd.DataFrame({"image": base64.b64encode(encode_png(reference)).decode(), "prompt": ["a creature", "snow"]})
    table = table.assign(gamma=[0.9, None], steps=[2, 3], guidance_scale=[2.0, 1.0])
    answer = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(table)
    asks = [
        Request("a creature", reference, 0.9, 1 - 0.9, guidance_scale=2.0, steps=2),
        Request("snow", reference, 0.7, 1 - 0.7, guidance_scale=1.0, steps=3),
    ]
    for drawn, expected in zip(answer["image"], sample(load_checkpoint(checkpoint), asks), strict=True):
        np.testing.assert_array_equal(decode_image(base64.b64decode(drawn)), expected)


def test_a_baseline_becomes_an_ip_adapter_and_nothing_else(pocket_encoders, tmp_path, capsys):
    """One over CLIP's states, as other tools' own IP-Adapter nodes want it."""
    unet, sizes = load_unet(), {"queries": 16, "depth": 4, "heads": 12, "dim_head": 64, "method": "ip-adapter-plus"}
    model = FlexIP(unet, adapter_config(unet, pocket_encoders.shapes, "hidden", **sizes), ADAPTERS["ip-adapter-plus"])
    where = {"names": pocket_encoders.names, "fingerprints": pocket_encoders.fingerprints}
    saved = save_checkpoint(tmp_path / "baseline", model, **where)
    run(ExportConfig(checkpoint=saved, to="ip-adapter", output=tmp_path / "plus.safetensors"))
    assert "because context_width is" in capsys.readouterr().out  # the pocket model's; of queries and heads, no word
    for to in ("folder", "mlflow"):
        with pytest.raises(UserError, match=f"method 'ip-adapter-plus'; --to {to} takes flexip"):
            run(ExportConfig(checkpoint=saved, to=to, output=tmp_path / to))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"to": "hub"}, "repository: missing; --to hub needs one"),
        ({"to": "mlflow"}, "output: missing; --to mlflow writes there"),
    ],
)
def test_a_missing_place_is_asked_for(fields, said):
    with pytest.raises(ValueError, match=said):
        ExportConfig(checkpoint=Path("pocket"), **fields)


def test_pairs_are_exported_by_the_curation_s_command(pocket_encoders, tmp_path, capsys):
    dataset = write_dataset(tmp_path / "dataset", pocket_encoders, train=2, val=1)
    curation(["export", str(dataset), "--to", "uno", "--output", str(tmp_path / "uno")])
    assert "uno: 4 entries of the train split, as uno" in capsys.readouterr().out
    assert (tmp_path / "uno" / "train.json").is_file()
    with pytest.raises(SystemExit):
        curation(["export"])
    assert "export: give the dataset's directory, as in" in capsys.readouterr().err

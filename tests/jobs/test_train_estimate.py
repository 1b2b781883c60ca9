"""The dry run's numbers against known ones, without loading or training anything."""

import pytest
import torch
from training_data import write_dataset

from benchmarks import sd15
from flexip.adapters import AdapterConfig, Adapters
from flexip.cost import training_cost
from flexip.encoders import load_unet
from flexip.model import FlexIP, adapter_config
from jobs.train import main
from jobs.training.config import AdapterSizes, TrainConfig
from jobs.training.estimate import training_cost_of


def test_parameters_are_those_of_the_model(pocket_encoders, tmp_path):
    sizes = AdapterSizes(queries=3, cls_tokens=2, depth=1, heads=2, dim_head=16)
    cost = training_cost_of(TrainConfig(dataset=tmp_path, output=tmp_path, adapter=sizes), pocket_encoders.shapes)
    unet = load_unet()
    frozen = sum(p.numel() for p in unet.parameters())
    model = FlexIP(unet, adapter_config(unet, pocket_encoders.shapes, **sizes.model_dump()))
    assert cost.trained == sum(p.numel() for p in model.trainable().values())
    assert cost.frozen == frozen
    assert cost.tokens == {"text": pocket_encoders.shapes["text"][0], "preservation": 5, "personalization": 77}
    assert 1.5 * cost.forward < cost.step < 3 * cost.forward  # a frozen UNet has no gradients of its weights
    assert cost.memory(4, ema=True, workers=2) - cost.memory(3, ema=True, workers=2) == cost.activations


def test_stable_diffusion_costs_what_is_known():
    """Stable Diffusion 1.5 at 256 px has 859.5 M parameters and 180.1 GFLOPs a forward pass; adapters come on top."""
    with torch.device("meta"):
        unet = sd15.unet(256)
    shapes = sd15.SHAPES | {"vae": (8, 32, 32)}
    cost = training_cost(unet, AdapterConfig(depth=1), Adapters, shapes)
    assert cost.frozen == pytest.approx(859.5e6, rel=1e-3)
    assert 180.1e9 < cost.forward < 1.1 * 180.1e9
    assert cost.parameters["attention"] == pytest.approx(19.17e6, rel=1e-2)


def test_a_dry_run_tells_and_writes_nothing(pocket_encoders, tmp_path, capsys):
    dataset = write_dataset(tmp_path / "dataset", pocket_encoders)
    main([f"--dataset={dataset}", f"--output={tmp_path / 'out'}", "--dry_run=true", "--gpus=3", "--batch_size=4"])
    said = capsys.readouterr().out
    assert "trained parameters: " in said
    assert "steps in an epoch: 6.0 of invariant (12 pairs), 6.0 of variant (12 pairs)" in said
    assert "on 3 GPUs at 30% of their bf16 peak: A100 " in said
    assert not (tmp_path / "out").exists()

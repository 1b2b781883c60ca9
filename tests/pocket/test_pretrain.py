"""The pretraining machinery: stages learn, stop, and go on; the exported folder loads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flexip.images import decode_image
from flexip.pocket.models import build_clip, build_dino, build_text_encoder, build_unet, build_vae, total_bytes
from flexip.pocket.oracle import ORACLES, read
from flexip.pocket.pretrain import Average, Budget, Workshop, train
from flexip.pocket.pretrain_data import load_renders, pick_captions
from flexip.pocket.pretrain_dino import balanced, crop_square
from flexip.pocket.pretrain_oracle import load_oracle
from flexip.pocket.tokens import build_tokenizer
from jobs.console import UserError
from jobs.pocket_card import BEGIN, END, CardConfig
from jobs.pocket_card import run as measure
from jobs.pretrain_pocket import PretrainConfig, StageConfig, run


def test_renders_come_in_pairs_of_one_identity_and_are_read_again(tmp_path: Path) -> None:
    first = load_renders(tmp_path, 8, seed=0)
    again = load_renders(tmp_path, 8, seed=0)
    assert np.array_equal(first.images, again.images)
    assert first.images.shape == (8, 64, 64, 3)
    assert [c["short"] for c in first.captions[0::2]] == [c["short"] for c in first.captions[1::2]]
    assert not np.array_equal(first.images[0], first.images[1])
    words = pick_captions(first, np.arange(8), np.random.default_rng(0))
    assert all(word in first.captions[row].values() for row, word in enumerate(words))


class Stopped(Exception):
    pass


def test_a_stage_that_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    def train_toy(directory: Path, seed: int, stop_at: int | None = None) -> torch.Tensor:
        torch.manual_seed(seed)
        model = nn.Linear(4, 1)
        average = Average(model)

        def loss_of(step: int) -> torch.Tensor:
            if step == stop_at:
                raise Stopped
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()

        budget = Budget(minutes=60, batch_size=8, learning_rate=0.05, steps=12, warmup=4, save_every=0.0)
        modules = {"model": model, "average": average.shadow}
        assert train("toy", Workshop(directory, directory), budget, modules, loss_of, average.update) == 12
        return torch.cat([parameter.detach().flatten() for parameter in average.shadow.parameters()])

    whole = train_toy(tmp_path / "whole", seed=0)
    with pytest.raises(Stopped):
        train_toy(tmp_path / "parts", seed=0, stop_at=7)
    assert torch.equal(train_toy(tmp_path / "parts", seed=1), whole)  # the new start's own weights count for nothing
    assert not torch.equal(train_toy(tmp_path / "other", seed=1), whole)


def test_sinkhorn_uses_every_prototype() -> None:
    p = balanced(0.05 * torch.randn(64, 8) + torch.tensor([0.2] + [0.0] * 7), rounds=20)
    assert torch.allclose(p.sum(dim=1), torch.ones(64))
    assert torch.allclose(p.sum(dim=0), torch.full((8,), 8.0), rtol=0.2)


def test_a_crop_holds_the_box() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:30, 34:44] = 255
    crop = crop_square(image, np.array([34, 20, 44, 30], np.float32), 1.0, (0.0, 0.0))
    assert crop.shape == (64, 64, 3)
    assert crop[4:-4, 4:-4].min() > 200


def test_the_models_fit_the_limit_before_any_training() -> None:
    tokens = build_tokenizer()
    models = [build_vae(), build_unet(), build_text_encoder(tokens), build_clip(len(tokens)), build_dino()]
    assert 2 * sum(p.numel() for model in models for p in model.parameters()) < 23_900_000


def test_all_stages_run_from_nothing_and_export_a_folder_that_loads(tmp_path: Path) -> None:
    tiny = StageConfig(steps=2, batch_size=4)
    config = PretrainConfig(
        directory=tmp_path / "work",
        weights=tmp_path / "weights",
        renders=64,
        labelled=64,
        held_out=128,
        threads=torch.get_num_threads(),
        vae=tiny,
        clip=tiny,
        dino=tiny,
        oracles=tiny,
        unet=tiny,
    )
    result = run(config)
    assert set(result.figures) == {"vae", "clip", "dino", "residual", "mixer", "unet"}
    assert result.figures["vae"]["scaling_factor"] > 0
    assert result.weight_bytes == total_bytes(tmp_path / "weights") < 24_000_000
    readings = [read(load_oracle(tmp_path / "weights", name), torch.zeros(1, 3, 64, 64)) for name in ORACLES]
    assert [len(reading.values("scene")) for reading in readings] == [1, 1]
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "weights")
    pipe.set_progress_bar_config(disable=True)
    images, _ = pipe("a creature", num_inference_steps=1, output_type="np", return_dict=False)
    assert np.shape(images) == (1, 64, 64, 3)
    check_card(tmp_path)


def check_card(root: Path) -> None:
    """The models of two steps each are measured, and the card tells that they are bad."""
    card = root / "card.md"
    card.write_text(f"# Models\n\n{BEGIN}\nold\n{END}\n\nLicence\n")
    config = CardConfig(
        directory=root / "work", weights=root / "weights", card=card, grid=root / "grid.png", prompts=8, renders=128,
        steps=1, threads=torch.get_num_threads(),
    )  # fmt: skip
    figures = {figure.what: figure for figure in measure(config)}
    assert figures["OpenCLIP: right caption among 64"].value < 50
    assert {f"text-to-image obeys {name}" for name in ("scene", "expression", "shape", "colour")} <= set(figures)
    assert all(0 <= figure.value <= 100 for figure in figures.values() if figure.unit == "%")
    text = card.read_text()
    assert text.startswith("# Models\n\n")
    assert text.endswith("\n\nLicence\n")
    assert "old" not in text
    assert "**(not reached)**" in text
    assert text.count(BEGIN) == text.count(END) == 1
    assert decode_image((root / "grid.png").read_bytes()).shape == (64, 8 * 64, 3)


def test_a_card_without_a_place_for_figures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# Models\n")
    with pytest.raises(UserError, match="needs the two lines"):
        measure(CardConfig(card=tmp_path / "card.md", weights=tmp_path))


def test_stages_out_of_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stages"):
        run(PretrainConfig(directory=tmp_path, stages=["unet", "vae"]))

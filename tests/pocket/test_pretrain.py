"""The pretraining machinery: stages learn, stop, and go on; the exported folder loads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

from flexip.images import decode_image
from flexip.pocket.face import LANDMARKS
from flexip.pocket.face_nets import IdentityNet, LandmarkNet
from flexip.pocket.models import build_clip, build_dino, build_text_encoder, build_unet, build_vae, total_bytes
from flexip.pocket.oracle import ORACLES, build_oracle, read
from flexip.pocket.pretrain import Average, Budget, OptimizerName, Workshop, build_optimizer, train
from flexip.pocket.pretrain_data import crop_matrix, load_renders, pick_captions, warp
from flexip.pocket.pretrain_dino import Heads, balanced, distil, draw_same
from flexip.pocket.pretrain_faces import draw_faces
from flexip.pocket.pretrain_oracle import load_oracle
from flexip.pocket.pretrain_unet import Alignment
from flexip.pocket.pretrain_vae import vae_loss
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
    for box, landmarks in zip(first.boxes, first.landmarks, strict=True):
        x, y, seen = landmarks.T
        inside = (x > box[0] - 1) & (x < box[2] + 1) & (y > box[1] - 1) & (y < box[3] + 1)
        assert inside[seen > 0].all()  # both are the foremost creature's
    words = pick_captions(first, np.arange(8), np.random.default_rng(0))
    assert all(word in first.captions[row].values() for row, word in enumerate(words))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stage_that_stopped_goes_on_where_it_was(tmp_path: Path, optimizer: OptimizerName) -> None:
    def train_toy(directory: Path, seed: int, stop_at: int | None = None) -> torch.Tensor:
        torch.manual_seed(seed)
        model = nn.Linear(4, 4)
        average = Average(model)

        def loss_of(step: int) -> torch.Tensor:
            if step == stop_at:
                raise Stopped
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()

        budget = Budget(60, batch_size=8, learning_rate=0.05, steps=12, warmup=4, save_every=0.0, optimizer=optimizer)
        modules = {"model": model, "average": average.shadow}
        assert train("toy", Workshop(directory, directory), budget, modules, loss_of, average.update) == 12
        return torch.cat([parameter.detach().flatten() for parameter in average.shadow.parameters()])

    whole = train_toy(tmp_path / "whole", seed=0)
    with pytest.raises(Stopped):
        train_toy(tmp_path / "parts", seed=0, stop_at=7)
    assert torch.equal(train_toy(tmp_path / "parts", seed=1), whole)  # the new start's own weights count for nothing
    assert not torch.equal(train_toy(tmp_path / "other", seed=1), whole)


def test_muon_turns_the_matrices_of_layers_and_nothing_else() -> None:
    torch.manual_seed(0)
    clip: Any = build_clip(len(build_tokenizer()))
    names = {id(parameter): name for name, parameter in clip.named_parameters()}
    matrices, others = build_optimizer([clip], Budget(1, 8, 1e-3, optimizer="muon")).param_groups
    turned, plain = ({names[id(p)] for p in group["params"]} for group in (matrices, others))
    assert turned | plain == set(names.values())
    assert not turned & plain
    assert {"token_embedding.weight", "positional_embedding", "visual.class_embedding", "logit_scale"} <= plain
    assert {"transformer.resblocks.0.mlp.c_fc.weight", "visual.conv1.weight"} <= turned
    assert all(others[key] == value for key, value in (("use_fallback", True), ("lr", matrices["lr"])))
    layer = clip.transformer.resblocks[0].mlp.c_fc.weight
    before = layer.detach().clone()
    layer.grad = torch.randn_like(layer) * torch.logspace(0, -3, len(layer))[:, None]
    build_optimizer([clip], Budget(1, 8, 1e-3, optimizer="muon")).step()
    strengths = torch.linalg.svdvals(before - layer.detach())
    assert strengths.max() < 3 * strengths.min()  # of the gradient itself they span three orders of magnitude


def test_latents_may_be_shrunk_before_they_are_decoded() -> None:
    """The decoder then draws a smaller picture, and the gradient reaches the encoder all the same."""
    torch.manual_seed(0)
    vae, x = build_vae(), torch.rand(2, 3, 64, 64) * 2 - 1
    drawn: list[torch.Size] = []
    vae.decoder.register_forward_hook(lambda module, inputs, output: drawn.append(output.shape))
    for scale in (1.0, 0.75, 0.5):
        vae.zero_grad()
        vae_loss(vae, x, torch.ones(2, 1, 64, 64), scale).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.encoder.conv_in.parameters())
    assert [shape[-1] for shape in drawn] == [64, 48, 32]


def test_alignment_teaches_the_first_half_of_the_unet_what_dino_sees() -> None:
    torch.manual_seed(0)
    unet = build_unet()
    alignment = Alignment(unet)
    patches = torch.randn(2, 64, 128)
    noisy, states = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 128)
    optimizer = torch.optim.AdamW([*unet.parameters(), *alignment.parameters()], lr=1e-3)
    losses = []
    for _ in range(8):
        unet(noisy, torch.tensor([500, 900]), states)
        loss = alignment(patches)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1
    assert unet.conv_in.weight.grad is not None
    assert all(p.grad is None for p in unet.up_blocks.parameters())
    with pytest.raises(IndexError):
        alignment(patches)  # each call of the UNet is compared once


def test_sinkhorn_uses_every_prototype() -> None:
    p = balanced(0.05 * torch.randn(64, 8) + torch.tensor([0.2] + [0.0] * 7), rounds=20)
    assert torch.allclose(p.sum(dim=1), torch.ones(64))
    assert torch.allclose(p.sum(dim=0), torch.full((8,), 8.0), rtol=0.2)


def test_a_crop_holds_the_box() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:30, 34:44] = 255
    crop = warp(image, crop_matrix(np.array([34, 20, 44, 30], np.float32), 1.0, (0.0, 0.0)))
    assert crop.shape == (64, 64, 3)
    assert crop[4:-4, 4:-4].min() > 200


def test_landmarks_move_with_the_crop(tmp_path: Path) -> None:
    renders = load_renders(tmp_path, 8, seed=0)
    rows = np.arange(8)
    crops, landmarks = draw_faces(renders, rows, np.random.default_rng(0))
    eyes = landmarks[:, list(LANDMARKS).index("left eye")]
    before = renders.landmarks[:, list(LANDMARKS).index("left eye")]
    for row in rows:
        x, y = np.rint(eyes[row, :2] * 64 - 0.5).astype(int)
        if eyes[row, 2] and 2 <= x < 62 and 2 <= y < 62 and renders.boxes[row, 2] - renders.boxes[row, 0] > 20:
            there = renders.images[row][round(before[row, 1]), round(before[row, 0])].astype(int)
            here = crops[row, y - 2 : y + 3, x - 2 : x + 3].astype(int)
            assert np.abs(here - there).sum(axis=2).min() < 120


def test_two_views_of_one_creature_differ_in_scene_pose_and_expression_alone() -> None:
    left, right = draw_same(6, seed=0, split="val")
    assert left.shape == right.shape == (6, 64, 64, 3)
    assert all(not np.array_equal(a, b) for a, b in zip(left, right, strict=True))
    colours = [np.stack([view[24:40, 24:40].mean(axis=(0, 1)) for view in side]) for side in (left, right)]
    own = np.linalg.norm(colours[0] - colours[1], axis=1).mean()
    others = np.linalg.norm(colours[0] - np.roll(colours[1], 1, axis=0), axis=1).mean()
    assert own < 0.7 * others


def test_each_view_has_to_find_the_other_and_not_itself() -> None:
    """With a perfect encoder the picture's loss is next to nothing; with one that mixes creatures up it is not."""
    torch.manual_seed(0)
    student, head = build_dino(), Heads()
    creatures = torch.rand(4, 3, 64, 64) * 2 - 1
    mask = torch.zeros(8, 64, dtype=torch.bool)
    mask[:, 0] = True
    same = distil(student, head, student, head, torch.cat([creatures, creatures]), mask)
    mixed = distil(student, head, student, head, torch.cat([creatures, creatures.roll(1, 0)]), mask)
    assert same < mixed


def test_the_models_fit_the_limit_before_any_training() -> None:
    tokens = build_tokenizer()
    models = [build_vae(), build_unet(), build_text_encoder(tokens), build_clip(len(tokens)), build_dino()]
    models += [build_oracle(name) for name in ORACLES] + [LandmarkNet(), IdentityNet()]
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
        faces=tiny,
        unet=tiny,
    )
    result = run(config)
    assert set(result.figures) == {"vae", "clip", "dino", "residual", "plain", "faces", "unet"}
    assert result.figures["vae"]["scaling_factor"] > 0
    assert result.weight_bytes == total_bytes(tmp_path / "weights") < 24_000_000
    readings = [read(load_oracle(tmp_path / "weights", name), torch.zeros(1, 3, 64, 64)) for name in ORACLES]
    assert [len(reading.values("scene")) for reading in readings] == [1, 1]
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "weights")
    pipe.set_progress_bar_config(disable=True)
    images, _ = pipe("a creature", num_inference_steps=1, output_type="np", return_dict=False)
    assert np.shape(images) == (1, 64, 64, 3)
    check_tracking(tmp_path / "work", result.figures)
    check_card(tmp_path)


def check_tracking(directory: Path, figures: dict[str, dict[str, float]]) -> None:
    """Each stage is a finished MLflow run that holds its figures."""
    client = MlflowClient(f"sqlite:///{directory / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in client.search_experiments(filter_string="name = 'pocket'")]
    runs = {run.info.run_name: run for run in client.search_runs(ids)}
    assert set(runs) == {"vae", "clip", "dino", "oracles", "faces", "unet"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["vae"].data.metrics["vae/psnr"] == pytest.approx(figures["vae"]["psnr"])
    assert runs["oracles"].data.metrics["plain/scene"] == pytest.approx(figures["plain"]["scene"])


def check_card(root: Path) -> None:
    """The models of two steps each are measured, and the card tells that they are bad."""
    card = root / "card.md"
    card.write_text(f"# Models\n\n{BEGIN}\nold\n{END}\n\nLicence\n")
    config = CardConfig(
        directory=root / "work", weights=root / "weights", card=card, grid=root / "grid.png", prompts=8, renders=128,
        steps=1, threads=torch.get_num_threads(), crops=64, reader_steps=2,
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

"""The reconfigurator: motions in words and landmarks, its shapes, and what it learns."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from flexip.dynamicid import DynamicID
from flexip.face_encoder import FaceConfig
from flexip.imr import MotionInputs, Reconfigurator, ReconfiguratorConfig, motion_inputs
from flexip.motion import KDEF_WORDING, POCKET_WORDING, Motion, landmark_map, parse_motion, sentence, sweep
from flexip.pocket.face import EXPRESSIONS, POSES
from flexip.training import Drops, Noising, new_state, train_step
from flexip.training_faces import (
    MotionDrops,
    anchoring_loss,
    build_anchoring_batch,
    build_reconfiguration_batch,
    draw_group,
    drop_motion,
    face_tokens,
    reconfiguration_loss,
)

TINY = ReconfiguratorConfig(32, 12, tokens=2, width=32, heads=2, dim_head=16, channels=(1, 1, 2, 2, 4, 4))


@pytest.mark.parametrize(
    ("text", "expression", "pose"),
    [
        ("surprised, looking left", "surprised", "left"),
        ("a furious face, turned fully to the right", "angry", "fully right"),
        ("Smiling", "happy", ""),
        ("facing the camera", "", "front"),
        ("slightly left, crying", "sad", "left"),
    ],
)
def test_an_edit_in_words_is_read(text, expression, pose):
    assert parse_motion(text) == Motion(expression, pose)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ecstatic, looking left", "'ecstatic' in .* is not understood; expressions are afraid"),
        ("not happy", "'not' in"),
        ("happy and sad", "says happy and sad"),
        ("looking left and right", "says left and right"),
        ("a face", "neither an expression nor a pose"),
        ("fully happy", "say left or right"),
    ],
)
def test_an_edit_that_cannot_be_read_is_refused(text, fault):
    with pytest.raises(ValueError, match=fault):
        parse_motion(text)


def test_motions_have_sentences_in_each_world_s_words():
    motion = Motion("happy", "left")
    assert sentence(motion, POCKET_WORDING) == "a happy creature, looking left"
    assert sentence(motion, KDEF_WORDING) == "the expression is happy, the face is slightly left"
    assert sentence(Motion(pose="front"), POCKET_WORDING) == "looking ahead"
    assert sentence(Motion(landmarks=np.zeros((3, 2))), POCKET_WORDING) == ""
    assert len({sentence(motion, KDEF_WORDING) for motion in sweep(poses=tuple(POSES))}) == 35
    with pytest.raises(ValueError, match="pose: 'up' must be one of fully left"):
        Motion("happy", "up")


def test_landmarks_become_white_pixels_and_those_outside_none():
    points = np.array([[0.0, 0.0], [0.5, 0.999], [1.0, 0.2], [-0.1, 0.5]])
    picture = landmark_map(points)
    assert np.argwhere(picture[0] > 0).tolist() == [[0, 0], [95, 48]]
    assert landmark_map(None).max() == -1


def test_motions_are_encoded_and_what_is_missing_is_blank(pocket_encoders):
    shown = Motion(landmarks=np.full((14, 2), 0.5, np.float32))
    inputs = motion_inputs(pocket_encoders, [Motion("happy"), Motion("sad"), shown], POCKET_WORDING)
    assert inputs.maps.shape == (3, 1, 96, 96)
    assert inputs.prompts.shape == (3, 128)
    assert (inputs.maps[:2] == -1).all()
    assert inputs.maps[2].max() == 1
    assert not inputs.prompts[2].any()
    assert (inputs.prompts[0] - inputs.prompts[1]).abs().max() > 0.1
    states = pocket_encoders.encode_text(["a happy creature"])  # the sentence's state is the one at its end
    assert (states[0] - inputs.prompts[0]).abs().amax(dim=1).min() < 1e-5


@pytest.mark.parametrize(("depth", "millions"), [(1, 40.9), (4, 141.6)])
def test_full_size_has_the_published_number_of_parameters(depth, millions):
    with torch.device("meta"):
        model = Reconfigurator(ReconfiguratorConfig(depth=depth))
    landmarks = sum(p.numel() for p in model.motion.landmarks.parameters())
    assert landmarks / 1e6 == pytest.approx(8.3, abs=0.05)
    assert (sum(p.numel() for p in model.parameters()) - landmarks) / 1e6 == pytest.approx(millions, abs=0.05)


def test_the_face_encoder_at_full_size_has_the_published_number_of_parameters():
    from flexip.face_encoder import FaceEncoder

    with torch.device("meta"):
        encoder = FaceEncoder(FaceConfig())
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(33.6, abs=0.1)


def world(people: int) -> dict[str, np.ndarray]:
    """Tokens (people, 7, 2, 32) of everybody with each expression, and what tells it: 12 numbers, or 3 landmarks."""
    rng = np.random.default_rng(0)
    who = (rng.normal(size=(people, 4)) @ rng.normal(size=(4, 64))).reshape(people, 1, 2, 32) / 2
    mood = rng.normal(size=(1, 7, 2, 32))
    maps = np.stack([landmark_map(rng.random((3, 2))) for _ in EXPRESSIONS])
    columns = {
        "tokens": who + 0.7 * mood + 0.3 * np.tanh(who * mood),
        "prompt": np.broadcast_to(rng.normal(size=(7, 12)), (people, 7, 12)),
        "map": np.broadcast_to(maps, (people, *maps.shape)),
        "vae": np.zeros((people, 7, 8, 8, 8)),
    }
    return {name: np.ascontiguousarray(values, np.float32) for name, values in columns.items()}


@pytest.fixture
def noising() -> Noising:
    betas = torch.linspace(1e-4, 0.02, 1000)
    return Noising((1 - betas).cumprod(0), "epsilon", 0.2, torch.zeros(5, 32))


def test_trained_it_returns_the_source_and_obeys_different_targets_for_people_never_seen(noising):
    columns, seen = world(60), 52
    torch.manual_seed(0)
    state = new_state(Reconfigurator(TINY), learning_rate=3e-3, weight_decay=0.0, ema=0.98)
    loss = partial(reconfiguration_loss, anchored=None)
    for step in range(420):
        group = draw_group(0, step, [7] * seen, targets=6)
        ours = {name: values[group.person] for name, values in columns.items()}
        batch = build_reconfiguration_batch(ours, group, torch.zeros(5, 32), noising)
        train_step(state, [batch], loss=loss)
    model = state.model.eval()
    model.load_state_dict(state.average, strict=False)
    same, right, drops = [], [], MotionDrops(landmarks=1.0, sentence=0.0)
    every = MotionInputs(torch.from_numpy(columns["map"][0]), torch.from_numpy(columns["prompt"][0]))
    told = drop_motion(every, drops, np.random.default_rng(0))  # in words alone, as an edit is
    for person in range(seen, 60):
        truth = torch.from_numpy(columns["tokens"][person])
        for source in (0, 3):
            edited = model.edit(truth[source], told.select(torch.tensor([source])), told)
            same.append(torch.cosine_similarity(edited[source].flatten(), truth[source].flatten(), dim=0).item())
            right += (torch.cdist(edited.flatten(1), truth.flatten(1)).argmin(dim=1) == torch.arange(7)).tolist()
    assert np.mean(same) >= 0.95
    assert np.mean(right) >= 0.8


def test_groups_are_a_function_of_seed_and_step_and_everybody_comes_once(noising):
    counts = [35, 12, 3]
    groups = [draw_group(5, step, counts) for step in range(9)]
    assert groups == [draw_group(5, step, counts) for step in range(9)]
    assert groups != [draw_group(6, step, counts) for step in range(9)]
    for start in (0, 3, 6):
        assert sorted(group.person for group in groups[start : start + 3]) == [0, 1, 2]
    assert all(max(group.source, *group.targets) < counts[group.person] for group in groups)
    with pytest.raises(ValueError, match="pictures: 1 of a person"):
        draw_group(0, 0, [35, 1])


def test_a_motion_never_loses_both_of_its_parts():
    whole = MotionInputs(torch.ones(400, 1, 96, 96), torch.ones(400, 12))
    kept = drop_motion(whole, MotionDrops(0.3, 0.2), np.random.default_rng(1))
    blank, silent = kept.maps.amax(dim=(1, 2, 3)) < 0, ~kept.prompts.any(dim=1)
    assert not (blank & silent).any()
    assert blank.float().mean() == pytest.approx(0.3, abs=0.06)
    assert silent.float().mean() == pytest.approx(0.2, abs=0.06)


@pytest.fixture
def anchored(tiny_unet) -> DynamicID:
    torch.manual_seed(1)
    return DynamicID(tiny_unet, FaceConfig(10, 20, 32, tokens=2, depth=1, heads=2, dim_head=16, lora_rank=4))


def test_anchoring_lowers_the_loss_on_its_batch_and_leaves_the_unet(anchored, noising):
    rng = np.random.default_rng(0)
    shapes = {"identity": (10,), "hidden": (9, 20), "text": (5, 32), "vae": (8, 8, 8)}
    columns = {name: rng.normal(size=(4, *shape)).astype(np.float32) for name, shape in shapes.items()}
    frozen = {name: p.clone() for name, p in anchored.unet.state_dict().items()}
    batch = build_anchoring_batch(columns, torch.zeros(9, 20), Drops(0, 0, 0), noising, np.arange(4))
    state = new_state(anchored, learning_rate=3e-3, weight_decay=0.0)
    first = anchoring_loss(anchored, batch).mean().item()
    for _ in range(25):
        last = train_step(state, [batch], loss=anchoring_loss)
    assert last.item() < 0.9 * first
    assert all(torch.equal(p, frozen[name]) for name, p in anchored.unet.state_dict().items())
    assert all(p.grad is not None for p in anchored.trainable().values())
    nobody = build_anchoring_batch(columns, torch.zeros(9, 20), Drops(0, 1.0, 0), noising, np.arange(4))
    other = build_anchoring_batch(
        columns | {"identity": -columns["identity"]}, torch.zeros(9, 20), Drops(0, 1.0, 0), noising, np.arange(4)
    )
    torch.testing.assert_close(anchoring_loss(anchored, nobody), anchoring_loss(anchored, other))
    tokens = face_tokens(anchored, columns, rows=3)
    assert tokens.shape == (4, 2, 32)


def test_the_second_term_asks_the_frozen_unet_and_reaches_the_reconfigurator_alone(anchored, noising):
    anchored.requires_grad_(False)
    columns = {name: values[0] for name, values in world(1).items()}
    group = draw_group(0, 0, [7], targets=4)
    batch = build_reconfiguration_batch(columns, group, torch.zeros(5, 32), noising, MotionDrops(0, 0))
    model = Reconfigurator(TINY)
    plain, whole = (reconfiguration_loss(model, batch, anchored, weight=weight) for weight in (0.0, 1.0))
    assert (whole > plain).all()
    grads: tuple[Tensor, ...] = torch.autograd.grad((whole - plain).sum(), [*model.trainable().values()])
    assert all(grad.isfinite().all() for grad in grads)
    assert max(grad.abs().max().item() for grad in grads) > 1e-6

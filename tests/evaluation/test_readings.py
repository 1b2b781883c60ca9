"""Readings of a grid: in order, kept whole, scored by all oracles."""

import numpy as np
import pytest
import torch

from evaluation.pocket import EDITS, ceiling, truth_of
from evaluation.readings import agreement, joined, load_readings, read_pictures, save_readings, scored
from flexip.pocket.identity import identity
from flexip.pocket.oracle import ATTRIBUTES, ORACLES, build_oracle
from flexip.pocket.oracle import truth_of as truth_of_picture

CREATURES = [identity("test", k) for k in range(3)]


@pytest.fixture(scope="module")
def judges():
    torch.manual_seed(0)
    return [build_oracle(name).eval() for name in ORACLES]


@pytest.fixture(scope="module")
def images():
    return np.stack(ceiling(CREATURES)).reshape(3, len(EDITS), 1, 1, 64, 64, 3)


@pytest.fixture(scope="module")
def prompts():
    return [edit.prompt(CREATURES[0]) for edit in EDITS]


def test_a_grid_is_read_cell_by_cell(judges, images, prompts, pocket_encoders):
    references = [images[k, 0, 0, 0] for k in range(3)]
    whole = read_pictures(judges, pocket_encoders, references, prompts, images)
    assert whole.values["shape"].shape == (2, 3, len(EDITS), 1, 1)
    np.testing.assert_allclose(whole.dino[:, 0], 1, atol=1e-5)  # the reference itself
    assert whole.dino[:, 1:].max() < 1
    single = read_pictures(judges, pocket_encoders, references[1:2], prompts, images[1:2])
    for name in ATTRIBUTES:
        np.testing.assert_array_equal(whole.values[name][:, 1:2], single.values[name])
    np.testing.assert_allclose(whole.text[1:2], single.text, atol=1e-5)


def test_parts_are_joined_and_kept_whole(judges, images, prompts, pocket_encoders, tmp_path):
    parts = [read_pictures(judges, pocket_encoders, [images[k, 0, 0, 0]], prompts, images[k : k + 1]) for k in range(3)]
    whole = joined(parts)
    save_readings(tmp_path / "all.npz", whole)
    again = load_readings(tmp_path / "all.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["all.npz"]
    for name in ATTRIBUTES:
        np.testing.assert_array_equal(again.values[name], whole.values[name])
        assert again.values[name].dtype == np.int8
    np.testing.assert_allclose(again.dino, whole.dino, atol=1e-3)


def test_scores_are_the_mean_of_the_oracles(judges, images, prompts, pocket_encoders):
    read = read_pictures(judges, pocket_encoders, [images[k, 0, 0, 0] for k in range(3)], prompts, images)
    truth = truth_of(CREATURES)
    right = [[truth_of_picture(edit.picture(who)) for edit in EDITS] for who in CREATURES]
    for name in ATTRIBUTES:  # one oracle that is always right, one that never is
        true = np.array([[cell[name] for cell in row] for row in right])[..., None, None]
        read.values[name][0], read.values[name][1] = true, (true + 1) % len(ATTRIBUTES[name])
    kept, obeyed = scored(read, truth)
    np.testing.assert_allclose(kept, 0.5)
    np.testing.assert_allclose(obeyed, 0.5)
    assert agreement(read) == 0

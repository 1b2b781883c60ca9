"""LAION's heads give the scores that their authors' own embeddings were chosen for."""

import numpy as np
import pytest
import torch

from flexip.aesthetic import HeadError, load_head


def ratings(folder, name: str) -> np.ndarray:
    rows = [np.load(folder / f"vit_{name}_embeddings" / f"rating{i}.npy").ravel() for i in range(10)]
    return np.stack(rows).astype(float)


@pytest.mark.parametrize(("name", "lowest", "highest"), [("l_14", -2.458, 11.304), ("b_32", -1.470, 11.006)])
def test_heads_of_version_1_give_their_authors_scores(test_data, name, lowest, highest):
    folder = test_data / "models" / "aesthetic"
    scores = load_head(folder / f"sa_0_4_vit_{name}_linear.pth")(ratings(folder, name))
    assert (np.diff(scores) > 0).all()
    np.testing.assert_allclose(scores[[0, -1]], [lowest, highest], atol=2e-3)


def test_the_head_of_version_2_equals_its_layers_and_has_its_known_scores(test_data):
    folder = test_data / "models" / "aesthetic"
    path = folder / "sac+logos+ava1-l14-linearMSE.pth"
    head, embeddings = load_head(path), ratings(folder, "l_14")
    assert head.bias == pytest.approx(5.23665, abs=1e-5)
    scores = head(embeddings)
    np.testing.assert_allclose(scores[[0, -1]], [1.655, 5.747], atol=2e-3)
    values = torch.from_numpy(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    state = torch.load(path, map_location="cpu", weights_only=True)
    for number in (0, 2, 4, 6, 7):
        values = values @ state[f"layers.{number}.weight"].double().T + state[f"layers.{number}.bias"].double()
    np.testing.assert_allclose(scores, values[:, 0].numpy(), atol=1e-10)


def test_what_is_no_head_is_named(tmp_path):
    with pytest.raises(HeadError, match=r"nowhere.pth': no such file"):
        load_head(tmp_path / "nowhere.pth")
    torch.save({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, tmp_path / "two.pth")
    with pytest.raises(HeadError, match="ends in 2 values"):
        load_head(tmp_path / "two.pth")

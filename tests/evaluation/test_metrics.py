"""Metrics on arrays whose cosines are known by construction."""

import numpy as np
import pytest

from evaluation import metrics


@pytest.fixture
def embeddings() -> np.ndarray:
    """(2 subjects, 1 prompt, 1 seed, 3 gammas, width 2): each turns from axis 1 to its own subject's axis 0."""
    quarter = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    return np.stack([quarter, 5 * quarter])[:, None, None]


def test_identity_is_the_raw_cosine_whatever_the_lengths(embeddings):
    references = np.array([[2.0, 0.0], [0.5, 0.0]])
    found = metrics.identity_similarity(references, embeddings)
    assert found.shape == (2, 1, 1, 3)
    np.testing.assert_allclose(found[:, 0, 0], [[0, np.sqrt(0.5), 1]] * 2)


def test_each_image_is_compared_with_its_own_reference():
    references, generated = np.eye(3), np.eye(3)[:, None, None, None]
    np.testing.assert_allclose(metrics.identity_similarity(references, generated), 1)
    np.testing.assert_allclose(metrics.wrong_subject_similarity(references, generated), 0, atol=1e-12)


def test_wrong_subject_averages_over_all_others():
    references = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    generated = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])[:, None, None, None]
    found = metrics.wrong_subject_similarity(references, generated)[:, 0, 0, 0]
    np.testing.assert_allclose(found, [(0 - 1) / 2, (1 - 1) / 2, (1 + 0) / 2])


def test_wrong_subject_is_unknown_for_one_subject():
    found = metrics.wrong_subject_similarity(np.ones((1, 2)), np.ones((1, 2, 1, 3, 2)))
    assert found.shape == (1, 2, 1, 3)
    assert np.isnan(found).all()


def test_text_alignment_uses_the_prompt_of_each_image(embeddings):
    prompts = np.array([[0.0, 3.0]])
    found = metrics.text_alignment(prompts, embeddings)
    np.testing.assert_allclose(found[0, 0, 0], [1, np.sqrt(0.5), 0], atol=1e-12)
    both = metrics.text_alignment(np.eye(2), np.broadcast_to([1.0, 0.0], (1, 2, 1, 1, 2)))
    np.testing.assert_allclose(both[0, :, 0, 0], [1, 0])


def test_copy_control_is_the_mean_over_prompts():
    found = metrics.copy_text_alignment(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[4.0, 0.0], [0.0, -4.0]]))
    np.testing.assert_allclose(found, [0.5, -0.5])


def test_mean_patch_gives_every_patch_the_same_say():
    patches = np.array([[[100.0, 0.0], [0.0, 0.01]]])
    np.testing.assert_allclose(metrics.mean_patch(patches), [[0.5, 0.5]])


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_vector_without_direction_is_refused(bad):
    with pytest.raises(ValueError, match="embeddings"):
        metrics.unit(np.array([[1.0, 0.0], [bad, 0.0]]))

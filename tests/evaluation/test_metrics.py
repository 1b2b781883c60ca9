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


def test_reference_policies_differ_as_they_say():
    references = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    copy = np.array([[2.0, 0.0]])  # of the reference that was shown
    half = np.sqrt(0.5)
    found = {p: metrics.reference_similarity(copy, references, 0, p)[0] for p in metrics.REFERENCES}
    assert found == pytest.approx({"all": (1 + 0 + half) / 3, "shown": 1, "unseen": (0 + half) / 2})
    assert np.isnan(metrics.reference_similarity(copy, references[:1], 0, "unseen")[0])


def test_real_similarity_leaves_out_each_picture_with_itself():
    assert metrics.real_similarity(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])) == pytest.approx(1 / 3)
    assert np.isnan(metrics.real_similarity(np.ones((1, 2))))


def test_cosine_goes_row_by_row():
    np.testing.assert_allclose(metrics.cosine(np.eye(2), np.array([[1.0, 1.0], [-1.0, 0.0]])), [np.sqrt(0.5), 0])


def test_a_masked_subject_stands_alone_on_white():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    mask = np.zeros((4, 4), bool)
    mask[1, 1:3] = mask[2, 2] = True
    crop = metrics.on_white(image, mask)
    assert crop.shape == (2, 2, 3)
    assert (crop[0] == image[1, 1:3]).all()
    assert (crop[1, 0] == 255).all()
    painted = metrics.background(image, mask)
    assert (painted[~mask] == image[~mask]).all()
    assert (painted[mask] == image[~mask].mean(axis=0).round()).all()
    with pytest.raises(ValueError, match="0 pixels"):
        metrics.on_white(image, np.zeros((4, 4), bool))


def test_patches_count_by_what_covers_them():
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    assert metrics.patch_mask(mask, 2).tolist() == [True, False, False, False]
    speck = np.zeros((8, 8), bool)
    speck[7, 7] = True
    assert metrics.patch_mask(speck, 2).tolist() == [False, False, False, True]
    assert metrics.patch_mask(np.ones((3, 3), bool), 4).all()  # fewer pixels than patches


def test_patches_find_their_best_partner_wherever_it_stands():
    reference, image = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 2.0], [1.0, 1.0]])
    found = metrics.patch_similarity(image, reference)
    assert found == pytest.approx((np.sqrt(0.5) + 1) / 2)


def test_seed_diversity_of_equal_and_of_opposite_answers():
    same, opposite = np.ones((3, 2)), np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert metrics.seed_diversity(same) == pytest.approx(0)
    assert metrics.seed_diversity(opposite) == pytest.approx(2)
    assert np.isnan(metrics.seed_diversity(np.ones((4, 1, 2)))).all()


def test_leakage_is_being_nearer_to_somebody_else():
    references, images = np.eye(3), np.array([[1.0, 0.1, 0.0], [0.9, 1.0, 0.0], [0.0, 0.9, 0.2]])
    np.testing.assert_allclose(metrics.leakage(images, references, np.array([0, 1, 2])), [0, 0, 1])
    assert np.isnan(metrics.leakage(images[:, :1], references[:1, :1], np.zeros(3, int))).all()


def test_faces_are_assigned_once_each_and_a_missing_one_counts_as_nothing():
    wanted = np.array([[1.0, 0.0], [0.8, 0.6]])
    similarity, chosen = metrics.assigned_similarity(np.array([[1.0, 0.0]]), wanted)
    assert (similarity.tolist(), chosen.tolist()) == ([1, 0], [0, -1])
    both, chosen = metrics.assigned_similarity(np.array([[0.8, 0.6], [1.0, 0.0]]), wanted)
    np.testing.assert_allclose(both, 1)
    assert chosen.tolist() == [1, 0]
    assert metrics.assigned_similarity(np.zeros((0, 2)), wanted)[0].tolist() == [0, 0]


def test_accuracy_asks_only_what_was_stated():
    np.testing.assert_array_equal(metrics.accuracy(np.array([1, 2, 3]), np.array([1, 0, -1])), [1, 0, np.nan])

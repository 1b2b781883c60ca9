"""Features of references are kept within bounds, and are those that the encoders give."""

import numpy as np
import pytest
import torch

from flexip.references import ReferenceCache, image_digest


@pytest.fixture
def pictures() -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, 255, (20 + n, 30, 3), np.uint8) for n in range(4)]


def one_size(encoders, pictures) -> int:
    cls, patches = encoders.encode_references(pictures[:1])
    return cls.numel() * cls.element_size() + patches.numel() * patches.element_size()


def test_what_comes_again_is_not_encoded_again_and_has_the_same_features(pocket_encoders, pictures):
    cache = ReferenceCache(pocket_encoders, max_bytes=10**9)
    first = cache.encode(pictures[:2])
    again = cache.encode([pictures[1].copy(), pictures[2], pictures[1], pictures[0]])
    assert (cache.hits, cache.encoded) == (3, 3)
    expected = pocket_encoders.encode_references(pictures[:3])
    for of_first, of_again, right in zip(first, again, expected, strict=True):
        torch.testing.assert_close(of_first, right[:2], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(of_again, right[[1, 2, 1, 0]], atol=1e-5, rtol=1e-5)


def test_the_least_recently_used_goes_when_there_is_no_room(pocket_encoders, pictures):
    room = one_size(pocket_encoders, pictures)
    cache = ReferenceCache(pocket_encoders, max_bytes=2 * room)
    for index in (0, 1, 0, 2, 0):  # 1 goes when 2 comes
        cache.encode([pictures[index]])
    assert (cache.hits, cache.encoded, cache.bytes) == (2, 3, 2 * room)
    cache.encode([pictures[1]])
    assert cache.encoded == 4


def test_more_than_fits_is_encoded_all_the_same(pocket_encoders, pictures):
    cache = ReferenceCache(pocket_encoders, max_bytes=0)
    cls, _ = cache.encode(pictures)
    assert cls.shape[0] == 4
    assert cache.bytes == 0


def test_what_is_forgotten_leaves_nothing_and_is_encoded_again(pocket_encoders, pictures):
    cache = ReferenceCache(pocket_encoders, max_bytes=10**9)
    cache.encode(pictures[:2])
    for digest in (image_digest(pictures[0]), image_digest(pictures[3])):
        cache.forget(digest)
    assert cache.bytes == one_size(pocket_encoders, pictures)
    cache.encode(pictures[:2])
    assert (cache.hits, cache.encoded) == (1, 3)

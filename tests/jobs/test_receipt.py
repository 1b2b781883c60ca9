"""Receipts survive the way through a file, and what follows from them is what was asked."""

import dataclasses

import numpy as np
import pytest

from flexip.images import ImageError, decode_image, encode_jpeg, encode_png
from jobs.receipt import DrawnCanvas, DrawnSubject, Receipt, Shown, picture_file, read_receipt, region, to_request

SUBJECT = DrawnSubject("0" * 64, True, 0.1 + 0.2, [1.0, 2 / 3, 1e-7], (0.0, 0.1, 0.5, 1.0))
CANVAS = DrawnCanvas("2" * 64, "3" * 64, 0.5)
WORDS = 'a "créature" <b>& 🐸</flexip:receipt>\n\x07'
RECEIPT = Receipt(
    "flexip", "1" * 64, WORDS, "snow", 7, 2.5, 25, "dpm++2m", (SUBJECT,), CANVAS, "3", "flexip 0.1.0", "24x16"
)
NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
def test_a_receipt_comes_back_exactly_as_it_was_and_the_file_is_always_the_same(file_format):
    data = picture_file(NOISE, RECEIPT, file_format)
    assert read_receipt(data) == RECEIPT
    assert picture_file(NOISE, read_receipt(data), file_format) == data
    if file_format == "png":
        np.testing.assert_array_equal(decode_image(data), NOISE)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encode_png(NOISE), "holds no receipt; it was not drawn by FlexIP"),
        (encode_jpeg(NOISE), "holds no receipt"),
        (picture_file(NOISE, None), "holds no receipt"),
        (b"a text", "not an image"),
        (encode_png(NOISE, text={"flexip": '{"model": "x"}'}), "holds no receipt of this version (weights: Field"),
        (encode_png(NOISE, text={"flexip": "{"}), "holds no receipt of this version (text: Invalid JSON"),
    ],
)
def test_what_holds_no_receipt_says_so(data, said):
    with pytest.raises(ImageError, match="receipt") as found:
        read_receipt(data)
    assert said in str(found.value)


def test_the_request_follows_from_the_receipt():
    request = to_request(RECEIPT, [Shown(NOISE)], size=(16, 24))
    assert (request.prompt, request.seed, request.steps, request.solver) == (RECEIPT.prompt, 7, 25, "dpm++2m")
    (subject,) = request.subjects
    assert (subject.preservation, subject.personalization) == (SUBJECT.preservation, SUBJECT.personalization)
    assert subject.reference is NOISE
    assert subject.mask is not None
    assert request.size == subject.mask.shape == (16, 24)
    assert subject.mask.sum() == pytest.approx(0.5 * 0.9 * 16 * 24)
    assert to_request(dataclasses.replace(RECEIPT, subjects=()), [], size=(16, 16)).subjects == ()


def test_a_box_covers_its_part_of_each_pixel():
    covered = region((0.0, 0.25, 0.375, 1.0), size=(2, 4))
    assert covered is not None
    np.testing.assert_allclose(covered, np.outer([0.5, 1], [1, 0.5, 0, 0]))

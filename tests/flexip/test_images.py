import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from flexip.images import (
    ImageError,
    decode_image,
    decode_mask,
    decode_painted,
    encode_mask,
    encode_png,
    grid,
    pad_square,
    resize,
)


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_png_round_trip_is_exact():
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode_png(rgb)), rgb)


def test_transparent_pixels_become_white():
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:8, :, 3] = 255
    decoded = decode_image(png(Image.fromarray(rgba, "RGBA")))
    assert decoded[:8].max() == 0
    assert decoded[8:].min() == 255


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    image = Image.new("RGB", (40, 20))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert decode_image(buffer.getvalue()).shape == (40, 20, 3)


def test_sixteen_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = decode_image(png(Image.fromarray(ramp)))
    assert decoded.min() == 0
    assert decoded.max() == 255


def test_a_paint_mask_is_transparent_or_white_where_it_is_painted():
    half = np.repeat(np.array([0, 255], np.uint8), 8 * 16).reshape(16, 16)
    rgba = np.full((16, 16, 4), 255, np.uint8)
    rgba[:, :, 3] = 255 - half
    grey = Image.fromarray(half)
    opaque = grey.convert("RGBA")
    palette = grey.convert("P")
    for mask in (
        png(Image.fromarray(rgba)),
        png(grey),
        png(opaque),
        png(grey.convert("1")),
        png(Image.fromarray(half.astype(np.uint16) * 257)),
        png(palette, transparency=palette.getpixel((0, 15))),
        png(Image.fromarray(rgba).convert("LA")),
    ):
        np.testing.assert_array_equal(decode_painted(mask), half / 255)
    with pytest.raises(ImageError, match="damaged"):
        decode_painted(png(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)))[:2000])


def bomb() -> bytes:
    """A PNG header that promises 60,000 x 60,000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"hello, I am a text file", "not_an_image"),
        (bomb(), "too_many_pixels"),
        (png(Image.new("RGB", (1, 1))), "too_small"),
        (encode_png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[:2000], "truncated"),
    ],
)
def test_bad_bytes_say_why(data, reason):
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert caught.value.reason == reason


def test_mpo_and_icc_photographs_decode(test_data):
    photographs = sorted((test_data / "images/dreambooth").glob("*/*.jpg"))
    shapes = [decode_image(path.read_bytes()).shape for path in photographs]
    assert len(shapes) >= 40
    assert all(min(shape[:2]) >= 600 for shape in shapes)


def test_mask_round_trip():
    mask = np.random.default_rng(0).random((9, 17)) > 0.5
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


def test_pad_square_centres_and_keeps_every_pixel():
    rgb = np.zeros((4, 10, 3), np.uint8)
    square = pad_square(rgb)
    assert square.shape == (10, 10, 3)
    assert (square == 0).all(axis=(1, 2)).sum() == 4
    assert (square[:3] == 255).all()
    assert (square[7:] == 255).all()


def test_grid_lays_tiles_in_reading_order():
    tiles = [[np.full((4, 4, 3), v, np.uint8) for v in row] for row in [(10, 20), (30,)]]
    sheet = grid(tiles, pad=1)
    assert sheet.shape == (11, 11, 3)
    assert [sheet[2, 2, 0], sheet[2, 7, 0], sheet[7, 2, 0], sheet[7, 7, 0]] == [10, 20, 30, 255]


def test_resize_shrinks_without_aliasing():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, (16, 16))
    assert abs(int(small.mean()) - 127) < 3
    assert small.std() < 10

import numpy as np
import pytest

from pipelines.hdr import PEAK, SDR_WHITE, display_light, pq_light, pq_signal, rolled_off, tone_mapped


def grey(nits: float) -> np.ndarray:
    """A 16-bit PQ picture of one grey."""
    return np.full((2, 2, 3), round(65535 * float(pq_signal(np.array(nits)))), np.uint16)


def test_pq_has_the_values_of_the_standard():
    signal = pq_signal(np.array([0.0, 100.0, 203.0, 1000.0, 10_000.0]))
    assert signal == pytest.approx([0.0, 0.508, 0.581, 0.752, 1.0], abs=1e-3), "BT.2408, table 1, and ST 2084"
    assert pq_light(signal) == pytest.approx([0, 100, 203, 1000, 10_000], abs=1e-3)


def test_hlg_has_the_values_of_the_standard():
    light = display_light("hlg")
    assert light[[0, 32768, 65535]] == pytest.approx([0, 1 / 12, 1], abs=1e-4), "BT.2100, table 5"
    assert 1000 * light[round(0.75 * 65535)] ** 1.2 == pytest.approx(SDR_WHITE, abs=1), "BT.2408: 75% is diffuse white"


def test_dark_tones_stay_and_highlights_are_rolled_off_below_white():
    light = np.array([1.0, 40.0, 80.0, 203.0, 600.0, 1000.0, 4000.0])
    mapped = rolled_off(light)
    assert mapped[:3] == pytest.approx(light[:3], rel=1e-3)
    assert (np.diff(mapped[:6]) > 0).all()
    assert mapped[3] < light[3]
    assert mapped[5:] == pytest.approx([SDR_WHITE, SDR_WHITE], rel=1e-3)


@pytest.mark.parametrize(("nits", "level"), [(0.0, 0), (SDR_WHITE * 0.2140, 127.5), (PEAK, 255), (10_000.0, 255)])
def test_greys_become_srgb(nits, level):
    picture = tone_mapped(grey(nits), "pq")
    assert picture.dtype == np.uint8
    assert picture == pytest.approx(np.full((2, 2, 3), level), abs=1.6)


def test_colours_of_bt2020_keep_their_hue_and_are_clipped_to_srgb():
    picture = np.zeros((1, 3, 3), np.uint16)
    for channel in range(3):
        picture[0, channel, channel] = grey(200)[0, 0, 0]
    for channel, pixel in enumerate(tone_mapped(picture, "pq")[0]):
        assert np.argmax(pixel) == channel
        assert pixel.min() == 0, "a primary of BT.2020 lies outside sRGB"
    assert tone_mapped(np.full((1, 1, 3), 65535, np.uint16), "hlg") == pytest.approx(np.full((1, 1, 3), 255), abs=1)

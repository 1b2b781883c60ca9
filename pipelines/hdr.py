"""High dynamic range to the sRGB pictures that encoders expect.

FFmpeg could do it, but its wheels lack zscale, and libswscale's own tone mapping spends seconds on tables per video.
"""

import functools

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from pipelines.probe import Transfer

SDR_WHITE = 203.0  # [cd/m2] of diffuse white in a graded HDR picture (ITU-R BT.2408, table 1)
PEAK = 1000.0  # [cd/m2] that HDR is commonly graded for, and the nominal peak of HLG (ITU-R BT.2100)
BT2020_TO_BT709 = np.array(  # linear light (ITU-R BT.2087, inverse of its matrix)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def tone_mapped(rgb: UInt16[np.ndarray, "H W 3"], transfer: Transfer) -> UInt8[np.ndarray, "H W 3"]:
    """PQ or HLG in full-range BT.2020 RGB of 16 bits as sRGB: below half of white unchanged, highlights rolled off."""
    light = display_light(transfer)[rgb]
    if transfer == "hlg":  # the display's system gamma of 1.2 acts on luminance (BT.2100, table 5)
        luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light = PEAK * light * np.maximum(luminance, 1e-6)[..., None] ** 0.2
    brightest = np.maximum(light.max(axis=2, keepdims=True), 1e-4)  # mapped by one factor: hue stays
    light = light * (rolled_off(brightest) / brightest) / SDR_WHITE
    linear = np.clip(cv2.transform(light, BT2020_TO_BT709), 0.0, 1.0)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    return (255 * curved + 0.5).astype(np.uint8)


@functools.lru_cache(maxsize=2)
def display_light(transfer: Transfer) -> Float32[np.ndarray, " 65536"]:
    """Light of each 16-bit value: [cd/m2] for PQ; of the scene, 0..1, for HLG (ITU-R BT.2100, tables 4 and 5)."""
    signal = np.linspace(0.0, 1.0, 65536)
    if transfer == "pq":
        return pq_light(signal).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)


def rolled_off(light: np.ndarray) -> np.ndarray:
    """Light [cd/m2] up to PEAK brought below SDR_WHITE: the spline of ITU-R BT.2390, 5.4.1, in the PQ domain."""
    peak = pq_signal(np.array(PEAK))
    value = np.minimum(pq_signal(light) / peak, 1.0)
    most = pq_signal(np.array(SDR_WHITE)) / peak
    knee = 1.5 * most - 0.5
    t = np.maximum(value - knee, 0.0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return pq_light(np.where(value < knee, value, spline) * peak).astype(np.float32)


def pq_light(signal: np.ndarray) -> np.ndarray:
    """Light [cd/m2] of a PQ signal 0..1 (SMPTE ST 2084)."""
    power = np.power(np.clip(signal, 0, 1), 32 / 2523)
    return 10_000 * np.power(np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power), 16384 / 2610)


def pq_signal(light: np.ndarray) -> np.ndarray:
    """PQ signal 0..1 of light [cd/m2], the inverse of `pq_light`."""
    power = np.power(np.clip(light / 10_000, 0, 1), 2610 / 16384)
    return np.power((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power), 2523 / 32)

"""Pictures that the renderer repeats on every machine; `python tests/support/reference_frames.py` draws them anew.

Do that only when the world is meant to look different; the models were trained on what it looked like.
"""

from pathlib import Path

import numpy as np

from flexip.images import encode_png
from flexip.pocket.identity import identity
from flexip.pocket.scenes import SCENES
from flexip.pocket.styles import STYLES
from flexip.pocket.world import place, render

FILE = Path(__file__).parents[1] / "pocket" / "reference_frames.png"


def draw_sheet() -> np.ndarray:
    """A row for each style, a column for each scene, one to five creatures; uint8 (4 * 64, 10 * 64, 3)."""
    rows = []
    for i, style in enumerate(STYLES):
        row = []
        for j, scene in enumerate(SCENES):
            people = [identity("train", 100 * i + 10 * j + k) for k in range(1 + (i + j) % 5)]
            picture = place(people, np.random.default_rng((i, j)), scene=scene, style=style)
            row.append(render(picture, 64).image)
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows)


if __name__ == "__main__":
    FILE.write_bytes(encode_png(draw_sheet()))

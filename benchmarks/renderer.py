"""Frames per second that the pocket world renders on one core, for pictures as training draws them.

python -m benchmarks.renderer --seconds 5
"""

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np

from flexip.images import encode_png
from flexip.pocket.identity import identity
from flexip.pocket.styles import STYLES
from flexip.pocket.world import Picture, place, random_picture, render


def frames_per_second(draw: Callable[[Picture], object], pictures: list[Picture], seconds: float) -> float:
    """How often `draw` runs in a second, over the pictures in turn, for at least that long."""
    draw(pictures[0])
    done, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        draw(pictures[done % len(pictures)])
        done += 1
    return done / spent


def cases() -> dict[str, list[Picture]]:
    """What is rendered: the mixture of training, each style, and a crowd."""
    rng = np.random.default_rng(0)
    people = [identity("train", k) for k in range(5)]
    named = {"as in training": [random_picture(rng) for _ in range(200)]}
    named |= {f"one creature, {style}": [place(people[:1], rng, style=style) for _ in range(50)] for style in STYLES}
    return named | {"five creatures, flat": [place(people, rng, style="flat") for _ in range(50)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of measurement for each line")
    seconds = parser.parse_args().seconds
    cv2.setNumThreads(1)
    mixture = cases()["as in training"]
    images = iter([render(picture, 64).image for picture in mixture] * 1000)
    yardstick = frames_per_second(lambda _: encode_png(next(images)), mixture, min(seconds, 3.0))
    print(f"{'one core':28} {'64 px':>12} {'128 px':>12}")
    for name, pictures in cases().items():
        rates = [frames_per_second(lambda p, size=size: render(p, size), pictures, seconds) for size in (64, 128)]
        print(f"{name:28} " + " ".join(f"{rate:8.0f} /s " for rate in rates))
    print(f"{'PNG of 64 px, to compare':28} {yardstick:8.0f} /s")


if __name__ == "__main__":
    main()

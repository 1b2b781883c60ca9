"""Pictures scored per second on one core, encoded anew and from the cache, in one run.

python -m benchmarks.evaluate --pictures 256
python -m benchmarks.evaluate --clip ViT-B-32-quickgelu/openai --dino vit_small_patch16_224.dino --side 512
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from evaluation.answers import Answer, Cell
from evaluation.benchmarks import Benchmark, Photo
from evaluation.cache import VectorCache
from evaluation.eyes import clip_eye, dino_eye
from evaluation.layouts import pocket_benchmark
from evaluation.scoring import Judges, Scoring
from flexip.images import encode_png, resize
from flexip.pocket.world import random_picture, render


def random_answers(benchmark: Benchmark, count: int, side: int) -> list[Answer]:
    """Rendered pictures as answers to the benchmark's cases in turn; every picture is another one."""
    answers = []
    for number in range(count):
        case = benchmark.cases[number % len(benchmark.cases)]
        image = resize(render(random_picture(np.random.default_rng(number)), 64).image, (side, side))
        photo = Photo(encode_png(image), f"picture {number}")
        answers.append(Answer(Cell("random", case.unit, case.number, number // len(benchmark.cases)), photo))
    return answers


def seconds_of(scoring: Scoring) -> float:
    """Wall time of all columns, pictures decoded anew."""
    fresh = [Answer(a.cell, Photo(a.photo.data, a.photo.origin)) for a in scoring.answers]
    begin = time.perf_counter()
    replace(scoring, answers=fresh).columns()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--side", type=int, default=64, help="of a picture [px]")
    parser.add_argument("--clip", default="pocket")
    parser.add_argument("--dino", default="pocket")
    given = parser.parse_args()
    torch.set_num_threads(1)
    benchmark = pocket_benchmark("test", creatures=8, photos=2)
    judges = Judges(clip_eye(given.clip), dino_eye(given.dino))
    answers = random_answers(benchmark, given.pictures, given.side)
    with tempfile.TemporaryDirectory() as folder:
        scoring = Scoring(benchmark, answers, judges, VectorCache(Path(folder) / "vectors.sqlite"))
        anew, kept = seconds_of(scoring), seconds_of(scoring)
    print(f"{judges.clip.name} and {judges.dino.name}, {given.pictures} pictures of {given.side} px, one core")
    print(f"encoded anew    {given.pictures / anew:8.1f} pictures/s")
    print(f"from the cache  {given.pictures / kept:8.1f} pictures/s, {anew / kept:.1f} times as many")


if __name__ == "__main__":
    main()

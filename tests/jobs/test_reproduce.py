"""The comparison: its page is made of what is kept, and its parts survive the death of who makes them."""

import json
import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from evaluation.pocket import EDITS
from evaluation.readings import Readings, save_readings
from flexip.images import decode_image, encode_png
from flexip.pocket import weights_path
from flexip.pocket.oracle import ATTRIBUTES
from jobs.cluster import ray_session
from jobs.config import RayConfig
from jobs.reproduce import compare
from jobs.reproduction.page import write_page
from jobs.reproduction.parts import make_parts
from jobs.reproduction.place import OutOfTime, Place
from jobs.reproduction.plan import BASE, BASELINES, FLEXIP, PRESETS, Method, Sweep
from jobs.reproduction.trials import Trial, archived

SMOKE = PRESETS["smoke"]
FACTS = {
    "training": {"steps": 2, "batch_size": 32},
    "speed": {"samples_per_second": 8.0},
    "parameters": 1234,
    "machine": "a laptop",
    "versions": {"torch": "2"},
    "dataset": {"train": 82},
}


@pytest.fixture
def place(tmp_path) -> Place:
    recipe = Path("configs/pocket/reproduce.yaml").resolve()
    return Place(tmp_path, tmp_path / "results", recipe, weights_path(), SMOKE, RayConfig())


def keep(place: Place, method: Method, sweep: Sweep) -> Path:
    """Readings drawn at random, as a finished trial leaves them."""
    trial = Trial(method, 0, sweep, SMOKE.guidances[0])
    path, rng = archived(place, trial), np.random.default_rng(len(method.name))
    cells = (sweep.creatures, len(EDITS), sweep.noises, len(trial.dial))
    values = {name: rng.integers(0, len(found), (2, *cells)).astype(np.int8) for name, found in ATTRIBUTES.items()}
    save_readings(path, Readings(values, *(rng.random(cells, np.float32) for _ in range(3))))
    path.with_suffix(".json").write_text(json.dumps(FACTS))
    strip = np.zeros((64 * sweep.creatures, 64 * (1 + len(trial.dial)), 3), np.uint8)
    path.with_suffix(".png").write_bytes(encode_png(strip))
    return path


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # two creatures leave empty cells
def test_the_page_is_made_of_the_trials_that_are_kept_and_nothing_is_made_again(place):
    for method in (FLEXIP, *BASELINES):
        keep(place, method, SMOKE.choosing)
        keep(place, method, SMOKE.main)
    keep(place, FLEXIP, SMOKE.ablation)
    last = keep(place, BASE, replace(SMOKE.main, settings=1))
    over = time.monotonic() - 1
    comparison = compare(place, over)
    page = place.output / "results.md"
    write_page(comparison, page, "python -m jobs.reproduce --preset smoke")
    text = page.read_text()
    titles = ("FlexIP", *(method.title for method in BASELINES), "guessing", "the perfect answer, rendered")
    assert all(f"| {title} |" in text for title in titles)
    assert "Left out of this preset." in text
    assert decode_image((place.archive / "strips.png").read_bytes()).size
    last.unlink()
    with pytest.raises(OutOfTime, match="base-0-test-g3"):
        compare(place, over)


def test_a_trial_is_kept_under_all_that_it_depends_on(place):
    trial = Trial(FLEXIP, 0, SMOKE.main, 3.0)
    others = [
        replace(trial, seed=1),
        replace(trial, guidance=5.0),
        replace(trial, sweep=replace(SMOKE.main, steps=3)),
        replace(trial, sweep=replace(SMOKE.main, precision="fp32")),
        replace(trial, method=replace(FLEXIP, options={"gate.variant": 0.4})),
    ]
    names = {archived(place, one) for one in [trial, *others]}
    names.add(archived(replace(place, preset=replace(SMOKE, steps=3)), trial))
    assert len(names) == len(others) + 2
    assert archived(place, replace(trial, method=replace(FLEXIP, title="other words"))) == archived(place, trial)


def _dying_maker(folder: Path):
    """A maker whose process dies over part 1, once."""

    def make(number: int) -> None:
        if number == 1 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / f"{number}.txt").write_text(str(os.getpid()))

    return make


def test_the_part_of_a_process_that_dies_is_made_by_another(tmp_path):
    with ray_session(RayConfig(num_cpus=2, object_store_mb=128)):
        make_parts(partial(_dying_maker, tmp_path), range(4), "trial", "part")
    assert (tmp_path / "died").exists()
    makers = {int((tmp_path / f"{number}.txt").read_text()) for number in range(4)}
    assert os.getpid() not in makers

"""What docs/interop.md says to type works as typed."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.config import load
from jobs.curate import PairsConfig
from jobs.export import ExportConfig
from jobs.train import TrainConfig

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "interop.md").read_text()
COMMANDS = re.findall(r"^python -m jobs\.(.+)$", GUIDE, re.MULTILINE)
CONFIGS = {"export": ExportConfig, "train": TrainConfig, "curate export dataset/": PairsConfig}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_lines_of_the_guide_are_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    [job] = [job for job in CONFIGS if command.startswith(f"{job} ")]
    assert load(CONFIGS[job], command.removeprefix(job).split(), f"python -m jobs.{job}")
    assert len(COMMANDS) >= 6


def test_the_python_of_the_guide_draws(untrained_checkpoint, reference, tmp_path, monkeypatch):
    shutil.copytree(untrained_checkpoint, tmp_path / "run" / "checkpoint")
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"```python\n(from diffusers.+?)```", GUIDE, re.DOTALL)
    names = {"reference": reference, "start": Image.fromarray(np.full((64, 64, 3), 128, np.uint8))}
    exec(
        compile(block.replace("strength=0.8", "strength=0.8, num_inference_steps=3"), "docs/interop.md", "exec"), names
    )
    assert names["image"].size == (64, 64)


def test_every_file_that_the_guide_names_is_there():
    named = re.findall(r"`(tests/[\w/.]+)`|\]\(\.\./([\w/.]+)\)", GUIDE)
    assert len(named) >= 8
    assert [name for pair in named for name in pair if name and not (ROOT / name).is_file()] == []

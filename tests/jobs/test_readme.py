"""What the README says to type works as typed."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from flexip.images import encode_png
from jobs.calibrate import CalibrateConfig
from jobs.config import load
from jobs.console import UserError
from jobs.curate import CurateConfig
from jobs.evaluate import EvaluateConfig
from jobs.generate import GenerateConfig
from jobs.serve import ServeConfig, build
from jobs.train import TrainConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIGS = {
    "calibrate": CalibrateConfig,
    "curate": CurateConfig,
    "evaluate": EvaluateConfig,
    "generate": GenerateConfig,
    "serve": ServeConfig,
    "train": TrainConfig,
}
COMMANDS = re.findall(r"^python -m jobs\.(\w+) (-.+?[^\\])$", README, re.MULTILINE | re.DOTALL)


def test_the_python_of_the_readme_draws(untrained_checkpoint, reference, tmp_path, monkeypatch):
    shutil.copytree(untrained_checkpoint, tmp_path / "run" / "checkpoint")
    (tmp_path / "subject.png").write_bytes(encode_png(reference))
    monkeypatch.chdir(tmp_path)
    masks = dict.fromkeys(("mask", "left", "right"), np.ones((64, 64), np.float32))
    names = masks | {"front": reference, "picture": reference, "side": reference[:, ::-1].copy()}
    blocks = re.findall(r"```python\n(from flexip.+?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["image"].size == (64, 64)
    assert [image.shape for image in names["images"]] == [(64, 64, 3)] * 9


@pytest.mark.parametrize(("job", "words"), COMMANDS, ids=[job for job, _ in COMMANDS])
def test_the_command_lines_of_the_readme_are_understood(job, words):
    argv = [word.strip("\"'") for word in re.findall(r"\"[^\"]*\"|\S+", words.replace("\\\n", " "))]
    argv = [str(ROOT / word) if word.startswith("configs/") else word for word in argv]
    try:
        assert load(CONFIGS[job], argv, f"python -m jobs.{job}")
    except UserError as error:
        pytest.fail(str(error))
    assert len(COMMANDS) >= 5


def test_the_configuration_of_the_serving_guide_is_understood(tmp_path):
    blocks = re.findall(r"```yaml\n(.+?)```", (ROOT / "docs" / "serving.md").read_text(), re.DOTALL)
    (tmp_path / "serve.yaml").write_text(blocks[0])
    config = load(ServeConfig, ["--config", str(tmp_path / "serve.yaml")], "python -m jobs.serve")
    assert list(config.sources) == ["creatures", "painter", "last-week"]
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(blocks[1])).applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    with pytest.raises(UserError, match=r"access\.keys: missing"):
        build(ServeConfig(checkpoint="somewhere"))

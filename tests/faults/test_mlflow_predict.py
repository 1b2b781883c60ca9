"""`mlflow models predict` on an exported checkpoint, in a process of MLflow's own."""

import base64
import json
import subprocess
import sys

from flexip.checkpoint import load_checkpoint
from flexip.images import decode_image, encode_png
from flexip.request import Request
from flexip.sampler import sample
from jobs.export import ExportConfig, run


def test_the_command_draws_what_the_sampler_draws(untrained_checkpoint, reference, tmp_path):
    run(ExportConfig(checkpoint=untrained_checkpoint, to="mlflow", output=tmp_path / "model"))
    row = {"image": base64.b64encode(encode_png(reference)).decode(), "prompt": "a creature", "steps": 2, "seed": 3}
    (tmp_path / "asked.json").write_text(json.dumps({"dataframe_records": [row]}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "--model-uri", str(tmp_path / "model")]
    command += ["--input-path", str(tmp_path / "asked.json"), "--output-path", str(tmp_path / "answer.json")]
    command += ["--content-type", "json", "--env-manager", "local"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=2800, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    [answer] = json.loads((tmp_path / "answer.json").read_text())["predictions"]
    [expected] = sample(
        load_checkpoint(untrained_checkpoint), [Request("a creature", reference, 0.7, 0.3, seed=3, steps=2)]
    )
    drawn = decode_image(base64.b64decode(answer["image"]))
    assert abs(drawn.astype(int) - expected).max() <= 1  # another process may have another number of threads

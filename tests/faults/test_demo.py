"""The demo as a user runs it: a process of its own, every stage real, on the pocket world and on a film."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from flexip.checkpoint import load_checkpoint
from flexip.images import decode_image
from pipelines.shards import verify

ROOT = Path(__file__).parents[2]
PRODUCTS = ("contact sheet", "checkpoint", "sweep", "report", "served answer")


def run_demo(output: Path, *words: str) -> tuple[str, dict[str, Path]]:
    """Everything it printed, and its products by name."""
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir="/tmp"))  # short: Ray puts sockets below it
    command = [sys.executable, "-m", "jobs.demo", "--output", str(output), "--steps", "4", *words]
    done = subprocess.run(
        command, env=os.environ | {"RAY_TMPDIR": str(folder)}, cwd=ROOT, text=True, timeout=2800, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    folder.rmdir()  # fails unless the demo's Ray has taken everything with it
    listed = re.findall(r"^  (\w[\w ]*?) {2,}(\S+)$", done.stdout, re.MULTILINE)
    return done.stdout, {name: Path(path) for name, path in listed}


def check_products(output: Path, products: dict[str, Path]) -> None:
    for name in PRODUCTS:
        assert products[name].exists(), name
        assert output in products[name].parents
    verify(output / "dataset")
    assert load_checkpoint(products["checkpoint"]).digest
    assert decode_image(products["sweep"].read_bytes()).shape[1] > 7 * 128  # the reference and six gammas
    assert decode_image(products["served answer"].read_bytes()).shape == (64, 64, 3)
    assert "data:image/jpeg" in products["report"].read_text()


def check_output(text: str) -> None:
    """A line per stage, and nothing that a library said on its own."""
    for stage in ("sources", "pairs", "curate", "train", "evaluate", "serve"):
        assert re.search(rf"^{stage} ", text, re.MULTILINE), stage
    assert not re.search(r"Traceback|Warning|WARNING|\(pid=|core_worker|raylet", text)
    assert len(text.splitlines()) < 100
    assert "mlflow ui --backend-store-uri sqlite:///" in text


def test_the_pocket_world_becomes_a_sweep_a_report_and_a_served_picture(tmp_path):
    text, products = run_demo(tmp_path / "out", "--videos", "6", "--stills", "12", "--subjects", "2")
    check_output(text)
    check_products(tmp_path / "out", products)
    assert "too few subjects" not in text  # the sweep's were held out


def test_a_film_is_an_input_too(tmp_path, test_data):
    film = test_data / "video" / "sintel_trailer_10s.mp4"
    text, products = run_demo(tmp_path / "out", "--input", str(film))
    check_output(text)
    check_products(tmp_path / "out", products)

"""The evaluation job on the pocket models: real sampling, real scoring, real files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evaluation import metrics
from evaluation.benchmarks import BenchmarkError, Photo, Subject
from evaluation.sweep import SweepPlan, draw_sweep, embed_images, measure_sweep
from flexip.checkpoint import load_checkpoint
from flexip.images import decode_image, encode_png
from flexip.rows import SPLITS, PairRow, Split, arrow_schema
from flexip.sampler import sample
from jobs import calibrate
from jobs.cluster import ray_session
from jobs.config import RayConfig
from jobs.console import UserError
from jobs.evaluate import EvaluateConfig, main
from jobs.evaluation.harness import evaluate
from jobs.evaluation.questions import methods_of, questions_of, subjects_of
from pipelines.shards import SCHEMA_VERSION, DatasetError, Manifest, write_manifest, write_table

RAY = RayConfig(num_cpus=2, object_store_mb=100)
GAMMAS = [0.0, 0.5, 1.0]


def picture(colour: tuple[int, int, int], reference: np.ndarray) -> np.ndarray:
    return np.where(reference[..., :1] < 255, np.array(colour, np.uint8), reference)


@pytest.fixture(scope="module")
def references(reference, tmp_path_factory) -> Path:
    """One picture, one folder of pictures, and files that are none."""
    folder = tmp_path_factory.mktemp("references")
    (folder / "blue.png").write_bytes(encode_png(picture((20, 40, 220), reference)))
    (folder / "green").mkdir()
    (folder / "green" / "00.png").write_bytes(encode_png(picture((20, 200, 40), reference)[:40]))
    (folder / "green" / "01.png").write_bytes(encode_png(reference))
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def dataset(reference, tmp_path_factory) -> Path:
    """Three identities of two pairs each: two for test, one for training."""
    root = tmp_path_factory.mktemp("dataset")
    rows = []
    placed: list[tuple[str, Split]] = [("b", "test"), ("a", "test"), ("a", "test"), ("c", "train")]
    for i, (cluster, split) in enumerate(placed):
        png = encode_png(picture((60 * i, 30, 90), reference))
        pair = PairRow(f"p{i}", "variant", split, cluster, f"r{i}", f"t{i}", png, b"", png, "a creature", 0, 1, 1)
        rows.append(vars(pair))
    table = pa.Table.from_pylist(rows, schema=arrow_schema(PairRow))
    entry = write_table(root, "variant/pairs/part-00000.parquet", table)
    sizes: dict[str, dict[str, int]] = {
        "invariant": dict.fromkeys(SPLITS, 0),
        "variant": {"train": 1, "val": 0, "test": 3},
    }
    manifest = Manifest(SCHEMA_VERSION, {}, {}, {}, {}, "float16", {}, sizes, {"test": 2})
    write_manifest(root, manifest, [entry])
    return root


@pytest.fixture(scope="module")
def ray_up():
    with ray_session(RAY):
        yield


def config(checkpoint: Path, output: Path, **fields) -> EvaluateConfig:
    given: dict[str, Any] = {
        "gammas": GAMMAS, "steps": 1, "prompts": ["on a beach"], "workers": 1, "track": False, "ray": RAY
    }  # fmt: skip
    return EvaluateConfig(checkpoint=checkpoint, output=output, **(given | fields))


def test_a_folder_of_references_becomes_a_report(ray_up, untrained_checkpoint, references, tmp_path, capsys):
    (references / "broken.png").write_bytes(b"text")
    result = evaluate(config(untrained_checkpoint, tmp_path / "out", references=references, prompts=["snow", "sea"]))
    (references / "broken.png").unlink()
    scores = json.loads(result.scores_json.read_text())
    assert scores["benchmark"]["subjects"] == 2
    assert "broken.png" in scores["notes"][0]
    assert "flatters" in scores["remarks"][0]
    (sweep,) = scores["sweeps"]
    assert sweep["settings"] == GAMMAS
    for curve in (sweep["identity_curve"], sweep["text_curve"]):
        assert np.all(np.less_equal(curve["low"], curve["mean"]) & np.less_equal(curve["mean"], curve["high"]))
    assert decode_image(result.sweep_png.read_bytes()).shape[1] > 4 * 128  # the reference and three gammas
    assert sweep["identity"] in result.report_html.read_text()
    assert "flexip, gamma 0 -> 1: identity" in capsys.readouterr().out


def test_subjects_of_a_split_come_with_their_references(dataset, tmp_path):
    subjects = subjects_of(dataset, "test", 8)
    assert [(subject.name, len(subject.photos)) for subject in subjects] == [("a", 2), ("b", 1)]
    assert [subject.name for subject in subjects_of(dataset, "test", 1)] == ["a"]
    asked, _ = questions_of(config(tmp_path, tmp_path, dataset=dataset))
    assert [(case.unit, case.prompt) for case in asked.cases] == [("a", "on a beach"), ("b", "on a beach")]
    (method,) = methods_of(config(tmp_path, tmp_path, dataset=dataset))
    assert not method.cut_out


def test_every_cell_of_a_sweep_is_its_own_request_drawn_alone(untrained_checkpoint, reference):
    engine = load_checkpoint(untrained_checkpoint)
    pngs = [encode_png(image) for image in (reference, reference[:, ::-1].copy())]
    subjects = [Subject(name, "it", (Photo(png, name),)) for name, png in zip(("one", "two"), pngs, strict=True)]
    plan = SweepPlan(subjects, ["snow", "sea"], [0.0, 1.0], seeds=(1, 2), steps=2)
    steps = []
    images = draw_sweep(engine, plan, batch_size=5, on_steps=steps.append)
    assert images.shape == (2, 2, 2, 2, 64, 64, 3)
    assert len(steps) == 8
    assert sum(steps) == plan.denoising_steps == 32
    request = plan.requests()[-3]
    assert (request.prompt, request.seed, request.preservation, request.personalization) == ("sea", 1, 1.0, 0.0)
    np.testing.assert_allclose(images[1, 1, 0, 1].astype(int), sample(engine, [request])[0].astype(int), atol=1)
    found, turned = (
        measure_sweep(engine.encoders, replace(plan, gammas=gammas), images) for gammas in ([0.0, 1.0], [1.0, 0.0])
    )
    assert found.identity.shape == found.text.shape == (1, 2, 2)
    np.testing.assert_allclose(found.identity[..., ::-1], turned.identity)  # settings rise, however they were drawn
    shown = metrics.unit(embed_images(engine.encoders, plan.references)["dino"])
    assert found.corner[0] == pytest.approx(shown[0] @ shown[1])


def test_what_cannot_be_evaluated_is_one_line(untrained_checkpoint, references, dataset, tmp_path):
    def error_of(kind: type[Exception], checkpoint: Path = untrained_checkpoint, **fields) -> str:
        with pytest.raises(kind) as error:
            evaluate(config(checkpoint, tmp_path / "out", **fields))
        assert "\n" not in str(error.value)
        return str(error.value)

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "cat.png").write_bytes(b"text")
    assert "has no adapters.safetensors" in error_of(UserError, tmp_path, references=references)
    assert "none given" in error_of(UserError)
    assert "dataset and references given" in error_of(UserError, references=references, dataset=dataset)
    assert "no subject in its val split" in error_of(UserError, dataset=dataset, split="val")
    assert "no dataset" in error_of(DatasetError, dataset=tmp_path)
    assert "no folder" in error_of(BenchmarkError, references=tmp_path / "nowhere")
    assert "0 subjects, 0 cases" in error_of(BenchmarkError, references=untrained_checkpoint)
    assert "cat.png" in error_of(BenchmarkError, references=broken)
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_error_and_exits_with_2(references, tmp_path, capsys):
    words = ["--checkpoint", str(tmp_path), "--output", str(tmp_path), "--references", str(references)]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: methods: flexip: checkpoint")
    with pytest.raises(SystemExit):
        main([*words, "--gammas", "0,2"])
    assert "less than or equal to 1" in capsys.readouterr().err


def test_a_checkpoint_is_calibrated_in_place(untrained_checkpoint, dataset, tmp_path, capsys):
    checkpoint = shutil.copytree(untrained_checkpoint, tmp_path / "checkpoint")
    found = calibrate.run(
        calibrate.CalibrateConfig(
            checkpoint=checkpoint, dataset=dataset, split="test", prompts=["on a beach"], steps=1, batch_rows=8
        )
    )
    assert load_checkpoint(checkpoint).calibration == found
    assert found.gammas == [round(0.1 * i, 1) for i in range(11)]
    assert found.identity == sorted(found.identity)
    assert found.subjects == 2
    assert f"keeps identity {found.identity[0]:.3f} to {found.identity[-1]:.3f}" in capsys.readouterr().out
    with pytest.raises(UserError, match="no subject in its val split"):
        calibrate.run(calibrate.CalibrateConfig(checkpoint=checkpoint, dataset=dataset))

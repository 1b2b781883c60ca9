"""The evaluation job on the pocket models: real sampling, real scoring, real files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from evaluation.sweep import Subject, SweepPlan, draw_sweep
from flexip.checkpoint import CheckpointError, load_checkpoint
from flexip.images import ImageError, decode_image, encode_png
from flexip.rows import SPLITS, PairRow, Split, arrow_schema
from flexip.sampler import sample
from jobs import calibrate
from jobs.console import UserError
from jobs.evaluate import EvaluateConfig, main, run
from pipelines.shards import SCHEMA_VERSION, DatasetError, Manifest, write_manifest, write_table

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


def config(checkpoint: Path, output: Path, **fields) -> EvaluateConfig:
    return EvaluateConfig(
        checkpoint=checkpoint, output=output, **({"gammas": GAMMAS, "steps": 2, "prompts": ["on a beach"]} | fields)
    )


def test_a_folder_of_references_becomes_three_files(untrained_checkpoint, references, tmp_path, capsys):
    result = run(config(untrained_checkpoint, tmp_path / "out", references=references, prompts=["snow", "sea"]))
    scores = json.loads(result.scores_json.read_text())
    assert scores["subjects"] == ["blue", "green"]
    assert scores["gammas"] == GAMMAS
    assert scores["checkpoint"] == load_checkpoint(untrained_checkpoint).digest[:16]
    for curve in scores["curves"].values():
        assert np.shape(curve["mean"]) == (3,)
        assert np.all(np.less_equal(curve["low"], curve["mean"]) & np.less_equal(curve["mean"], curve["high"]))
        assert set(curve["per_subject"]) == {"blue", "green"}
    sheet = np.asarray(Image.open(result.sweep_png))
    assert sheet.shape[1] > 4 * 128  # the reference and three gammas
    assert scores["protocol_id"] in result.report_html.read_text()
    assert "gamma 0 -> 1: identity" in capsys.readouterr().out


def test_subjects_come_from_the_test_split_one_reference_each(untrained_checkpoint, dataset, tmp_path):
    result = run(config(untrained_checkpoint, tmp_path, dataset=dataset))
    assert result.summary.subjects == ["a", "b"]


def test_the_same_evaluation_gives_the_same_scores(untrained_checkpoint, references, tmp_path):
    first = run(config(untrained_checkpoint, tmp_path / "1", references=references, subjects=1))
    again = run(config(untrained_checkpoint, tmp_path / "2", references=references, subjects=1, batch_rows=2))
    np.testing.assert_allclose(
        first.summary.identity_dino.per_subject, again.summary.identity_dino.per_subject, atol=1e-3
    )


def test_every_cell_of_a_sweep_is_its_own_request_drawn_alone(untrained_checkpoint, reference):
    engine = load_checkpoint(untrained_checkpoint)
    subjects = [Subject("one", reference), Subject("two", reference[:, ::-1].copy())]
    plan = SweepPlan(subjects, ["snow", "sea"], [0.0, 1.0], seeds=(1, 2), steps=2)
    steps = []
    images = draw_sweep(engine, plan, batch_size=5, on_steps=steps.append)
    assert images.shape == (2, 2, 2, 2, 64, 64, 3)
    assert len(steps) == 8
    assert sum(steps) == plan.denoising_steps == 32
    request = plan.requests()[-3]
    assert (request.prompt, request.seed, request.preservation, request.personalization) == ("sea", 1, 1.0, 0.0)
    np.testing.assert_allclose(images[1, 1, 0, 1].astype(int), sample(engine, [request])[0].astype(int), atol=1)


def test_what_cannot_be_evaluated_is_one_line(untrained_checkpoint, references, dataset, tmp_path):
    def error_of(kind: type[Exception], checkpoint: Path = untrained_checkpoint, **fields) -> str:
        with pytest.raises(kind) as error:
            run(config(checkpoint, tmp_path / "out", **fields))
        assert "\n" not in str(error.value)
        return str(error.value)

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "cat.png").write_bytes(b"text")
    assert "no config.json" in error_of(CheckpointError, tmp_path, references=references)
    assert "neither is given" in error_of(UserError)
    assert "both are given" in error_of(UserError, references=references, dataset=dataset)
    assert "no subject in its val split" in error_of(UserError, dataset=dataset, split="val")
    assert "no dataset" in error_of(DatasetError, dataset=tmp_path)
    assert "no such folder" in error_of(UserError, references=tmp_path / "nowhere")
    assert "no picture there" in error_of(UserError, references=untrained_checkpoint)
    assert "cat.png" in error_of(ImageError, references=broken)
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_error_and_exits_with_2(tmp_path, capsys):
    words = ["--checkpoint", str(tmp_path), "--output", str(tmp_path), "--references", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: checkpoint")
    with pytest.raises(SystemExit):
        main([*words, "--gammas", "0,2"])
    assert "less than or equal to 1" in capsys.readouterr().err


def test_a_reference_that_is_not_square_is_padded_in_the_sheet(untrained_checkpoint, references, tmp_path):
    result = run(config(untrained_checkpoint, tmp_path, references=references / "green"))
    assert result.summary.subjects == ["00", "01"]
    assert decode_image(result.sweep_png.read_bytes()).shape[2] == 3


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

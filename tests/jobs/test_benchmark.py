"""A benchmark from end to end on the pocket models: real drawing on Ray, real scoring, real files."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from safetensors.torch import save_file

from evaluation.answers import Cell
from evaluation.benchmarks import BenchmarkError, Photo
from flexip.images import encode_png
from jobs import judge, study
from jobs.cluster import ray_session
from jobs.config import RayConfig, load
from jobs.console import UserError
from jobs.evaluate import EvaluateConfig
from jobs.evaluation.config import BenchmarkConfig, MethodConfig
from jobs.evaluation.drawing import Row, draw_rows, missing_rows
from jobs.evaluation.harness import evaluate
from jobs.evaluation.methods import Ask, Steps, dial_of, load_painter, maker_of
from jobs.evaluation.questions import benchmark_of

ROOT = Path(__file__).parents[2]
POCKET = BenchmarkConfig(layout=["pocket"], subjects=2, prompts_each=1)
RAY = RayConfig(num_cpus=2, object_store_mb=100)


def config(output: Path, checkpoint: Path, **fields) -> EvaluateConfig:
    given: dict[str, Any] = {
        "checkpoint": checkpoint,
        "output": output,
        "benchmark": POCKET,
        "methods": [MethodConfig(name="base", kind="base")],
        "gammas": [0.0, 1.0],
        "steps": 1,
        "track": False,
        "workers": 1,
        "ray": RAY,
    }
    return EvaluateConfig(**(given | fields))


@pytest.fixture(scope="module")
def ray_up():
    with ray_session(RAY):
        yield


def test_a_benchmark_is_drawn_scored_and_gone_on_with(ray_up, untrained_checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    first = evaluate(config(out, untrained_checkpoint))
    assert first.drawn == 2 * (2 + 1)  # subjects x (two gammas and the base model)
    scores, rows = first.scores_json.read_bytes(), first.scores_jsonl.read_text().splitlines()
    found = json.loads(scores)
    assert [row["method"] for row in found["leaderboard"]] == ["flexip", "base", "copy", "wrong subject"]
    assert {"Edit obeyed (pocket oracles)", "FaceSim (pocket face nets)"} <= set(found["protocols"])
    assert len(rows) == len(found["protocols"]) * (6 + 4)
    kept = sorted((out / "pictures").rglob("*.png"))
    kept[0].unlink()
    shutil.rmtree(out / "embeddings.sqlite", ignore_errors=True)
    again = evaluate(config(out, untrained_checkpoint))
    assert again.drawn == 1
    assert again.scores_json.read_bytes() == scores
    assert evaluate(config(out, untrained_checkpoint, steps=2)).drawn == 6  # other settings, other pictures
    assert "copying the reference wins" in capsys.readouterr().out


def test_a_row_that_cannot_be_drawn_costs_itself(ray_up, untrained_checkpoint, tmp_path):
    method, steps = MethodConfig(name="flexip", kind="flexip", checkpoint=untrained_checkpoint), Steps(1, 1.0, 4)
    good = benchmark_of(POCKET)[0].subjects[0].reference
    photos = {0: good, 1: Photo(b"text", "broken.png")}
    rows = [Row(Cell("flexip", "a", i, 0, 0.5), Ask("a creature", photo, 0, 0.5), "m") for i, photo in photos.items()]
    (failed,) = draw_rows(tmp_path, method, rows, steps, 1, False, lambda _: None)
    assert "broken.png: not an image" in failed
    assert missing_rows(tmp_path, rows) == rows[1:]


def test_diffusers_ip_adapter_draws_by_its_scale(tmp_path):
    from evaluation.baselines import ADAPTERS
    from flexip.encoders import load_unet
    from flexip.ip_adapter import to_ip_adapter
    from flexip.model import FlexIP, adapter_config

    unet = load_unet()
    shapes = {"clip": (16,), "dino": (16, 16), "text": (77, unet.config.cross_attention_dim)}
    sizes: dict[str, Any] = {"method": "ip-adapter", "queries": 4, "depth": 1, "heads": 2, "dim_head": 32}
    model = FlexIP(unet, adapter_config(unet, shapes, **sizes), ADAPTERS["ip-adapter"])
    tensors = to_ip_adapter(model)
    flat = {f"{part}.{name}": t.contiguous() for part, of_part in tensors.items() for name, t in of_part.items()}
    (tmp_path / "models").mkdir()
    save_file(flat, tmp_path / "models" / "ip.safetensors")
    tiny_models.clip_vision(tmp_path / "encoder", 16)
    method = MethodConfig(
        name="ip", kind="ip-adapter", weights=str(tmp_path), subfolder="models", weight_name="ip.safetensors",
        image_encoder=str(tmp_path / "encoder"), gammas=[0.0, 1.0],
    )  # fmt: skip
    assert dial_of(method, [0.5]) == (0.0, 1.0)
    steps = Steps(2, 2.0, 2)
    reference = benchmark_of(POCKET)[0].subjects[0].reference
    off, on = load_painter(method, steps, "cpu")([Ask("a creature", reference, 3, scale) for scale in (0.0, 1.0)])
    (base,) = load_painter(MethodConfig(name="b", kind="base"), steps, "cpu")([Ask("a creature", reference, 3, None)])
    assert np.abs(off.astype(int) - base).max() <= 1
    assert np.abs(on.astype(int) - base).mean() > 0.5
    assert maker_of(method, steps) != maker_of(method, Steps(3, 2.0, 2))


def test_the_adapters_of_the_package_are_a_method():
    method = MethodConfig(name="flexip", kind="flexip", checkpoint=Path("pocket"))
    assert maker_of(method, Steps(1, 1.0, 1)) != maker_of(MethodConfig(name="b", kind="base"), Steps(1, 1.0, 1))


def test_a_study_and_a_judge_read_the_same_pictures(untrained_checkpoint, tmp_path, capsys, monkeypatch):
    """Somebody else's pictures, so that nothing is drawn."""
    benchmark = benchmark_of(POCKET)[0]
    methods = []
    for shade, name in ((60, "ours"), (160, "theirs")):
        folder = tmp_path / name
        folder.mkdir()
        lines = []
        for i, case in enumerate(benchmark.cases):
            (folder / f"{i}.png").write_bytes(encode_png(np.full((64, 64, 3), shade + i, np.uint8)))
            lines.append(json.dumps({"file": f"{i}.png", "subject": case.unit, "prompt": case.prompt}))
        (folder / "manifest.jsonl").write_text("\n".join(lines))
        methods.append({"name": name, "kind": "pictures", "manifest": folder / "manifest.jsonl"})
    given: dict[str, Any] = {"output": tmp_path / "out", "benchmark": POCKET, "methods": methods, "ray": RAY}
    page = study.run(study.StudyConfig(**given))
    key = json.loads((tmp_path / "out" / "study-key.json").read_text())
    votes = [
        {"trial": trial, "choice": next(c for c, m in entry["options"].items() if m in ("ours", "right"))}
        for trial, entry in key.items()
    ]
    (tmp_path / "votes.json").write_text(json.dumps({"rater": "anna", "votes": votes}))
    found = json.loads(study.run(study.StudyConfig(**given, votes=[tmp_path / "votes.json"])).read_text())
    assert page.read_text().startswith("<!doctype html>")
    assert {(s["method"], s["share"]) for s in found["shares"]} == {("ours", 1.0), ("theirs", 0.0)}
    monkeypatch.setattr(judge, "_endpoint", lambda settings: lambda body: "Score: 4")
    asked = judge.JudgeConfig(**given, judge=judge.JudgeSettings(model="always 4", endpoint="x", repeats=2, controls=1))
    written = json.loads(judge.run(asked).read_text())
    assert list(written) == ["ours", "theirs", "copy", "wrong subject"]
    assert "a wrong subject gets 1.000, a copy 1.000" in capsys.readouterr().out
    replay = asked.model_copy(update={"judge": asked.judge.model_copy(update={"endpoint": None})})
    assert json.loads(judge.run(replay).read_text()) == written
    with pytest.raises(UserError, match=r"judge.model is missing"):
        judge.run(judge.JudgeConfig(**given))
    asking = judge.JudgeConfig(**given, judge=judge.JudgeSettings(model="m", repeats=2))
    with pytest.raises(ValueError, match="has no answer to request"):
        judge.run(asking)


def test_what_an_endpoint_sends_that_is_no_completion_is_one_line():
    from openai.types.chat import ChatCompletion

    head = {"id": "1", "created": 0, "model": "m", "object": "chat.completion"}
    message = {"role": "assistant", "content": "Score: 3"}
    good = ChatCompletion.model_validate(
        head | {"choices": [{"finish_reason": "stop", "index": 0, "message": message}]}
    )
    assert judge.said(good) == "Score: 3"
    none = ChatCompletion.model_construct(
        **head, choices=None
    )  # what the package makes of {"error": ...} with status 200
    empty = ChatCompletion.model_construct(**head, choices=[])
    for sent in ("<html>\nnot here</html>", none, empty):
        with pytest.raises(ValueError, match=r"a chat completion is needed") as error:
            judge.said(sent)
        assert "\n" not in str(error.value)


def test_the_guide_and_the_ready_configuration_are_understood(tmp_path):
    block = re.findall(r"```yaml\n(.+?)```", (ROOT / "docs" / "evaluation.md").read_text(), re.DOTALL)[0]
    (tmp_path / "guide.yaml").write_text(block)
    for file in (tmp_path / "guide.yaml", ROOT / "configs" / "pocket" / "benchmark.yaml"):
        for kind in (EvaluateConfig, judge.JudgeConfig, study.StudyConfig):
            assert load(kind, ["--config", str(file)]).methods[0].name == "FlexIP"


def test_what_cannot_be_benchmarked_is_one_line(untrained_checkpoint, tmp_path):
    def error_of(kind: type[Exception], **fields) -> str:
        with pytest.raises(kind) as error:
            evaluate(config(tmp_path / "out", **({"checkpoint": untrained_checkpoint} | fields)))
        assert "\n" not in str(error.value)
        return str(error.value)

    twice = [MethodConfig(name="flexip", kind="base")]
    assert "benchmark.path: 0 given for 1 layouts" in error_of(UserError, benchmark={"layout": ["dreambench"]})
    assert "no folder" in error_of(BenchmarkError, benchmark={"layout": ["folder"], "path": [tmp_path / "no"]})
    assert "name 'flexip' is taken" in error_of(UserError, methods=twice)
    assert "methods: none" in error_of(UserError, methods=[], checkpoint=None)
    assert "has no adapters.safetensors" in error_of(UserError, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="ours: manifest is missing"):
        MethodConfig(name="ours", kind="pictures")
    assert not (tmp_path / "out").exists()

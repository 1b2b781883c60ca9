"""The whole system in one command: video in, gated pictures and a score out.

    python -m jobs.demo                                    on rendered videos and stills of the pocket world
    python -m jobs.demo --input holiday.mp4 --output out   on your own
    python -m jobs.demo --config configs/sd15/demo.yaml --input videos/     with the paper's models, on a GPU

The stages are the jobs that stand alone too; here are only their order and settings small enough for a laptop.
"""

import base64
import json
import shlex
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from pydantic import Field, model_validator

from flexip.pocket.video import make_world
from flexip.rows import SPLITS, Split
from jobs import curate, train
from jobs.cluster import ray_session
from jobs.config import JobConfig, ModelsConfig, RayConfig, load
from jobs.console import UserError, command_line, say
from jobs.curate import CurateConfig
from jobs.evaluate import EvaluateConfig
from jobs.evaluation.harness import evaluate
from jobs.evaluation.questions import subjects_of
from jobs.serve import ServeConfig, serving
from jobs.train import TrainConfig
from pipelines.listing import list_sources
from pipelines.settings import InputSettings, SplitSettings
from pipelines.shards import open_dataset

MARK = ".flexip-demo"  # in an output directory that a demo made, so that the next may replace it
PROMPTS = ["a happy creature in the snow", "a surprised creature on a beach"]
GAMMAS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


class DemoConfig(JobConfig):
    """Curate, train, sweep, score and serve, on rendered videos or on your own."""

    input: str | None = Field(default=None, description="video, picture or folder of both; none: the pocket world")
    output: Path = Field(
        default=Path("demo_output"), description="directory of all products; an earlier demo is replaced"
    )
    group_by_folder: bool = Field(default=False, description="stills of one folder are pictures of one subject")
    videos: int = Field(default=40, ge=2, description="pocket videos to render")
    stills: int = Field(default=200, ge=0, description="pocket stills to render")
    models: ModelsConfig = Field(default=ModelsConfig(), description="frozen models; others than pocket need an input")
    training: Path = Field(
        default=Path(__file__).parents[1] / "configs/pocket/demo.yaml",
        description="configuration of jobs.train, whose dataset, output, models, steps and seed are the demo's",
    )
    prompts: list[str] = Field(default=PROMPTS, min_length=1, description="what the subjects are drawn as")
    guidance_scale: float = Field(
        default=2.0,
        ge=1,
        description="after so short a training more exaggerates what the adapters have not learnt yet",
    )
    steps: int = Field(default=400, ge=1, description="training steps")
    subjects: int = Field(default=4, ge=1, description="subjects in the sweep")
    noise: int = Field(
        default=6, ge=0, description="seed of the pictures' noise; some seeds draw two creatures for one"
    )
    ray: RayConfig = Field(default=RayConfig(), description="the Ray that all stages share")
    seed: int = Field(default=0, ge=0, description="of everything")

    @model_validator(mode="after")
    def _own_world(self) -> "DemoConfig":
        if self.input is None and self.models != ModelsConfig():
            raise ValueError("input: missing; the pocket world is for pocket models, others need videos or pictures")
        return self


def run(config: DemoConfig) -> dict[str, Path]:
    """Run all stages; returns the products by name.

    Raises:
        UserError and the jobs' own errors: an input or output that cannot be used.
    """
    started = time.monotonic()
    _check_input(config)
    output = _fresh(config.output)
    world = config.input or str(_render(config, output / "world"))
    with ray_session(config.ray):
        dataset = curate.run(_curate_config(config, world, output / "dataset"))
        trained = train.run(_train_config(config, dataset.output, output / "train"))
        split, subjects = _subjects_for_sweep(dataset.output, config.subjects)
        report = evaluate(
            EvaluateConfig(
                checkpoint=trained.checkpoint,
                dataset=dataset.output,
                output=output / "report",
                split=split,
                subjects=subjects,
                prompts=config.prompts,
                gammas=GAMMAS,
                guidance_scale=config.guidance_scale,
                seeds=[config.noise],
                title="FlexIP demo: gate sweep" if split == "test" else f"FlexIP demo: gate sweep, {split} subjects",
                workers=min(2, config.ray.num_cpus),
                track=False,
            )
        )
        answer = _serve_once(config, trained.checkpoint, dataset.output, split, output)
    products = {
        "input": Path(world),
        "dataset": dataset.output,
        "contact sheet": dataset.contact_sheet,
        "checkpoint": trained.checkpoint,
        "sweep": report.sweep_png,
        "report": report.report_html,
        "served answer": answer,
    }
    _farewell(config, products, trained.tracking_uri, time.monotonic() - started)
    return products


def _check_input(config: DemoConfig) -> None:
    """Refuses an input that cannot be used before the output of an earlier demo is emptied."""
    if config.input is None:
        return
    list_sources(InputSettings(path=config.input))
    if config.output.resolve() in Path(config.input).resolve().parents:
        raise UserError(f"input = {config.input}: lies inside output = {config.output}, which is emptied first")


def _fresh(output: Path) -> Path:
    """An empty directory of ours; nothing that a demo did not make is ever deleted."""
    output = output.resolve()
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / MARK).is_file())):
        raise UserError(f"output = {output}: exists and was not made by a demo; choose another --output")
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / MARK).touch()
    return output


def _render(config: DemoConfig, world: Path) -> Path:
    make_world(world, config.videos, config.stills, config.seed)
    say("render", f"{config.videos} videos and {config.stills} stills of the pocket world in {world}")
    return world


def _curate_config(config: DemoConfig, world: str, output: Path) -> CurateConfig:
    own = config.input is not None
    return CurateConfig(
        input=InputSettings(
            path=world, group_by_folder=config.group_by_folder or not own, licence="" if own else "Apache-2.0"
        ),
        output=output,
        models=config.models,
        splits=SplitSettings(val=0.0, test=0.1, least_test=0 if own else config.subjects // 2),
        ray=config.ray,
        seed=config.seed,
    )


def _train_config(config: DemoConfig, dataset: Path, output: Path) -> TrainConfig:
    return load(
        TrainConfig,
        [
            *("--config", str(config.training)),
            *(word for part, name in config.models.model_dump().items() for word in (f"--models.{part}", name)),
            *("--dataset", str(dataset), "--output", str(output)),
            *("--steps", str(config.steps), "--seed", str(config.seed)),
            *("--optimizer.warmup", str(min(100, config.steps // 4))),
        ],
        "jobs.demo",
    )


def _subjects_for_sweep(dataset: Path, most: int) -> tuple[Split, int]:
    """Unseen subjects where there are any; a small input may have none, and then the sweep says so."""
    clusters = open_dataset(dataset).manifest.clusters
    preferred: list[Split] = [split for split in reversed(SPLITS) if clusters.get(split, 0) > 0]
    split = preferred[0]
    if split == "train":
        say("sweep", "too few subjects to hold any out: the sweep shows subjects that training has seen")
    return split, min(most, clusters[split])


def _serve_once(config: DemoConfig, checkpoint: Path, dataset: Path, split: Split, output: Path) -> Path:
    """Start the service, ask it for one picture over HTTP, save the answer, stop it."""
    reference = subjects_of(dataset, split, 1)[0].reference
    body = {
        "prompt": config.prompts[0],
        "subjects": [{"image": base64.b64encode(reference.data).decode(), "gate": 0.7}],
        "guidance_scale": config.guidance_scale,
        "seed": config.noise,
    }
    with serving(ServeConfig(checkpoint=str(checkpoint), port=_free_port(), ray=config.ray)) as url:
        asked = time.monotonic()
        request = urllib.request.Request(
            f"{url}/v1/images/generations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise RuntimeError(
                f"{url}: answered {error.code}: {error.read()[:300].decode(errors='replace')}"
            ) from error
        seconds = time.monotonic() - asked
    path = output / "served.png"
    path.write_bytes(base64.b64decode(answer["data"][0]["b64_json"]))
    say("serve", f"POST /v1/images/generations answered in {seconds:.1f} s: {path}")
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _farewell(config: DemoConfig, products: dict[str, Path], tracking_uri: str, seconds: float) -> None:
    print(f"\nDone in {seconds / 60:.1f} minutes. What was made:\n")
    for name, path in products.items():
        print(f"  {name:<14} {path}")
    mlflow = Path(sys.executable).with_name("mlflow")
    print(f"\nThe training's record:  {mlflow} ui --backend-store-uri {shlex.quote(tracking_uri)}")
    print(
        f"Draw one of your own:   {sys.executable} -m jobs.generate --checkpoint {products['checkpoint']}"
        f" --subject PICTURE --prompt '{config.prompts[-1]}' --gamma 0.7 --guidance_scale {config.guidance_scale:g}"
    )
    print(f"Serve the checkpoint:   {sys.executable} -m jobs.serve --checkpoint {products['checkpoint']}")


@command_line
def main(argv: list[str] | None = None) -> None:
    """The command line; see `--help`."""
    run(load(DemoConfig, argv, "python -m jobs.demo"))


if __name__ == "__main__":
    main()

"""Bring a checkpoint to where others look for one.

    python -m jobs.export --checkpoint run/checkpoint --to ip-adapter --output flexip.safetensors
    python -m jobs.export --checkpoint run/checkpoint --to folder --output release/ --dataset dataset/
    python -m jobs.export --checkpoint run/checkpoint --to hub --repository me/flexip-sd15
    python -m jobs.export --checkpoint run/checkpoint --to mlflow --output model/

ip-adapter   one branch in IP-Adapter's layout, which diffusers loads
folder       what inference needs, with a model card; and the file above, where the sizes allow it
hub          the same, uploaded to the Hugging Face Hub as a private repository unless --private false
mlflow       MLflow's pyfunc flavour, for `mlflow models predict` and `mlflow models serve`
"""

import importlib.metadata
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

import flexip
from evaluation.baselines import ADAPTERS
from flexip.checkpoint import METHODS, build_model, checkpoint_path, load_adapters, read_config
from flexip.encoders import load_unet
from flexip.hub import ONE_BRANCH, push_to_hub, save_pretrained
from flexip.ip_adapter import IPAdapterError, obstacles, save_ip_adapter
from flexip.rows import SPLITS
from jobs.config import JobConfig, load
from jobs.console import UserError, command_line, say
from pipelines.shards import open_dataset

MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
LIBRARIES = [  # what `flexip` and the model code import, pinned to what is installed here
    *("torch", "diffusers", "transformers", "open_clip_torch", "timm", "safetensors", "numpy", "pillow", "scipy"),
    *("opencv-python-headless", "pyarrow", "jaxtyping", "pyyaml", "accelerate", "mlflow"),
]


class ExportConfig(JobConfig):
    """Bring a checkpoint into the formats of diffusers, the Hugging Face Hub and MLflow."""

    checkpoint: Path = Field(description="checkpoint directory, as written by jobs.train, or pocket")
    to: Literal["ip-adapter", "folder", "hub", "mlflow"] = Field(description="what it becomes")
    output: Path | None = Field(default=None, description="file of ip-adapter, or folder; none: only for hub")
    repository: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$", description="of hub, user/name")
    private: bool = Field(default=True, description="whether a new repository of hub is private")
    licence: str = Field(default="apache-2.0", description="of the adapters, as the Hub spells it, for the card")
    dataset: Path | None = Field(default=None, description="that it was trained on, for the card; none: not told")

    @model_validator(mode="after")
    def _place(self) -> "ExportConfig":
        if self.to == "hub" and not self.repository:
            raise ValueError("repository: missing; --to hub needs one, as in --repository user/name")
        if self.to != "hub" and not self.output:
            raise ValueError(f"output: missing; --to {self.to} writes there")
        return self


def run(config: ExportConfig) -> str:
    """Returns the path or the URL. Raises CheckpointError, DatasetError, UserError: something that cannot be used."""
    _check_method(config)
    if config.to == "hub":
        with tempfile.TemporaryDirectory() as folder:
            place = push_to_hub(_release(config, Path(folder)), str(config.repository), private=config.private)
    elif config.output and config.output.exists():
        raise UserError(f"output = {config.output}: is there already; give another name")
    elif config.to == "ip-adapter":
        place = str(_write_branch(config, _built(config)))
    else:
        place = str(_release(config, _output(config)) if config.to == "folder" else _save_pyfunc(config))
    say("export", place)
    return place


def _check_method(config: ExportConfig) -> None:
    """Refuses what nobody could load: a baseline but as an IP-Adapter, a DynamicID but as a folder."""
    method = read_config(config.checkpoint)["architecture"].get("method", "flexip")
    fitting = {"ip-adapter": [*ADAPTERS], "mlflow": [*METHODS]}.get(config.to, [*METHODS, "dynamicid"])
    if method not in fitting:
        raise UserError(
            f"checkpoint {config.checkpoint}: method {method!r}; --to {config.to} takes {', '.join(fitting)}"
        )


def _release(config: ExportConfig, folder: Path) -> Path:
    """The folder with its card and, where the layout knows the sizes, the file of one branch."""
    folder.mkdir(parents=True, exist_ok=True)
    if read_config(config.checkpoint)["architecture"].get("method", "flexip") in METHODS:
        try:
            save_ip_adapter(folder / ONE_BRANCH, _built(config))
        except IPAdapterError as error:
            say("export", f"without {ONE_BRANCH}: {error}")
    data = describe_data(config.dataset) if config.dataset else []
    name = config.repository or folder.resolve().name
    return save_pretrained(config.checkpoint, folder, name=name, licence=config.licence, data=data)


def _write_branch(config: ExportConfig, model: Any) -> Path:
    for line in obstacles(model):
        say("export", f"diffusers loads the file; ComfyUI's and InvokeAI's IP-Adapter do not, because {line}")
    try:
        return save_ip_adapter(_output(config), model)
    except IPAdapterError as error:
        raise UserError(f"checkpoint {config.checkpoint}: {error}") from error


def _built(config: ExportConfig) -> Any:
    """The model on its base's UNet, without encoders."""
    directory = checkpoint_path(config.checkpoint)
    stored = read_config(directory)
    model = build_model(load_unet(stored["encoders"]["base"]), stored, directory, ADAPTERS)
    load_adapters(model, directory)
    return model


def _save_pyfunc(config: ExportConfig) -> Path:
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    wished = {
        "gamma": "double",
        "seed": "long",
        "steps": "long",
        "guidance_scale": "double",
        "negative_prompt": "string",
    }
    columns = [ColSpec(DataType.string, name) for name in ("image", "prompt")]
    columns += [ColSpec(DataType[kind], name, required=False) for name, kind in wished.items()]
    outputs = Schema([ColSpec(DataType.string, "image")])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(An input example was not|Add type hints)")  # the signature is given below
        mlflow.pyfunc.save_model(
            _output(config),
            python_model=str(MODEL_CODE),
            artifacts={"checkpoint": str(_release(config, Path(folder) / "checkpoint"))},
            code_paths=[str(Path(flexip.__path__[0]))],
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in LIBRARIES],
            signature=ModelSignature(Schema(list(columns)), outputs),
        )
    return _output(config)


def _output(config: ExportConfig) -> Path:
    assert config.output is not None
    return config.output


def describe_data(dataset: Path) -> list[str]:
    """Lines on a dataset for a card: pairs, subjects, licences. Raises DatasetError."""
    opened = open_dataset(dataset)
    names = [name for name in opened.names if any(opened.size(name, split) for split in SPLITS)]
    sizes = [f"{name}: " + ", ".join(f"{opened.size(name, split)} {split}" for split in SPLITS) for name in names]
    tables = [opened.pairs(name, "train", ["licence"]) for name in names if opened.size(name, "train")]
    licences = Counter(value or "none told" for table in tables for value in table["licence"].to_pylist())
    clusters = ", ".join(f"{number} {split}" for split, number in opened.manifest.clusters.items())
    return [
        *(f"pairs, {line}" for line in sizes),
        f"subjects: {clusters}; none is in two splits",
        "licences of the training pairs' sources: " + ", ".join(f"{name} ({n})" for name, n in licences.most_common()),
    ]


@command_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the top of the file."""
    run(load(ExportConfig, argv, "python -m jobs.export"))


if __name__ == "__main__":
    main()

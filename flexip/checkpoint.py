"""The checkpoint: one directory for resume, inference and serving.

adapters.safetensors         the trained parameters by name (their average, if there is one), with a modelspec header
config.json                  architecture, encoder names and fingerprints, the training configuration, the calibration
training_state.safetensors   optimiser moments and step, and the parameters beside their average; only for resume
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexip.adapters import AdapterConfig, Adapters
from flexip.calibration import Calibration
from flexip.casting import Casting
from flexip.dynamicid import DynamicID
from flexip.encoders import EncoderNames, Encoders, load_encoders, load_pipeline
from flexip.engine import Engine
from flexip.face_encoder import FaceConfig
from flexip.faces import FaceLibrary
from flexip.imr import ReconfiguratorConfig
from flexip.model import AdapterBuilder, FlexIP
from flexip.pocket import adapters_path
from flexip.training import TrainState

FORMAT = 1
METHODS: Mapping[str, AdapterBuilder] = {"flexip": Adapters}
FACES = "faces"  # whose fingerprint a DynamicID's has beside the encoders': the face library
WEIGHTS, CONFIG, STATE = "adapters.safetensors", "config.json", "training_state.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names what is wrong with it."""


def checkpoint_path(name: Path | str) -> Path:
    """The directory of a checkpoint; "pocket" is the one that comes with this package."""
    return adapters_path() if str(name) == "pocket" else Path(name)


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint's content, on the host and apart from the model that goes on training."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    state: dict[str, Tensor]  # empty without a training state
    step: int  # of the training state


def take_snapshot(
    model: FlexIP | DynamicID,
    *,
    names: EncoderNames,
    fingerprints: Mapping[str, str],
    training: Mapping[str, Any] | None = None,
    state: TrainState | None = None,
) -> Snapshot:
    """Copy what a checkpoint holds; `write_snapshot` may then take its time.

    Args:
        training: the configuration of the run, kept as it is. state: also what resume needs.
    """
    averaged = state.average if state else {}
    config = {
        "format": FORMAT,
        "architecture": dataclasses.asdict(model.config),
        "encoders": dataclasses.asdict(names),
        "fingerprints": dict(fingerprints),
        "training": dict(training or {}),
    }
    weights = {name: _copied(p) for name, p in (model.stored() | averaged).items()}
    return Snapshot(weights, config, _state_tensors(state) if state else {}, state.step if state else 0)


def write_snapshot(directory: Path | str, snapshot: Snapshot) -> Path:
    """Write a checkpoint; `config.json` comes last, so that a half-written directory is recognised as none."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).unlink(missing_ok=True)
    people = snapshot.config["architecture"].get("method") == "dynamicid"
    header = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": "DynamicID" if people else "FlexIP adapters",
        "modelspec.architecture": f"stable-diffusion-v1/{'dynamicid' if people else 'flexip'}",
        "modelspec.implementation": "flexip",
    }
    save_file(snapshot.weights, directory / WEIGHTS, metadata=header)
    if snapshot.state:
        save_file(snapshot.state, directory / STATE, metadata={"step": str(snapshot.step)})
    (directory / CONFIG).write_text(json.dumps(snapshot.config, indent=2, sort_keys=True) + "\n")
    return directory


def save_checkpoint(
    directory: Path | str,
    model: FlexIP | DynamicID,
    *,
    names: EncoderNames,
    fingerprints: Mapping[str, str],
    training: Mapping[str, Any] | None = None,
    state: TrainState | None = None,
) -> Path:
    """`take_snapshot` and `write_snapshot` in one."""
    snapshot = take_snapshot(model, names=names, fingerprints=fingerprints, training=training, state=state)
    return write_snapshot(directory, snapshot)


def read_config(directory: Path | str) -> dict[str, Any]:
    """`config.json` of a checkpoint.

    Raises:
        CheckpointError: not a checkpoint directory, or one of another format.
    """
    path = checkpoint_path(directory) / CONFIG
    if not path.is_file():
        raise CheckpointError(f"checkpoint {directory}: no {CONFIG} there; give the directory that training wrote")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path}: not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"checkpoint {path}: format {found!r}; this version reads format {FORMAT}")
    return config


def load_checkpoint(
    directory: Path | str,
    device: str = "cpu",
    names: EncoderNames | None = None,
    dtype: torch.dtype = torch.float32,
    adapters: Mapping[str, AdapterBuilder] = METHODS,
) -> Engine:
    """Load adapters onto their base model, ready to sample.

    Args:
        directory: what `save_checkpoint` wrote, or "pocket".
        adapters: what builds them, by the method's name.
        names: where to find the frozen models when not where training found them; fingerprints must agree anyway.

    Raises:
        CheckpointError: missing or wrong files, tensors or encoders, each by name.
    """
    directory = checkpoint_path(directory)
    config = read_config(directory)
    _check_method(directory, config, adapters)
    names = names or EncoderNames(**config["encoders"])
    encoders = load_encoders(names, device, dtype)
    _check_fingerprints(directory, config, encoders.fingerprints)
    return _assemble(directory, config, encoders, load_pipeline(names.base, device, dtype), adapters)


def load_beside(engine: Engine, directory: Path | str, adapters: Mapping[str, AdapterBuilder] = METHODS) -> Engine:
    """Another checkpoint on the frozen models of an engine, whose requests may then share UNet calls with the first's.

    Raises:
        CheckpointError: as `load_checkpoint`; a checkpoint of another base model, detail or gating.
    """
    directory = checkpoint_path(directory)
    config = read_config(directory)
    _check_method(directory, config, adapters)
    _check_fingerprints(directory, config, engine.encoders.fingerprints)
    other = _assemble(directory, config, engine.encoders, engine.pipe, adapters)
    theirs, ours = other.model.config, engine.model.config
    base = EncoderNames(**config["encoders"]).base
    for what, found, wanted in (
        ("base model", base, engine.encoders.names.base),
        ("detail", theirs.detail, ours.detail),
        ("gating", theirs.gating, ours.gating),
    ):
        if found != wanted:
            raise CheckpointError(f"checkpoint {directory}: {what} {found}, where the others have {wanted}")
    return dataclasses.replace(other, references=engine.references, casting=engine.casting)


def load_people(engine: Engine, directory: Path | str, library: FaceLibrary) -> Engine:
    """The engine with a DynamicID on its frozen models, for requests with people; those without are drawn as before.

    Args:
        directory: a checkpoint of either stage. library: looks at pictures of people; the one it was trained with.

    Raises:
        CheckpointError: as `load_checkpoint`; a checkpoint of adapters, or of another face library.
    """
    directory = Path(directory)
    config = read_config(directory)
    _check_fingerprints(directory, config, engine.encoders.fingerprints | {FACES: library.fingerprint})
    model = build_people(engine.pipe.unet, config, directory)
    load_adapters(model, directory)
    model.to(engine.encoders.device, engine.encoders.dtype).eval()
    return dataclasses.replace(engine, casting=Casting(model, engine.encoders, library, _digest(directory)))


def build_people(
    unet: Any, config: Mapping[str, Any], directory: Path | str, second: ReconfiguratorConfig | None = None
) -> DynamicID:
    """A DynamicID of the checkpoint's architecture on a UNet.

    Args:
        second: the reconfigurator that it is to get, in place of the checkpoint's.

    Raises:
        CheckpointError: as `build_model`.
    """
    architecture = dict(config["architecture"])
    if architecture.get("method") != "dynamicid":
        raise CheckpointError(f"checkpoint {directory}: holds adapters, no DynamicID; give one of either stage")
    stored = architecture.get("reconfigurator")
    try:
        if stored and second is None:
            second = ReconfiguratorConfig(**stored | {"channels": tuple(stored["channels"])})
        return DynamicID(unet, FaceConfig(**architecture["faces"]), second)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {directory}: of another architecture: {error}") from error


def _check_method(directory: Path | str, config: Mapping[str, Any], adapters: Mapping[str, AdapterBuilder]) -> None:
    method = config["architecture"].get("method", "flexip")
    if method not in adapters:
        raise CheckpointError(f"checkpoint {directory}: method {method!r}; known here: {', '.join(adapters)}")


def _check_fingerprints(directory: Path, config: Mapping[str, Any], found: Mapping[str, str]) -> None:
    for family, trained in config["fingerprints"].items():
        if found.get(family) != trained:
            raise CheckpointError(
                f"checkpoint {directory}: trained on {family} encoder {trained}, but here is {found.get(family)};"
                " load the encoder it was trained with"
            )


def _digest(directory: Path) -> str:
    return hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()


def _assemble(
    directory: Path, config: Mapping[str, Any], encoders: Encoders, pipe: Any, adapters: Mapping[str, AdapterBuilder]
) -> Engine:
    model = build_model(pipe.unet, config, directory, adapters)
    load_adapters(model, directory)
    model.to(encoders.device, encoders.dtype).eval()
    encoders = dataclasses.replace(encoders, detail=model.config.detail)
    stored = config.get("calibration")
    return Engine(model, encoders, pipe, _digest(directory), Calibration(**stored) if stored else None)


def store_calibration(directory: Path | str, calibration: Calibration) -> None:
    """Write the calibration into the checkpoint's `config.json`, in place of an earlier one.

    Raises:
        CheckpointError: not a checkpoint directory.
    """
    config = read_config(directory) | {"calibration": dataclasses.asdict(calibration)}
    draft = Path(directory) / f"{CONFIG}.new"
    draft.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    os.replace(draft, Path(directory) / CONFIG)


def build_model(
    unet: Any, config: Mapping[str, Any], directory: Path | str, adapters: Mapping[str, AdapterBuilder] = METHODS
) -> FlexIP:
    """A FlexIP of the checkpoint's architecture on a UNet.

    Raises:
        CheckpointError: an architecture this version does not know, or one of another UNet.
    """
    known = {f.name for f in dataclasses.fields(AdapterConfig)}
    architecture = {"method": "flexip", "detail": "dino"} | config["architecture"]
    _check_method(directory, config, adapters)
    if set(architecture) != known:
        odd = sorted(set(architecture) ^ known)
        raise CheckpointError(f"checkpoint {directory}: architecture fields {odd} are missing or unknown")
    try:
        return FlexIP(unet, AdapterConfig(**architecture), adapters[architecture["method"]])
    except ValueError as error:
        raise CheckpointError(f"checkpoint {directory}: of another architecture: {error}") from error


def load_adapters(model: FlexIP | DynamicID, directory: Path | str) -> None:
    """Copy the checkpoint's tensors into the model, strictly.

    Raises:
        CheckpointError: lists names that are missing, unknown, or of another shape.
    """
    load_tensors(model.stored(), directory)


def load_tensors(ours: Mapping[str, Tensor], directory: Path | str) -> None:
    """The same for some of a model's tensors, which have to be all that the checkpoint holds."""
    path = checkpoint_path(directory) / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from error
    problems = [
        _named("missing", sorted(ours.keys() - tensors.keys())),
        _named("unknown", sorted(tensors.keys() - ours.keys())),
        _named(
            "of another shape",
            [
                f"{name} {tuple(tensors[name].shape)} for {tuple(ours[name].shape)}"
                for name in sorted(ours.keys() & tensors.keys())
                if tensors[name].shape != ours[name].shape
            ],
        ),
    ]
    if any(problems):
        raise CheckpointError(f"checkpoint {path}: " + "; ".join(p for p in problems if p))
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(tensors[name])


def load_training_state(state: TrainState, directory: Path | str) -> None:
    """Restore adapters, optimiser moments and step into a fresh state; together with `batch_rows` this is exact resume.

    Raises:
        CheckpointError: the directory holds no training state, or one of another model.
    """
    load_adapters(state.model, directory)
    path = Path(directory) / STATE
    if not path.is_file():
        raise CheckpointError(f"checkpoint {directory}: no {STATE}; it can be used for inference, not for resume")
    with safe_open(path, "pt") as file:
        state.step = int((file.metadata() or {}).get("step", 0))
    tensors = load_file(path)
    moments: dict[int, dict[str, Tensor]] = {}
    for index, name in enumerate(state.model.trainable()):
        entry = {
            key: tensors[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq", "step") if f"{key}.{name}" in tensors
        }
        if entry:
            moments[index] = entry
    if state.average:
        _load_average(state, tensors, path)
    stored = state.optimizer.state_dict()
    state.optimizer.load_state_dict({"state": moments, "param_groups": stored["param_groups"]})


@torch.no_grad()
def _load_average(state: TrainState, tensors: Mapping[str, Tensor], path: Path) -> None:
    """The model holds the average so far: put that in its place, and the parameters themselves into the model."""
    for name, parameter in state.model.trainable().items():
        if f"parameter.{name}" not in tensors:
            raise CheckpointError(f"checkpoint {path}: no parameters beside their average; it was trained without one")
        state.average[name].copy_(parameter)
        parameter.copy_(tensors[f"parameter.{name}"])


def _state_tensors(state: TrainState) -> dict[str, Tensor]:
    parameters = state.model.trainable() if state.average else {}
    kept = {f"parameter.{name}": _copied(p) for name, p in parameters.items()}
    return kept | {
        f"{key}.{name}": _copied(value)
        for name, parameter in state.model.trainable().items()
        for key, value in state.optimizer.state.get(parameter, {}).items()
    }


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _named(what: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} {what}: {shown}"

"""From a configuration to what the workers are told: everything that can be wrong is found here, before any starts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from evaluation.baselines import ADAPTERS
from flexip.casting import nobody_states
from flexip.checkpoint import read_config
from flexip.encoders import Encoders, empty_unet, load_encoders, load_scheduler_config
from flexip.ip_adapter import IPAdapterError, fitting, is_ip_adapter, read_ip_adapter
from flexip.model import FlexIP, adapter_config
from flexip.rows import DATASETS
from flexip.training import batch_rows, load_noising
from jobs.console import UserError, say
from jobs.tracking import create_run, run_exists
from jobs.training.assignment import Assignment, FaceInputs
from jobs.training.config import TrainConfig
from jobs.training.estimate import training_cost_of
from jobs.training.features import families, needed_families, open_data
from jobs.training.models import log_dataset
from jobs.training.record import RunRecord
from jobs.weights import encoder_names
from pipelines.face_shards import FaceDataset
from pipelines.shards import FACES, PairDataset

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def load_matching_encoders(config: TrainConfig, dataset: PairDataset) -> Encoders:
    """The frozen encoders, refused unless the dataset's features come from them, where these are read."""
    names = config.models.model_dump()
    try:
        encoders = load_encoders(encoder_names(config.models))
    except OSError as error:
        raise UserError(f"models: {names}: cannot be loaded ({str(error).splitlines()[0]})") from error
    if config.features == "online":
        return encoders
    theirs = dataset.manifest.fingerprints
    option = {"clip": "clip", "dino": "dino", "hidden": "clip", "text": "base", "vae": "base", "prompt": "base"}
    ours = encoders.fingerprints | {"prompt": encoders.fingerprints["text"]}
    needed = [family for family in needed_families(config) if family in ours]  # not those of the face library
    if missing := [family for family in needed if family not in theirs]:
        raise UserError(
            f"dataset {dataset.root}: has no {missing[0]} features, which adapter.method = {config.adapter.method} "
            f"needs; curate with --shards.{missing[0]} true, or give --features online"
        )
    problems = [
        f"dataset {dataset.root}: its {family} features come from encoder {theirs.get(family)}, "
        f"models.{option[family]} = {names[option[family]]} is {ours[family]}; "
        "curate again, or name the model it was curated with"
        for family in needed
        if theirs.get(family) != ours[family]
    ]
    if problems:
        raise UserError("\n".join(problems))
    return encoders


def feature_shapes(config: TrainConfig, dataset: PairDataset) -> dict[str, tuple[int, ...]]:
    """Of one row of each family, as the dataset says; only where it lacks one that is needed, encoders are loaded."""
    if set(families(config.adapter.detail)) <= dataset.manifest.shapes.keys():
        return {family: tuple(shape) for family, shape in dataset.manifest.shapes.items()}
    return load_matching_encoders(config, dataset).shapes


def check_start(config: TrainConfig, encoders: Encoders) -> None:
    """Refuses to begin with adapters of another shape, or of other encoders, before any worker starts."""
    if config.start is None:
        return
    if config.stage == "adapters" and is_ip_adapter(config.start):
        return _check_ip_adapter(config, encoders)
    stored = read_config(config.start)
    if config.stage != "adapters":
        return _check_people(config, stored, encoders)
    wanted = config.adapter.model_dump()
    odd = {key: value for key, value in wanted.items() if stored["architecture"].get(key) != value}
    if odd:
        theirs = ", ".join(f"adapter.{key} = {stored['architecture'].get(key)}" for key in odd)
        raise UserError(f"start = {config.start}: has {theirs}; this run has {', '.join(map(str, odd.values()))}")
    for family in families(config.adapter.detail):
        if stored["fingerprints"].get(family) != encoders.fingerprints[family]:
            raise UserError(
                f"start = {config.start}: trained on another {family} encoder than the one of models, "
                f"{encoders.fingerprints[family]}"
            )


def _check_ip_adapter(config: TrainConfig, encoders: Encoders) -> None:
    """Refuses a file that does not fit, and says how much of the adapters begins with it."""
    sizes = config.adapter
    with torch.device("meta"):
        unet = empty_unet(encoder_names(config.models).base)
        architecture = adapter_config(unet, encoders.shapes, sizes.detail, **sizes.model_dump())
        model = FlexIP(unet, architecture, ADAPTERS[sizes.method])
    try:
        taken = fitting(model, read_ip_adapter(str(config.start)))
    except IPAdapterError as error:
        raise UserError(f"start = {config.start}: {error}") from error
    say("train", f"{len(taken)} of {len(model.trainable())} tensors begin as those of {config.start}")


def _check_people(config: TrainConfig, stored: Mapping[str, Any], encoders: Encoders) -> None:
    """Refuses to begin with anything but a first stage of the same face path."""
    architecture = stored["architecture"]
    if architecture.get("method") != "dynamicid" or architecture.get("reconfigurator"):
        raise UserError(f"start = {config.start}: no checkpoint of anchoring; give what that stage wrote")
    ours = face_fingerprints(config, encoders)
    if odd := [family for family, mark in ours.items() if stored["fingerprints"].get(family) != mark]:
        theirs = stored["fingerprints"].get(odd[0])
        raise UserError(f"start = {config.start}: trained on {odd[0]} encoder {theirs}, this run has {ours[odd[0]]}")
    if config.stage == "anchoring":
        wanted = {key: getattr(config.people, key) for key in ("tokens", "depth", "heads", "dim_head", "lora_rank")}
        if odd := {key: value for key, value in wanted.items() if architecture["faces"].get(key) != value}:
            theirs = ", ".join(f"people.{key} = {architecture['faces'].get(key)}" for key in odd)
            raise UserError(f"start = {config.start}: has {theirs}; this run has {', '.join(map(str, odd.values()))}")


def face_fingerprints(config: TrainConfig, encoders: Encoders) -> dict[str, str]:
    """Of the encoders that DynamicID reads, and of the face library that made the dataset."""
    marks = {family: encoders.fingerprints[family] for family in ("hidden", "text", "vae")}
    return marks | {FACES: open_data(config).manifest.tools[FACES]}


def with_mlflow_run(record: RunRecord, config: TrainConfig, client: "MlflowClient") -> RunRecord:
    """The record with the MLflow run of an earlier start, or a new one where there is none (any more)."""
    if record.run_id and run_exists(client, record.run_id):
        return record
    tags = {"dataset.path": str(config.dataset), "dataset.manifest_sha256": record.identity["dataset manifest"]}
    params = config.model_dump(mode="json")
    run_id = create_run(client, config.mlflow, config.output, config.name, params, tags)
    log_dataset(client, run_id, config.dataset, record.identity["dataset manifest"])
    return record.save(run_id=run_id)


def assignment(
    config: TrainConfig, dataset: PairDataset, encoders: Encoders, record: RunRecord, uri: str
) -> Assignment:
    """What every worker is told. Raises UserError for a dataset that has too little for this training."""
    common = {
        "config": config,
        "names": encoders.names,
        "noising": load_noising(encoders, load_scheduler_config(encoders.names.base)),
        "tracking_uri": uri,
        "run_id": record.run_id,
        "folder": record.folder,
    }
    if isinstance(dataset, FaceDataset):
        return _face_assignment(config, dataset, encoders, common)
    sizes = {name: dataset.size(name, "train") for name in DATASETS}
    try:
        batch_rows(config.seed, 0, 1, sizes, config.mixture.model_dump())
    except ValueError as error:
        raise UserError(f"dataset {config.dataset}: {error}; curate more, or change the mixture") from error
    if config.validate_every and not any(dataset.size(name, "val") for name in DATASETS):
        raise UserError(
            f"validate_every = {config.validate_every}: dataset {config.dataset} has no held-out pairs; give 0"
        )
    pairs = ", ".join(f"{size} {name}" for name, size in sizes.items())
    say("train", f"{config.steps} steps of {config.batch_size} rows, {config.workers} workers, pairs: {pairs}")
    return Assignment(
        sizes=sizes,
        shapes=encoders.shapes,
        fingerprints=encoders.fingerprints,
        flops=training_cost_of(config, encoders.shapes).step,
        **common,
    )


def _face_assignment(
    config: TrainConfig, dataset: FaceDataset, encoders: Encoders, common: dict[str, Any]
) -> Assignment:
    everybody = dataset.people("train")
    people = [rows for rows in everybody.values() if len(rows) > 1]
    if not people:
        raise UserError(f"dataset {config.dataset}: nobody to train on has two pictures; curate more people")
    say(
        "train",
        f"{config.stage}, {config.steps} steps of {config.batch_size} rows, {config.workers} workers, "
        f"{dataset.size(FACES, 'train')} pictures of {len(everybody)} people",
    )
    return Assignment(
        sizes={FACES: dataset.size(FACES, "train")},
        shapes=encoders.shapes | {family: tuple(shape) for family, shape in dataset.manifest.shapes.items()},
        fingerprints=face_fingerprints(config, encoders),
        flops=0,
        faces=FaceInputs(
            nobody_states(encoders).clone(), encoders.encode_text([config.people.text])[0].clone(), people
        ),
        **common,
    )

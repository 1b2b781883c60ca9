"""The record of one named run: what it was started with, so that a second start continues the same thing or refuses."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.console import UserError
from jobs.tracking import flatten
from jobs.training.config import TrainConfig

# What may change between two starts of one run: where and how it runs, not what is computed. The dataset is known by
# its manifest's digest, so that it may have moved.
FREE_FIELDS = {
    "dataset",
    "output",
    "workers",
    "max_workers",
    "features",
    "compiled",
    "channels_last",
    "deterministic",
    "accumulate",
    "max_failures",
    "log_every",
    "checkpoint_every",
    "checkpoints_kept",
    "validate_every",
    "validation",
    "registered_model",
    "dry_run",
    "gpus",
    "peak_tflops",
    "mlflow",
    "system_metrics_every",
    "ray",
}

ADAPTERS_FIELDS = {"adapter", "gate", "mixture"}  # say nothing of another stage
PEOPLE_FIELDS = {"stage", "people"}  # say nothing of the adapters


@dataclass(frozen=True)
class RunRecord:
    """Kept as run.json in the run's folder."""

    folder: Path
    identity: dict[str, Any]  # the settings that decide the result, by dotted key
    run_id: str = ""  # of MLflow; empty before the first start
    checkpoint: str = ""  # name of the final checkpoint inside the folder; empty while unfinished

    def save(self, **changes: str) -> "RunRecord":
        """Writes the changed record so that a reader sees the old or the new one, never half of it."""
        record = replace(self, **changes)
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"run_id": record.run_id, "checkpoint": record.checkpoint, "identity": record.identity}
        draft = self.folder / "run.json.new"
        draft.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(draft, self.folder / "run.json")
        return record


def run_identity(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide what a run computes, by dotted key, and the dataset's digest."""
    foreign = PEOPLE_FIELDS if config.stage == "adapters" else ADAPTERS_FIELDS
    identity = flatten(config.model_dump(mode="json", exclude=FREE_FIELDS | foreign))
    identity["dataset manifest"] = hashlib.sha256((config.dataset / "manifest.json").read_bytes()).hexdigest()[:16]
    return identity


def open_record(config: TrainConfig) -> RunRecord:
    """The record of `config.name` in `config.output`, new or as an earlier start left it.

    Raises:
        UserError: an earlier start had other settings; names each with its two values.
    """
    folder, identity = config.output / "runs" / config.name, run_identity(config)
    file = folder / "run.json"
    if not file.is_file():
        return RunRecord(folder, identity)
    try:
        stored = json.loads(file.read_text())
        earlier, run_id, checkpoint = stored["identity"], stored["run_id"], stored["checkpoint"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"run {config.name}: {file} is damaged ({error}); give another --name, or delete it") from error
    keys = sorted(key for key in earlier.keys() | identity.keys() if earlier.get(key) != identity.get(key))
    if keys:
        changes = ", ".join(f"{key} was {earlier.get(key)!r}, now {identity.get(key)!r}" for key in keys)
        raise UserError(f"run {config.name} in {config.output}: {changes}; give another --name or the earlier settings")
    return RunRecord(folder, identity, run_id, checkpoint)

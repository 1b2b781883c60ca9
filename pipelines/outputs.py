"""The output folder of a curation: whether it is new, unfinished, finished, or somebody else's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines import ledger
from pipelines.records import Source
from pipelines.report_html import REPORT
from pipelines.settings import CurationSettings
from pipelines.shards import DatasetError, Manifest, read_manifest
from pipelines.units import inputs_digest

STAGING = ".staging"  # below the output; removed when the dataset is complete
DRY_RUN = ".dry_run"  # the same of a dry run


def identity(settings: CurationSettings, info: dict[str, Any]) -> dict[str, Any]:
    """What decides the bytes; where the input lies does not, its files have names relative to it."""
    config = settings.model_dump(mode="json")
    del config["input"]["path"], config["input"]["root"]
    sections = {section: values for section, values in config.items() if isinstance(values, dict)}
    flat = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    models = {"encoders": info["fingerprints"], "tools": info.get("tools", {})}
    return flat | models | {"seed": settings.seed, "device": info["device"]}


def finished(
    output: Path, settings: CurationSettings, info: dict[str, Any], listed: Sequence[Source]
) -> Manifest | None:
    """The dataset that this very curation has made before. Raises DatasetError for one that something else made."""
    if not (output / "manifest.json").is_file():
        return None
    try:
        manifest = read_manifest(output)
    except DatasetError as error:
        raise DatasetError(f"output = {output}: {error}; give another folder or remove it") from error
    theirs = CurationSettings(**manifest.config)
    stored = info | {"fingerprints": {**info["fingerprints"], **manifest.fingerprints}, "device": manifest.device}
    stored["tools"] = manifest.tools
    if identity(theirs, stored) != identity(settings, info) or manifest.inputs != inputs_digest(listed):
        raise DatasetError(
            f"output = {output}: holds a dataset of other settings, models or sources; give another folder or remove it"
        )
    ledger.discard(output / STAGING)
    return manifest


def check_output(output: Path) -> None:
    """Raises DatasetError for a folder in which something lies that no curation has put there."""
    own = {STAGING, DRY_RUN, REPORT}
    foreign = [path.name for path in output.iterdir() if path.name not in own] if output.is_dir() else []
    if foreign and not (output / STAGING).is_dir():
        raise DatasetError(f"output = {output}: holds other files ({foreign[0]}); give an empty or new folder")

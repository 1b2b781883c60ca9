"""One feature family of a finished dataset, computed anew: for another encoder, or one that it did not hold."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexip.rows import DATASETS, PairRow
from pipelines import features, shards
from pipelines.records import from_table
from pipelines.shards import DatasetError, FileEntry, Manifest

if TYPE_CHECKING:
    from flexip.encoders import EncoderNames, Encoders

_MODEL = {"clip": "clip", "hidden": "clip", "dino": "dino", "text": "base", "vae": "base"}  # family -> whose it is


@dataclass(frozen=True)
class FamilyPart:
    """One file to be written: the features of the pairs of one part."""

    dataset: str
    name: str  # of the part, in every family's folder
    family: str


def plan_family(manifest: Manifest, family: str) -> list[FamilyPart]:
    """The parts to compute.

    Raises:
        DatasetError: no such family.
    """
    if shards.FACES in manifest.sizes:
        raise DatasetError("features: of a dataset of faces no family is computed anew; curate it once more")
    known = (*features.FAMILIES, features.OPTIONAL)
    if family not in known:
        raise DatasetError(f"only = features.{family}: no such family; known are {', '.join(known)}")
    parts = []
    for dataset in DATASETS:
        prefix = f"{dataset}/pairs/"
        names = sorted(name.removeprefix(prefix) for name in manifest.files if name.startswith(prefix))
        parts += [FamilyPart(dataset, name, family) for name in names]
    return parts


def write_part(part: FamilyPart, output: Path, encoders: "Encoders", batch_size: int, dtype: str) -> FileEntry:
    """Encodes the pairs of a part, in batches of fixed size, and writes them beside it."""
    rows = from_table(shards.read_part(output / part.dataset / "pairs" / part.name), PairRow)
    values = features.encode_family(encoders, rows, part.family, batch_size, dtype)
    folder = shards.feature_folder(part.dataset, part.family, encoders.fingerprints[part.family])
    table = shards.feature_table([row.pair_id for row in rows], part.family, values)
    return shards.write_table(output, f"{folder}/{part.name}", table)


def replaced_family(
    manifest: Manifest, family: str, names: "EncoderNames", info: dict[str, Any], files: Iterable[FileEntry]
) -> tuple[Manifest, list[FileEntry]]:
    """The manifest of the dataset with its new family, and its list of files without the old one."""
    old = {f"{dataset}/{family}-{manifest.fingerprints.get(family)}" for dataset in DATASETS}
    kept = [FileEntry(path, **entry) for path, entry in manifest.files.items() if path.rpartition("/")[0] not in old]
    config = manifest.config | {
        "shards": manifest.config["shards"] | ({"hidden": True} if family == features.OPTIONAL else {})
    }
    changed = dataclasses.replace(
        manifest,
        config=config,
        encoders=manifest.encoders | {_MODEL[family]: getattr(names, _MODEL[family])},
        fingerprints=manifest.fingerprints | {family: info["fingerprints"][family]},
        shapes=manifest.shapes | {family: list(info["shapes"][family])},
        files={},
    )
    return changed, [*kept, *files]

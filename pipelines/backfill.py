"""One feature family of a finished dataset, computed anew: for another encoder, or one that it did not hold."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexip.rows import DATASETS, PairRow
from pipelines import features, ledger, shards
from pipelines.outputs import STAGING
from pipelines.passes import Pools, Progress, Say, ask_worker, files_of, part_rows, quieten, record_of, run_pass
from pipelines.records import from_table
from pipelines.settings import CurationSettings
from pipelines.shards import DatasetError, FileEntry, Manifest, read_manifest, sweep, write_manifest
from pipelines.workers import Row, Run, open_encoders

if TYPE_CHECKING:
    from flexip.encoders import EncoderNames, Encoders

_MODEL = {"clip": "clip", "hidden": "clip", "dino": "dino", "text": "base", "vae": "base"}  # family -> whose it is


@dataclass(frozen=True)
class FamilyPart:
    """One file to be written: the features of the pairs of one part."""

    dataset: str
    name: str  # of the part, in every family's folder
    family: str


def backfill(
    family: str, names: "EncoderNames", output: Path, *, use_gpu: bool, say: Say, progress: Progress
) -> Manifest:
    """Compute one feature family of a finished dataset anew, leaving all others alone. Needs a running Ray.

    Raises:
        DatasetError: no dataset there, or no such family.
    """
    manifest, output = read_manifest(output), output.absolute()
    plan = {f"{part.dataset}-{part.name}": part for part in plan_family(manifest, family)}
    quieten()
    settings = CurationSettings(**manifest.config)
    threads = settings.shards.threads
    info = ask_worker(features.describe_encoders, names, gpu=use_gpu, threads=threads, on_gpu=use_gpu)
    mark = info["fingerprints"][family]
    if manifest.fingerprints.get(family) == mark:
        say("features", f"{family} of {output} is of encoder {mark} already")
        return manifest
    identity = {"only": f"features.{family}", "encoder": mark, "device": info["device"]}
    with ledger.open_run(output / STAGING, identity) as folder:
        run = Run(settings, names, info, folder, output, use_gpu)
        encoding = Pools.of_cluster(use_gpu).encoding(WriteFamily, run)
        run_pass(part_rows(plan), [encoding], folder, "features", progress)
        files = files_of([record_of(folder, name) for name in plan])
        manifest, files = replaced_family(manifest, family, names, info, files)
        manifest = write_manifest(output, manifest, files)
    sweep(output, set(manifest.files))
    ledger.discard(output / STAGING)
    return manifest


class WriteFamily:
    """part -> the file of one family of it."""

    def __init__(self, run: Run):
        self.run = run
        self.encoders = open_encoders(run)

    def __call__(self, row: Row) -> Row:
        part, run, wanted = FamilyPart(**json.loads(row["part"])), self.run, self.run.settings.shards
        entry = write_part(part, run.output, self.encoders, wanted.batch_size, wanted.dtype)
        ledger.finish(run.folder, row["name"], {"files": [dataclasses.asdict(entry)]})
        return {"name": row["name"]}


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

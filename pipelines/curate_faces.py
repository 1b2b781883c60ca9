"""Curation of faces: parts of people, each drawn, looked at, encoded and written by one worker."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import face_shards, features, ledger, outputs, report
from pipelines.face_shards import FacePart, FaceSettings
from pipelines.outputs import STAGING
from pipelines.passes import (
    Pools,
    Progress,
    Say,
    Step,
    ask_worker,
    files_of,
    part_rows,
    quieten,
    record_of,
    run_pass,
)
from pipelines.records import StageCount
from pipelines.shards import DatasetError, Manifest, sweep, write_manifest
from pipelines.workers import Row

if TYPE_CHECKING:
    from flexip.encoders import EncoderNames


def curate_faces(
    settings: FaceSettings, names: "EncoderNames", output: Path, *, use_gpu: bool, say: Say, progress: Progress
) -> Manifest:
    """A dataset of faces at `output`, begun or gone on with. Needs a running Ray.

    Raises:
        DatasetError: the output holds something else, or of other settings or models; not one face was accepted.
    """
    quieten()
    info = ask_worker(face_shards.describe, names, gpu=use_gpu, threads=settings.threads, on_gpu=use_gpu)
    output = output.absolute()
    if made := face_shards.finished(output, settings, info):
        say("curate", f"{output} is complete already")
        return made
    outputs.check_output(output)
    plan = {part.name: part for part in face_shards.plan_parts(settings)}
    with ledger.open_run(output / STAGING, face_shards.identity_of(settings, info)) as folder:
        pools, told = Pools.of_cluster(use_gpu), (settings, names, info, folder, output, use_gpu)
        # Drawing is bound by CPU, and so is encoding where there is no GPU.
        step = pools.encoding(WriteFaces, *told) if use_gpu else Step(WriteFaces, told, pools.searchers)
        run_pass(part_rows(plan), [step], folder, "parts", progress)
        records = [record_of(folder, name) for name in plan]
        files = files_of(records)
        manifest = face_shards.make_manifest(settings, names, info, records)
        sweep(output, {entry.path for entry in files})
        manifest = write_manifest(output, manifest, files)
    ledger.discard(output / STAGING)
    say("faces", report.count_line(StageCount(**{k: v for k, v in manifest.counts["face"].items() if k != "inputs"})))
    return manifest


class WriteFaces:
    """part -> the files of its people."""

    def __init__(
        self,
        settings: FaceSettings,
        names: "EncoderNames",
        info: dict[str, Any],
        folder: Path,
        output: Path,
        gpu: bool,
    ):
        from flexip.faces import open_faces

        self.settings, self.folder, self.output = settings, folder, output
        self.encoders = features.open_encoders(names, gpu=gpu, threads=settings.threads)
        self.library = open_faces("pocket")
        if face_shards.fingerprints(self.encoders.fingerprints, self.library) != info["fingerprints"]:
            raise DatasetError(f"models = {names}: their weights have changed since this curation began")

    def __call__(self, row: Row) -> Row:
        part = FacePart(**json.loads(row["part"]))
        record = face_shards.write_part(part, self.settings, self.encoders, self.library, self.output)
        ledger.finish(self.folder, row["name"], record)
        return {"name": row["name"]}

"""Curation: videos and stills in, a dataset of same-subject pairs with their features out.

    python -m jobs.curate --input.path clips/ --output runs/dataset
    python -m jobs.curate --config configs/pocket/curate.yaml --seed 1
    ray job submit --working-dir . -- python -m jobs.curate --input.path /data/clips --output /data/dataset

    python -m jobs.curate --input.path clips/ --output runs/look --dry-run 50      a report on 50 of the inputs, no more

    python -m jobs.curate faces --config configs/pocket/faces.yaml      people in seven expressions and five poses

The same command again goes on where it ended, whatever ended it. Of a dataset that is complete:

    python -m jobs.curate verify runs/dataset                      every file against its SHA-256
    python -m jobs.curate features runs/dataset --only dino --models.dino facebook/dinov2-large    one family anew
    python -m jobs.curate export runs/dataset --to webdataset --output pairs/      or uno, ip-adapter, kohya
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator

from flexip.rows import Split
from jobs.cluster import gpu_wanted, ray_session
from jobs.config import JobConfig, ModelsConfig, RayConfig, load
from jobs.console import UserError, command_line, progress, say
from jobs.weights import encoder_names
from pipelines.backfill import backfill
from pipelines.curate import curate, dry_run
from pipelines.curate_faces import curate_faces
from pipelines.exchange import Format, export
from pipelines.face_shards import FaceSettings
from pipelines.settings import CurationSettings
from pipelines.shards import FACES, Manifest, open_dataset, verify


class CurateConfig(JobConfig, CurationSettings):
    """Curate videos and stills into a dataset of same-subject pairs."""

    output: Path = Field(description="dataset directory to write; must not hold one yet")
    dry_run: int = Field(
        default=0,
        ge=0,
        description="so many inputs, drawn by hash, are tried, and only report.html is written; 0: all, into a dataset",
    )
    models: ModelsConfig = Field(default=ModelsConfig(), description="frozen encoders")
    ray: RayConfig = Field(default=RayConfig(), description="where it runs")

    def settings(self) -> CurationSettings:
        """The part that decides the dataset's bytes."""
        return CurationSettings(**{name: getattr(self, name) for name in CurationSettings.model_fields})


@dataclass(frozen=True)
class CurateResult:
    """Where the dataset lies and what is in it."""

    output: Path
    manifest: Manifest

    @property
    def contact_sheet(self) -> Path:
        """Picture of some pairs."""
        return self.output / "contact_sheet.png"

    @property
    def report(self) -> Path:
        """What became of every input, to be looked at."""
        return self.output / "report.html"


def run(config: CurateConfig) -> CurateResult:
    """Curate on the Ray that the configuration names. Raises SourceError or DatasetError when that is not possible."""
    names = encoder_names(config.models)
    with ray_session(config.ray):
        gpu = gpu_wanted(config.ray)
        manifest = curate(config.settings(), names, config.output, use_gpu=gpu, say=say, progress=progress)
    for dataset, sizes in manifest.sizes.items():
        say("dataset", f"{dataset}: " + ", ".join(f"{number} {split}" for split, number in sizes.items()))
    result = CurateResult(config.output, manifest)
    say("curate", f"dataset {config.output}, report {result.report}")
    return result


def try_out(config: CurateConfig) -> Path:
    """The report on `dry_run` of the inputs. Raises SourceError or DatasetError when that is not possible."""
    names = encoder_names(config.models)
    with ray_session(config.ray):
        gpu, number = gpu_wanted(config.ray), config.dry_run
        path = dry_run(config.settings(), names, config.output, number, use_gpu=gpu, say=say, progress=progress)
    say("dry run", f"report {path}; no dataset was written")
    return path


class FacesConfig(JobConfig, FaceSettings):
    """Draw people of the pocket world in seven expressions and five poses each: a dataset for DynamicID."""

    output: Path = Field(description="dataset directory to write; must not hold one yet")
    models: ModelsConfig = Field(default=ModelsConfig(), description="frozen encoders")
    ray: RayConfig = Field(default=RayConfig(), description="where it runs")

    def settings(self) -> FaceSettings:
        """The part that decides the dataset's bytes."""
        return FaceSettings(**{name: getattr(self, name) for name in FaceSettings.model_fields})


def draw_faces(config: FacesConfig) -> Manifest:
    """Raises DatasetError when that is not possible."""
    names = encoder_names(config.models)
    with ray_session(config.ray):
        gpu = gpu_wanted(config.ray)
        manifest = curate_faces(config.settings(), names, config.output, use_gpu=gpu, say=say, progress=progress)
    rows = manifest.sizes[FACES]
    say("dataset", ", ".join(f"{rows[split]} {split} of {n} people" for split, n in manifest.clusters.items()))
    return manifest


class FeaturesConfig(JobConfig):
    """Compute one feature family of a finished dataset anew, leaving all others alone."""

    only: str = Field(description="family: clip, dino, hidden, text or vae")
    models: ModelsConfig = Field(default=ModelsConfig(), description="frozen encoders")
    ray: RayConfig = Field(default=RayConfig(), description="where it runs")

    @field_validator("only")
    @classmethod
    def _family(cls, value: str) -> str:
        return value.removeprefix("features.")  # as it is called in the dataset's folders


def renew_features(dataset: Path, config: FeaturesConfig) -> Manifest:
    """Raises DatasetError: no dataset there, or no such family."""
    names = encoder_names(config.models)
    with ray_session(config.ray):
        gpu = gpu_wanted(config.ray)
        manifest = backfill(config.only, names, dataset, use_gpu=gpu, say=say, progress=progress)
    say("features", f"{config.only} of {dataset}: encoder {manifest.fingerprints[config.only]}")
    return manifest


class PairsConfig(JobConfig):
    """Write the pairs of a finished dataset in the format of another training."""

    to: Format = Field(description="webdataset, uno, ip-adapter or kohya")
    output: Path = Field(description="folder to write; must not be there yet")
    split: Split = Field(default="train", description="whose pairs")


def export_pairs(dataset: Path, config: PairsConfig) -> int:
    """Raises DatasetError: no dataset there, no such pairs, or an output that is there already."""
    count = export(open_dataset(dataset), config.to, config.output, config.split)
    say("export", f"{config.output}: {count} entries of the {config.split} split, as {config.to}")
    return count


def check(dataset: Path) -> Manifest:
    """Every listed file against its SHA-256. Raises DatasetError naming the first that differs."""
    manifest = verify(dataset)
    size = sum(entry["bytes"] for entry in manifest.files.values())
    say("verify", f"{dataset}: {len(manifest.files)} files, {size / 1e6:.1f} MB, all as the manifest lists them")
    return manifest


@command_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the top of the file."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["verify"] and len(words) == 2:
        check(Path(words[1]))
    elif words[:1] == ["features"] and len(words) >= 2:
        renew_features(Path(words[1]), load(FeaturesConfig, words[2:], "python -m jobs.curate features DATASET"))
    elif words[:1] == ["export"] and len(words) >= 2:
        export_pairs(Path(words[1]), load(PairsConfig, words[2:], "python -m jobs.curate export DATASET"))
    elif words[:1] == ["faces"]:
        draw_faces(load(FacesConfig, words[1:], "python -m jobs.curate faces"))
    elif words[:1] in (["verify"], ["features"], ["export"]):
        raise UserError(f"{words[0]}: give the dataset's directory, as in python -m jobs.curate {words[0]} DATASET")
    else:
        config = load(CurateConfig, words, "python -m jobs.curate")
        try_out(config) if config.dry_run else run(config)


if __name__ == "__main__":
    main()

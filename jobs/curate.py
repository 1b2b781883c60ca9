"""Curation: videos and stills in, a dataset of same-subject pairs with their features out.

python -m jobs.curate --input.path clips/ --output runs/dataset
python -m jobs.curate --config configs/pocket/curate.yaml --seed 1
ray job submit --working-dir . -- python -m jobs.curate --input.path /data/clips --output /data/dataset
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from flexip.encoders import EncoderNames
from jobs.cluster import gpu_wanted, ray_session
from jobs.config import JobConfig, ModelsConfig, RayConfig, load
from jobs.console import command_line, progress, say
from pipelines.curate import curate
from pipelines.settings import CurationSettings
from pipelines.shards import Manifest


class CurateConfig(JobConfig, CurationSettings):
    """Curate videos and stills into a dataset of same-subject pairs."""

    output: Path = Field(description="dataset directory to write; must not hold one yet")
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


def run(config: CurateConfig) -> CurateResult:
    """Curate on the Ray that the configuration names. Raises SourceError or DatasetError when that is not possible."""
    names = EncoderNames(**config.models.model_dump())
    with ray_session(config.ray):
        gpu = gpu_wanted(config.ray)
        manifest = curate(config.settings(), names, config.output, use_gpu=gpu, say=say, progress=progress)
    for dataset, sizes in manifest.sizes.items():
        say("dataset", f"{dataset}: " + ", ".join(f"{number} {split}" for split, number in sizes.items()))
    result = CurateResult(config.output, manifest)
    say("curate", f"dataset {config.output}, pictures {result.contact_sheet}")
    return result


@command_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the top of the file."""
    run(load(CurateConfig, argv, "python -m jobs.curate"))


if __name__ == "__main__":
    main()

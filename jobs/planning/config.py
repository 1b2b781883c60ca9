"""What a plan is made of."""

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from flexip.cost import PEAKS
from jobs.config import JobConfig, Section
from jobs.planning import numbers
from jobs.planning.numbers import Amount, Gpus

CPUS_PER_GPU = 90 / 8  # as infra/overlays/gpu-large asks of a machine


class Prices(Section):
    gpu_hour: float | None = Field(default=None, gt=0, description="of one GPU with its part of the machine, an hour")
    cpu_hour: float | None = Field(default=None, gt=0, description="of one logical CPU beside that, an hour")
    tb_month: float | None = Field(default=None, gt=0, description="of a terabyte of storage, a month")


class TrainingPlan(Section):
    steps: Amount = Field(default=1e6, ge=1, description="optimizer steps, as in configs/sd15/train.yaml")
    batch_size: Amount = Field(default=64, ge=1, description="rows in a step")
    checkpoint_every: Amount = Field(default=5000, ge=1, description="steps between two checkpoints")
    checkpoints: int = Field(default=3, ge=1, description="that are kept: the newest two, and the best")


class ServingPlan(Section):
    gpus: int = Field(default=1, ge=1, description="that serve")
    steps: int = Field(default=25, ge=1, le=1000, description="denoising steps of a picture")
    guided: bool = Field(default=True, description="with classifier-free guidance: two rows of a UNet call a step")
    pictures_a_day: Amount = Field(default=0, description="that are asked for; 0: not said")


class PlanConfig(JobConfig):
    """Reckon time, storage, cost and bottleneck of every stage, from a table of measured costs."""

    images: Amount = Field(default=0, description="stills, each a subject of its own, e.g. 11.1M")
    clips: Amount = Field(default=0, description="films, e.g. 1.23M")
    sets: Amount = Field(default=0, description="multi-view sets: pictures of one subject in a folder")
    gpus: str = Field(description="number and model, e.g. 8xH200")
    cpus: int | None = Field(
        default=None,
        ge=2,
        description="logical CPUs that curate; none: 90 for every eight GPUs, as infra/overlays/gpu-large asks",
    )
    nodes: int | None = Field(default=None, ge=1, description="machines; none: one for every eight GPUs")
    peak_tflops: float | None = Field(
        default=None, gt=0, description="of one GPU in bf16 [TFLOP/s]; none: known of A100, H100, H200"
    )
    cpu_speed: float = Field(default=1.0, gt=0, description="of one logical CPU, times that of the table's machine")
    storage_gb_s: float | None = Field(
        default=None, gt=0, description="that the storage gives all readers together [GB/s]; none: it is no limit"
    )
    captions: bool = Field(default=True, description="a captioner writes them, as in configs/sd15/curate.yaml")
    mtbf_hours: float | None = Field(
        default=None, gt=0, description="between two failures of one machine; none: as in the table; spot: less"
    )
    training: TrainingPlan = Field(default=TrainingPlan(), description="of the adapters, at 512 px")
    serving: ServingPlan = Field(default=ServingPlan(), description="at 512 px")
    prices: Prices = Field(default=Prices(), description="in money of your own; none: no cost is told")
    costs: list[Path] = Field(default=[], description="tables of your own machine, whose entries replace ours")
    simulate: Amount = Field(
        default=0, description="so many units of curation are run event by event beside the formula; 0: none"
    )
    seed: int = Field(default=0, ge=0, description="of the simulation")
    output: Path | None = Field(default=None, description="page to write, e.g. docs/scale.md; none: the terminal alone")

    @field_validator("gpus")
    @classmethod
    def _gpus(cls, value: str) -> str:
        numbers.gpus(value)
        return value

    @model_validator(mode="after")
    def _complete(self) -> "PlanConfig":
        if not self.images + self.clips + self.sets:
            raise ValueError("images, clips, sets: all are 0; give what is to be curated, e.g. --images 11.1M")
        if self.peak_tflops is None and self.machines.model not in PEAKS:
            known = ", ".join(PEAKS)
            raise ValueError(f"gpus = {self.gpus}: the peak is known of {known} alone; give --peak-tflops too")
        if 0 < self.simulate < 1000:
            raise ValueError(f"simulate = {self.simulate:g}: too few for a rate; give 1000 or more, or 0")
        return self

    @property
    def machines(self) -> Gpus:
        """Number and model."""
        return numbers.gpus(self.gpus)

    @property
    def peak(self) -> float:
        """Of one GPU in bf16 [FLOP/s]."""
        return 1e12 * self.peak_tflops if self.peak_tflops else PEAKS[self.machines.model]

    @property
    def cores(self) -> int:
        """Logical CPUs that curate."""
        return self.cpus or max(2, round(CPUS_PER_GPU * self.machines.number))

    @property
    def node_count(self) -> int:
        """Machines."""
        return self.nodes or -(-self.machines.number // 8)

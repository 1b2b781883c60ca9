"""What can be set in a training."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from flexip.encoders import Detail
from flexip.precision import Precision
from flexip.rows import DatasetName
from flexip.training_faces import FACE_TEXT
from jobs.config import JobConfig, MLflowConfig, ModelsConfig, RayConfig, Section


class AdapterSizes(Section):
    queries: int = Field(default=16, ge=1, description="learned queries of the detail stream [tokens]")
    cls_tokens: int = Field(default=4, ge=1, description="tokens that the CLIP [CLS] is expanded to")
    depth: int = Field(default=4, ge=1, description="Perceiver blocks of each stream")
    heads: int = Field(default=12, ge=1, description="attention heads of a block")
    dim_head: int = Field(default=64, ge=8, description="width of a head")
    method: Literal[
        "flexip", "flexip-without-edits", "flexip-without-shape", "ip-adapter", "ip-adapter-plus", "plus-dino"
    ] = Field(default="flexip", description="what is trained: FlexIP, or one of those of evaluation/baselines.py")
    gating: Literal["branch", "token"] = Field(
        default="branch", description="what the gate scales: attention or tokens"
    )

    @property
    def detail(self) -> Detail:
        """The feature family that the method reads the subject's detail from."""
        return "hidden" if self.method == "ip-adapter-plus" else "dino"


Weight = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[
    list[Weight],
    Field(min_length=1, max_length=2),
    BeforeValidator(lambda value: [value] if isinstance(value, int | float) else value),
]


class GateByDataset(Section):
    invariant: Range = Field(
        default=[0.7], description="gamma of a row whose pair shows the same moment; two numbers: drawn between them"
    )
    variant: Range = Field(
        default=[0.3], description="gamma of a row whose pair shows two moments; two numbers: drawn between them"
    )

    @field_validator("invariant", "variant")
    @classmethod
    def _rising(cls, value: list[float]) -> list[float]:
        if value[0] > value[-1]:
            raise ValueError("the lower end of a range comes first")
        return value

    def bounds(self, dataset: DatasetName) -> tuple[float, float]:
        """The ends of a dataset's range; equal for a constant."""
        ends = getattr(self, dataset)
        return ends[0], ends[-1]


class DropConfig(Section):
    text: float = Field(default=0.05, ge=0, le=1, description="probability that a row loses its caption alone")
    image: float = Field(default=0.05, ge=0, le=1, description="probability that a row loses its reference alone")
    both: float = Field(default=0.05, ge=0, le=1, description="probability that a row loses both")

    @model_validator(mode="after")
    def _exclusive(self) -> "DropConfig":
        total = self.text + self.image + self.both
        if total > 1:
            raise ValueError(f"text + image + both = {total:g}; they exclude each other, so at most 1")
        return self


class OptimizerConfig(Section):
    learning_rate: float = Field(default=1e-4, gt=0, description="of AdamW, at its peak")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="of the learning rate after the warm-up; cosine falls to 0 at the last step"
    )
    warmup: int = Field(default=0, ge=0, description="steps in which the learning rate rises linearly to its peak")
    weight_decay: float = Field(default=0.01, ge=0, description="of AdamW")
    grad_clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(
        default=0.999, ge=0, lt=1, description="decay of the moving average that checkpoints hold; 0: no average"
    )
    min_snr: float | None = Field(default=None, gt=0, description="Min-SNR loss weight's limit, e.g. 5; none: off")


class Mixture(Section):
    invariant: float = Field(default=0.5, ge=0, description="weight of the invariant dataset; only the ratio counts")
    variant: float = Field(default=0.5, ge=0, description="weight of the variant dataset")


class ValidationConfig(Section):
    rows: int = Field(default=64, ge=1, description="held-out pairs of each dataset that the loss is measured on")
    subjects: int = Field(default=4, ge=0, description="held-out subjects of the gate sweep; 0: no sweep")
    prompts: list[str] = Field(
        default=["in the snow", "on a beach"],
        min_length=1,
        description="what the sweep draws each as; on the command line a comma ends one, in YAML not",
    )
    gammas: list[Weight] = Field(
        default=[0.0, 0.25, 0.5, 0.75, 1.0], min_length=1, description="settings of the dial in the sweep"
    )
    steps: int = Field(default=10, ge=1, le=1000, description="denoising steps of the sweep")
    guidance_scale: float = Field(default=5.0, ge=1, description="classifier-free guidance of the sweep; 1 is without")
    best: Literal["hypervolume", "loss"] = Field(
        default="hypervolume",
        description="what the best checkpoint is the best by: the area that the sweep dominates, or the held-out loss",
    )
    gpus: float = Field(default=0.0, ge=0, description="share of a GPU that a validation takes; 0: it runs on a CPU")


class PeopleConfig(Section):
    tokens: int = Field(default=4, ge=1, description="of an identity")
    depth: int = Field(default=4, ge=1, description="Perceiver blocks of the face encoder")
    heads: int = Field(default=12, ge=1, description="attention heads of the face encoder")
    dim_head: int = Field(default=64, ge=8, description="width of a head, here and in the reconfigurator")
    lora_rank: int = Field(default=128, ge=0, description="of the attention projections; 0: they stay as they are")
    activated: bool = Field(
        default=True, description="an identity acts where the layer asks for it (SAA); false: alike everywhere"
    )
    motion_tokens: int = Field(default=4, ge=1, description="of an expression and a pose")
    motion_width: int = Field(default=1024, ge=8, description="of the reconfigurator inside")
    motion_heads: int = Field(default=16, ge=1, description="attention heads of the reconfigurator")
    motion_depth: int = Field(default=1, ge=1, description="blocks of each of its two nets")
    motion_channels: list[int] = Field(
        default=[16, 32, 64, 128, 256, 512], min_length=6, max_length=6, description="of the landmark encoder"
    )
    likeness: float = Field(
        default=1.0, ge=0, description="lambda: weight of the UNet's two predictions being alike; 0 saves its calls"
    )
    text: str = Field(default=FACE_TEXT, description="what the UNet is told in these calls")
    lose_landmarks: Weight = Field(default=0.3, description="probability that a motion is told in words alone")
    lose_sentence: Weight = Field(default=0.1, description="probability that a motion is told by landmarks alone")


class TrainConfig(JobConfig):
    """Train the FlexIP adapters on a curated dataset, or a stage of DynamicID on one of faces."""

    dataset: Path = Field(description="dataset directory, as written by jobs.curate")
    output: Path = Field(description="directory of the results: checkpoint, runs, MLflow store")
    name: str = Field(
        default="flexip", pattern=r"^[\w.-]+$", description="the run's name; starting one name again continues it"
    )
    stage: Literal["adapters", "anchoring", "reconfiguration"] = Field(
        default="adapters",
        description="what is trained: FlexIP's adapters, or DynamicID: first anchoring, then reconfiguration",
    )
    start: str | None = Field(
        default=None,
        description="checkpoint that the run begins with, pocket for our own, or an IP-Adapter's file, .safetensors or "
        ".bin; none: from nothing; reconfiguration needs one of anchoring",
    )
    people: PeopleConfig = Field(default=PeopleConfig(), description="DynamicID: its architecture and second stage")
    models: ModelsConfig = Field(default=ModelsConfig(), description="frozen models, the same as in curation")
    adapter: AdapterSizes = Field(default=AdapterSizes(), description="architecture of the adapters")
    gate: GateByDataset = Field(default=GateByDataset(), description="gamma in training: 1 keeps identity, 0 edits")
    drops: DropConfig = Field(default=DropConfig(), description="condition dropout, for classifier-free guidance")
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="AdamW over the adapters")
    mixture: Mixture = Field(default=Mixture(), description="shares of the two datasets in a batch")
    features: Literal["cached", "online"] = Field(
        default="cached",
        description="read from the dataset, or encoded again in every step: slow, for features that it does not hold",
    )
    precision: Precision = Field(
        default="fp32", description="of the forward pass: fp32, or bf16 where the processor has it; weights stay fp32"
    )
    compiled: bool = Field(default=False, description="torch.compile of the UNet: minutes at the start, then faster")
    channels_last: bool = Field(
        default=False, description="keep the UNet's convolutions in NHWC, which tensor cores prefer"
    )
    deterministic: bool | None = Field(
        default=None,
        description="sum gradients in the order of the ranks: a resumed run repeats bit for bit; none: on CPUs",
    )
    steps: int = Field(default=1000, ge=1, description="optimizer steps of the whole run")
    batch_size: int = Field(default=16, ge=1, description="rows in a step, over all workers; a multiple of workers")
    accumulate: int = Field(
        default=1, ge=1, description="parts that a worker computes its rows of a step in: less memory, the same step"
    )
    workers: int = Field(default=2, ge=1, description="training processes: gloo on CPUs, NCCL with one GPU each")
    max_workers: int | None = Field(
        default=None,
        ge=1,
        description="elastic: most training processes, where the cluster has room; workers is the fewest; none: fixed",
    )
    max_failures: int = Field(
        default=3, ge=0, description="times that training resumes after a worker died, before it gives up"
    )
    log_every: int = Field(default=10, ge=1, description="steps between logs; the host waits for the device only then")
    checkpoint_every: int = Field(default=200, ge=1, description="steps between two checkpoints")
    checkpoints_kept: int = Field(
        default=2, ge=1, description="newest checkpoints that stay on disk for resume, beside the best"
    )
    validate_every: int = Field(
        default=0, ge=0, description="steps between two validations, each of a checkpoint of its own; 0: none"
    )
    validation: ValidationConfig = Field(default=ValidationConfig(), description="what a validation looks at")
    registered_model: str | None = Field(
        default=None, description="MLflow registered model that gets the best checkpoint, with the alias champion"
    )
    dry_run: bool = Field(default=False, description="print what would be trained and what it costs; train nothing")
    gpus: int = Field(default=8, ge=1, description="GPUs that the dry run reckons the time for")
    peak_tflops: float | None = Field(
        default=None, gt=0, description="of one device [TFLOP/s], for MFU; none: known of A100, H100, H200, else no MFU"
    )
    mlflow: MLflowConfig = Field(default=MLflowConfig(), description="experiment tracking")
    system_metrics_every: float = Field(
        default=10.0,
        ge=0,
        description="time between two looks at processors, memory, disks and GPUs of every machine [s]; 0: none",
    )
    ray: RayConfig = Field(default=RayConfig(), description="where the workers run")
    seed: int = Field(default=0, ge=0, description="of the first weights, the order of samples, noise and dropout")

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        self._check_shares()
        self._check_stage()
        if self.optimizer.warmup > self.steps:
            raise ValueError(
                f"optimizer.warmup = {self.optimizer.warmup}: longer than the whole run, steps = {self.steps}"
            )
        if self.mixture.invariant + self.mixture.variant == 0:
            raise ValueError("mixture: both weights are 0; give at least one dataset a weight")
        return self

    def _check_stage(self) -> None:
        if self.stage == "adapters":
            return
        if self.stage == "reconfiguration" and self.start is None:
            raise ValueError("start: missing; reconfiguration goes on from a checkpoint of anchoring, so name one")
        for name, off in (("validate_every", 0), ("dry_run", False), ("features", "cached")):
            if (value := getattr(self, name)) != off:
                raise ValueError(f"{name} = {value}: is for the stage adapters; leave it out for {self.stage}")

    @property
    def worker_counts(self) -> range:
        """Every number of training processes that may come up."""
        return range(self.workers, (self.max_workers or self.workers) + 1)

    def _check_shares(self) -> None:
        if not self.worker_counts:
            raise ValueError(f"max_workers = {self.max_workers}: below workers = {self.workers}, which is the fewest")
        odd = [str(count) for count in self.worker_counts if self.batch_size % count]
        if odd:
            nearest = -(-self.batch_size // (unit := math.lcm(*self.worker_counts))) * unit
            raise ValueError(
                f"batch_size = {self.batch_size}: not a multiple of workers = {', '.join(odd)}; {nearest} would be"
            )
        uneven = [count for count in self.worker_counts if self.batch_size // count % self.accumulate]
        if uneven:
            raise ValueError(
                f"accumulate = {self.accumulate}: does not divide the {self.batch_size // uneven[0]} rows of each of "
                f"{uneven[0]} workers, batch_size = {self.batch_size}"
            )

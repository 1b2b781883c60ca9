"""The parts of `jobs.evaluate`'s configuration that are about benchmarks, methods and scoring."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from evaluation.layouts import Layout
from flexip.faces import FaceLibraryName
from jobs.config import Section

Kind = Literal["flexip", "ip-adapter", "base", "pictures"]


class BenchmarkConfig(Section):
    layout: list[Layout] = Field(
        default=[], description="benchmarks to pool: dreambench, dreambench++, ms-bench, folder, pocket"
    )
    path: list[Path] = Field(default=[], description="their local copies, in the same order; pocket needs none")
    prompts: list[str] = Field(default=[], description="for a folder: what to ask, {} standing for the subject")
    subjects: int | None = Field(default=None, ge=1, description="first so many subjects; none: all")
    prompts_each: int | None = Field(default=None, ge=1, description="first so many prompts of each; none: all")


class MethodConfig(Section):
    """One method of the comparison."""

    name: str = Field(min_length=1, description="as the report calls it")
    kind: Kind = Field(description="who draws: a checkpoint, diffusers' IP-Adapter, the base model, or somebody else")
    checkpoint: Path | None = Field(
        default=None, description="flexip: checkpoint directory, a baseline's too, or pocket"
    )
    base: str = Field(default="pocket", description="ip-adapter, base: Stable Diffusion 1.5")
    weights: str = Field(default="", description="ip-adapter: folder or hub name")
    subfolder: str = Field(default="", description="ip-adapter: folder of the weights in it")
    weight_name: str = Field(default="", description="ip-adapter: file of the weights")
    image_encoder: str = Field(default="", description="ip-adapter: folder or hub name of its image encoder")
    manifest: Path | None = Field(default=None, description="pictures: manifest.jsonl beside somebody else's files")
    gammas: list[Annotated[float, Field(ge=0)]] = Field(
        default=[], description="settings of its dial, or scales; none: those of the job for flexip, 1 for ip-adapter"
    )
    cut_out: bool = Field(default=True, description="flexip: cut the subject out of its reference, as in training")

    @model_validator(mode="after")
    def _complete(self):
        needed = {"flexip": ("checkpoint",), "ip-adapter": ("weights", "weight_name"), "pictures": ("manifest",)}
        for field in needed.get(self.kind, ()):
            if not getattr(self, field):
                raise ValueError(f"{self.name}: {field} is missing; a method of kind {self.kind} needs it")
        return self


class ScoringConfig(Section):
    clip: str | None = Field(
        default=None,
        description="CLIP-T and CLIP-I: pocket, or an OpenCLIP name, e.g. ViT-B-32-quickgelu/openai; none: that of "
        "--checkpoint, else pocket",
    )
    dino: str | None = Field(
        default=None,
        description="DINO-I: pocket, or a timm name, e.g. vit_small_patch16_224.dino; none: that of --checkpoint",
    )
    others: list[str] = Field(
        default=[],
        description="further OpenCLIP encoders for identity, e.g. ViT-B-16-SigLIP/webli, which no method uses",
    )
    iqa: bool = Field(default=False, description="CLIP-IQA by torchmetrics; downloads its weights")
    aesthetic: list[Path] = Field(default=[], description="LAION's heads, .pth")
    aesthetic_clip: str = Field(default="ViT-L-14-quickgelu/openai", description="the CLIP that the heads are for")
    masked: bool = Field(default=False, description="metrics on the subject alone, cut out by curation's detector")
    truth: bool | None = Field(
        default=None, description="read faces and edits with the pocket oracles; none: on the pocket benchmark"
    )
    faces: FaceLibraryName | None = Field(
        default=None, description="FaceSim by a face library; none: on the pocket benchmark by its own nets, else not"
    )
    face_files: list[Path] = Field(
        default=[],
        description="of the face library; opencv: YuNet's and SFace's .onnx, insightface: the models' folder",
    )
    gamma: float = Field(default=0.5, ge=0, description="the setting at which a dial stands in the leaderboard")
    cache: Path | None = Field(default=None, description="SQLite file of embeddings; none: <output>/embeddings.sqlite")

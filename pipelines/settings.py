"""Settings of every curation stage, typed and checked; the job's configuration is made of these sections.

Frozen and picklable, so that a stage can carry its section to another machine.
"""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """A section: immutable, and an unknown key in it is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class InputSettings(Settings):
    path: str = Field(
        description="a video, image, manifest (.jsonl, .json, .csv, .parquet) or .tar of them; a folder (searched "
        "recursively), a glob such as 'clips/**/*.mp4' or a range such as 'shard-{000..005}.tar'; local or a URL "
        "(s3://, gs://, https:// ...)"
    )
    root: str = Field(default="", description="folder or URL that a manifest's files are relative to; none: its own")
    group_by_folder: bool = Field(
        default=False,
        description="the stills of one folder are one subject (multi-view sets, DreamBooth or kohya layout)",
    )
    licence: str = Field(default="", description="licence where nothing else is told of a source, e.g. CC-BY-4.0")
    consent: str = Field(
        default="",
        description="ground on which people are shown where nothing else is told of a source, e.g. 'model release'",
    )
    provenance: str = Field(default="", description="where a source comes from when nothing else is told of it")
    faces: bool = Field(
        default=False,
        description="the subjects are people's faces: each source needs a licence and a consent, others are rejected",
    )


class FrameSettings(Settings):
    per_video: int = Field(default=8, ge=1, description="frames sampled from each video, evenly spaced")
    max_side: int = Field(
        default=512, ge=32, description="longer side of a decoded frame or still [px]; larger is reduced"
    )
    motion_gap_s: float = Field(
        default=0.15, gt=0, description="time from a frame to the neighbour that its motion is measured against [s]"
    )
    max_pixels: float = Field(default=64e6, gt=0, description="a still with more pixels is rejected undecoded")
    timeout_s: float = Field(
        default=60, gt=0, description="wall-clock limit of decoding one video [s]; then it is killed"
    )


class SubjectSettings(Settings):
    working_side: int = Field(default=192, ge=48, description="longer side at which subjects are searched [px]")
    max_per_frame: int = Field(default=2, ge=1, description="subjects kept in one frame, most salient first")
    static_camera: float = Field(
        default=0.012, gt=0, description="background change between frames below which the camera stands still, 0..1"
    )
    cut_distance: float = Field(
        default=0.52,
        gt=0,
        le=2,
        description="change between successive frames that counts as a cut: tracks end there, 0..1.35",
    )
    timeout_s: float = Field(
        default=120, gt=0, description="wall-clock limit of finding the subjects of one clip [s]; then it is killed"
    )
    track_distance: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="largest distance (appearance and position) of one subject in successive frames",
    )


class FilterSettings(Settings):
    area_min: float = Field(
        default=0.01, ge=0, le=1, description="least area of the subject's box, fraction of the frame"
    )
    area_max: float = Field(
        default=0.64, ge=0, le=1, description="largest area of the subject's box, fraction of the frame"
    )
    side_min: int = Field(
        default=24, ge=1, description="least shorter side of the subject's box [px of the decoded frame]"
    )
    fill_min: float = Field(default=0.2, ge=0, le=1, description="least part of the box that the mask covers")
    detail_min: float = Field(default=5.0, ge=0, description="least standard deviation inside the mask [grey levels]")
    sharpness_min: float = Field(
        default=8.0, ge=0, description="least variance of the frame's Laplacian, grey levels squared"
    )
    brightness_min: float = Field(
        default=0.06, ge=0, le=1, description="least mean grey of a frame, 0 black .. 1 white"
    )
    brightness_max: float = Field(
        default=0.97, ge=0, le=1, description="largest mean grey of a frame, 0 black .. 1 white"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "FilterSettings":
        if self.area_min >= self.area_max:
            raise ValueError(f"area_min = {self.area_min} must be below area_max = {self.area_max}")
        if self.brightness_min >= self.brightness_max:
            raise ValueError(f"brightness_min = {self.brightness_min} must be below {self.brightness_max}")
        return self


class CaptionSettings(Settings):
    phrase: str = Field(default="subject", description="what a subject is called when no sidecar file says it")
    template: str = Field(
        default="a photo of a {phrase}", description="caption without a sidecar file; {phrase} is filled in"
    )
    side_files: bool = Field(
        default=True,
        description="look for captions beside the sources: captions.jsonl and .txt; in a bucket .txt, a request each",
    )


class PairSettings(Settings):
    min_gap_s: float = Field(default=0.2, ge=0, description="least time between the two frames of a variant pair [s]")
    min_gap_fraction: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="least time between them as a fraction of the clip; the larger of the two holds",
    )
    invariant_per_track: int = Field(
        default=2, ge=0, description="invariant pairs made of one track or multi-view folder"
    )
    variant_per_track: int = Field(default=4, ge=0, description="variant pairs kept of one track or multi-view folder")
    identity_min: float = Field(
        default=0.5, ge=-1, le=1, description="least DINO cosine of the two crops of a variant pair"
    )
    pixels_max: float = Field(
        default=0.985,
        ge=0,
        le=1,
        description="largest pixel similarity of a variant pair: above it the pair teaches copying",
    )
    pixels_min: float = Field(default=0.0, ge=0, le=1, description="least pixel similarity of a variant pair")
    cross_video: int = Field(
        default=0,
        ge=0,
        description="variant pairs made of a subject's tracks in two different sources, found by embedding; 0: none",
    )
    cross_identity_min: float = Field(
        default=0.8,
        ge=-1,
        le=1,
        description="least DINO cosine of two tracks, and of the crops of their pairs, that are taken for one subject",
    )
    enlarge_min: float = Field(default=1.1, ge=1, description="least enlargement of the reference box")
    enlarge_max: float = Field(default=1.4, ge=1, description="largest enlargement of the reference box")
    reference_side: int = Field(default=224, ge=16, description="side of the stored reference square [px]")
    target_side: int | None = Field(
        default=None, ge=16, description="side of the stored target square [px]; none: the base model's resolution"
    )


class DuplicateSettings(Settings):
    hash_bits: int = Field(
        default=31,
        ge=-1,
        lt=64,
        description="sources whose perceptual hashes differ in no more of 256 bits look the same; -1: none do "
        "(31 is what PDQ recommends for hashes of this form and length)",
    )
    embedding_min: float = Field(
        default=0.9, ge=-1, le=1, description="least DINO cosine of the subjects of two sources that look the same"
    )


class SplitSettings(Settings):
    val: float = Field(
        default=0.05, ge=0, lt=1, description="fraction of the identity clusters held out for validation"
    )
    test: float = Field(default=0.05, ge=0, lt=1, description="fraction of the identity clusters held out for test")
    least_val: int = Field(
        default=0, ge=0, description="at least so many clusters for validation, of each kind of source"
    )
    least_test: int = Field(default=0, ge=0, description="at least so many clusters for test, of each kind of source")

    @model_validator(mode="after")
    def _leaves_training(self) -> "SplitSettings":
        if self.val + self.test >= 1:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves nothing to train on; keep it below 1")
        return self


class ShardSettings(Settings):
    rows_per_file: int = Field(
        default=256, ge=1, description="pairs in one Parquet file, exactly (the last may have fewer)"
    )
    batch_size: int = Field(default=16, ge=1, description="pairs encoded at once; part of the result's last bits")
    threads: int = Field(
        default=1, ge=1, description="CPU threads of one encoding actor; part of the result's last bits"
    )
    hidden: bool = Field(
        default=False, description="also store CLIP's penultimate states of the reference, for IP-Adapter-Plus"
    )
    dtype: str = Field(
        default="float16", pattern="^(float16|float32)$", description="storage of features: float16 or float32"
    )


class CurationSettings(Settings):
    """What decides the bytes of a dataset, beside the encoders; where it runs and how it prints is not part of it."""

    input: InputSettings = Field(description="what to curate; --input.path is the one thing needed")
    frames: FrameSettings = Field(default=FrameSettings(), description="reading of videos and stills")
    subjects: SubjectSettings = Field(default=SubjectSettings(), description="finding subjects")
    filters: FilterSettings = Field(default=FilterSettings(), description="what is kept")
    captions: CaptionSettings = Field(default=CaptionSettings(), description="captions without a sidecar file")
    pairs: PairSettings = Field(default=PairSettings(), description="invariant and variant pairs")
    duplicates: DuplicateSettings = Field(default=DuplicateSettings(), description="sources that look the same")
    splits: SplitSettings = Field(default=SplitSettings(), description="train, val and test by identity cluster")
    shards: ShardSettings = Field(default=ShardSettings(), description="feature files")
    seed: int = Field(default=0, ge=0, description="seed of every random choice")

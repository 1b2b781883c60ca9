"""Settings of every curation stage, typed and checked; the job's configuration is made of these sections.

Frozen and picklable, so that a stage can carry its section to another machine.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Detectors that need a model: the hub name taken when none is given (empty: there is none to take). And the least score
# that their authors use. YuNet, hog: OpenCV's defaults; OWLv2: transformers' examples; Grounding DINO: its README.
DETECTOR_MODELS = {
    "yunet": "",
    "owlv2": "google/owlv2-base-patch16-ensemble",
    "grounding_dino": "IDEA-Research/grounding-dino-tiny",
}
LEAST_SCORES = {"motion": 0.0, "haar": 0.0, "hog": 0.5, "yunet": 0.9, "owlv2": 0.1, "grounding_dino": 0.35}


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
    search_frames: int = Field(
        default=1800,
        ge=1,
        description="a video of at most so many frames (a minute) is searched for cuts frame by frame, a longer one "
        "at keyframes, and at most at so many",
    )
    cut_ratio: float = Field(
        default=2.2,
        gt=1,
        description="change of a frame against its surroundings that is a cut; PySceneDetect's 3.0 missed 3 of 28 cuts "
        "amid fast motion, whose least was 2.6, where motion alone reached 2.0",
    )
    cut_change: float = Field(
        default=15.0, gt=0, description="least mean change of hue, saturation and value of a cut (PySceneDetect's)"
    )
    fade_level: float = Field(
        default=12.0, ge=0, description="mean value of 0..255 below which a shot has faded out (PySceneDetect's)"
    )
    keyframe_change: float = Field(
        default=27.0, gt=0, description="as cut_change, between keyframes (PySceneDetect's ContentDetector)"
    )
    damaged_max: float = Field(
        default=0.2, ge=0, le=1, description="a video of which a larger part of the frames is damaged is quarantined"
    )
    timeout_s: float = Field(
        default=240,
        gt=0,
        description="wall-clock limit of decoding one video [s]; then it is killed (1800 frames of 4K take 52 s)",
    )
    memory_mb: int = Field(
        default=2048, ge=64, description="resident memory that decoding one video may take [MB]; then it is killed"
    )


class SubjectSettings(Settings):
    detector: Literal["motion", "haar", "hog", "yunet", "owlv2", "grounding_dino"] = Field(
        default="motion",
        description="what finds subjects: motion and saliency (no weights), OpenCV's haar faces or hog people, yunet "
        "faces, or owlv2 or grounding_dino with a list of phrases",
    )
    detector_model: str = Field(
        default="",
        description="weights of the detector: YuNet's .onnx file, or a folder or hub name of OWLv2 or Grounding DINO; "
        "empty: their authors' smallest on the hub",
    )
    phrases: tuple[str, ...] = Field(
        default=(), description="what owlv2 and grounding_dino look for, e.g. [dog, red backpack]; also names subjects"
    )
    score_min: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="least score of a detection, 0..1; none: 0 motion and haar, 0.5 hog, 0.9 yunet, 0.1 owlv2, "
        "0.35 grounding_dino, as in their authors' examples",
    )
    text_score_min: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="least score of a word of a phrase with grounding_dino, as in its authors' example",
    )
    overlap_max: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="of detections that overlap more (IoU) the best stays; motion's do not overlap. 0.5: Faster R-CNN",
    )
    detector_side: int = Field(
        default=512, ge=48, description="longer side at which detectors other than motion search [px]"
    )
    batch_size: int = Field(default=8, ge=1, description="pictures that a model sees at once; part of the last bits")
    masks: Literal["grabcut", "sam2"] = Field(
        default="grabcut", description="what cuts subjects out: grabcut (no weights) or sam2"
    )
    masks_model: str = Field(
        default="facebook/sam2.1-hiera-tiny", description="folder or hub name of the SAM 2 that masks = sam2 uses"
    )
    working_side: int = Field(default=192, ge=48, description="longer side at which motion searches subjects [px]")
    max_per_frame: int = Field(default=2, ge=1, description="subjects kept in one frame, most salient first")
    static_camera: float = Field(
        default=0.012, gt=0, description="background change between frames below which the camera stands still, 0..1"
    )
    timeout_s: float = Field(
        default=120, gt=0, description="wall-clock limit of finding the subjects of one clip [s]; then it is killed"
    )
    memory_mb: int = Field(
        default=2048, ge=64, description="resident memory that finding them may take without pretrained weights [MB]"
    )
    track_distance: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="largest distance (appearance and position) of one subject in successive frames",
    )
    track_margin: float = Field(
        default=0.03,
        ge=0,
        le=1,
        description="a subject that fits two tracks nearly as well, within this distance, begins a new one",
    )

    @property
    def model(self) -> str:
        """Weights of the detector; empty when it needs none."""
        return self.detector_model or DETECTOR_MODELS.get(self.detector, "")

    @property
    def least_score(self) -> float:
        """Least score of a detection of the chosen detector."""
        return LEAST_SCORES[self.detector] if self.score_min is None else self.score_min

    @property
    def side(self) -> int:
        """Longer side at which the chosen detector searches [px]."""
        return self.working_side if self.detector == "motion" else self.detector_side

    @model_validator(mode="after")
    def _complete(self) -> "SubjectSettings":
        names = self.detector in ("owlv2", "grounding_dino")
        if names and not any(phrase.strip() for phrase in self.phrases):
            raise ValueError(f"phrases = {list(self.phrases)}: {self.detector} needs some, e.g. [dog, red backpack]")
        if not all(phrase.strip() for phrase in self.phrases):
            raise ValueError(f"phrases = {list(self.phrases)}: an empty phrase finds nothing; leave it out")
        if not names and self.phrases:
            raise ValueError(f"phrases = {list(self.phrases)}: {self.detector} reads none; owlv2 and grounding_dino do")
        if self.detector == "yunet" and not self.detector_model:
            raise ValueError("detector_model is empty: yunet needs the path of its .onnx file")
        if self.detector not in DETECTOR_MODELS and self.detector_model:
            raise ValueError(f"detector_model = {self.detector_model!r}: {self.detector} needs none; leave it out")
        return self


class FilterSettings(Settings):
    area_min: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="least area of the subject's box, fraction of the frame; AnyDoor (arXiv 2307.09481) has 0.01",
    )
    area_max: float = Field(
        default=0.64,
        ge=0,
        le=1,
        description="largest area of the subject's box, fraction of the frame; AnyDoor has 0.64",
    )
    side_min: int = Field(
        default=24,
        ge=1,
        description="least shorter side of the subject's box [px of the decoded frame]; chosen here: less has "
        "no detail to learn",
    )
    fill_min: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="least part of the box that the mask covers; chosen here: nets, frames and crumbs have less",
    )
    detail_min: float = Field(
        default=5.0,
        ge=0,
        description="least standard deviation inside the mask [grey levels]; chosen here: walls and skies have less",
    )
    sights_min: int = Field(
        default=2,
        ge=1,
        description="least frames of a shot of four or more that show a subject; chosen here: what is seen once is "
        "often two in one, or a chance",
    )
    motion_min: float = Field(
        default=0.5,
        ge=0,
        description="least own motion [px at working_side] of a subject that motion found, unless its video rests as a "
        "whole; 0 where the camera moves about subjects at rest. Chosen here: the scene itself stays below 0.45",
    )
    growth_max: float = Field(
        default=1.5,
        ge=1,
        description="largest area of a subject's box against the lower quarter of its track; chosen here: what is "
        "larger holds a neighbour too",
    )
    sharpness_min: float = Field(
        default=8.0,
        ge=0,
        description="least variance of the frame's Laplacian, grey levels squared (Pech-Pacheco et al., ICPR 2000); 8 "
        "rejects only what is plainly blurred or empty",
    )
    brightness_min: float = Field(
        default=0.06, ge=0, le=1, description="least mean grey of a frame, 0 black .. 1 white; rejects failed exposures"
    )
    brightness_max: float = Field(
        default=0.97, ge=0, le=1, description="largest mean grey of a frame; a subject on white stays below it"
    )
    black_max: float = Field(
        default=0.98,
        gt=0,
        le=1,
        description="a frame with so large a black part is a black frame; ffmpeg blackdetect has 0.98",
    )
    change_min: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="least mean difference to every earlier frame of the clip, 0..1; ffmpeg freezedetect has 0.001",
    )
    text_max: float = Field(
        default=0.03,
        ge=0,
        le=1,
        description="largest part of the frame under lines of text; measured here: printed tins in photographs up to "
        "0.024, a large subtitle from 0.03",
    )
    aesthetic_head: str = Field(
        default="",
        description="file of an aesthetic head on CLIP embeddings: LAION's V1 linear or V2 MLP, .pth; empty: off",
    )
    aesthetic_clip: str = Field(
        default="openai/clip-vit-large-patch14",
        description="folder or hub name of the CLIP that the head was trained on; LAION's: OpenAI's ViT-L/14 or B/32",
    )
    aesthetic_min: float = Field(
        default=4.5, description="least aesthetic score of a frame when there is a head; OpenS2V-5M has 4.5"
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
    model: str = Field(
        default="",
        description="folder or hub name of an image captioner of transformers (BLIP, Florence-2, GIT ...), which "
        "writes where no file does; empty: the template",
    )
    prompt: str = Field(
        default="",
        description="what the captioner is given: Florence-2 needs <CAPTION>, BLIP a beginning or none",
    )
    max_tokens: int = Field(default=40, ge=1, description="longest caption of the captioner, in tokens")
    batch_size: int = Field(default=8, ge=1, description="pictures captioned at once; part of the result's last bits")
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
        default=0.9,
        ge=-1,
        le=1,
        description="least DINO cosine of the subjects most alike of two sources that look the same",
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
    captions: CaptionSettings = Field(default=CaptionSettings(), description="captions of the subjects")
    pairs: PairSettings = Field(default=PairSettings(), description="invariant and variant pairs")
    duplicates: DuplicateSettings = Field(default=DuplicateSettings(), description="sources that look the same")
    splits: SplitSettings = Field(default=SplitSettings(), description="train, val and test by identity cluster")
    shards: ShardSettings = Field(default=ShardSettings(), description="feature files")
    seed: int = Field(default=0, ge=0, description="seed of every random choice")

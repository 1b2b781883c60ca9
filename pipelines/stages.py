"""The stages of one clip as plain functions: read frames, find subjects, make pairs.

Each takes and returns rows; nothing is dropped: what is not used further stays as a row with a status and a reason.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2
import numpy as np

from flexip.images import ImageError, Mask, Rgb, decode_image, encode_jpeg, encode_mask, encode_png, resize
from flexip.rows import PairRow, Status, SubjectRow, subject_key
from pipelines import captions, filters, storage
from pipelines.crops import cut_out, frame_mask, target_square
from pipelines.pairs import PairMaker, subjects_of
from pipelines.probe import MediaError
from pipelines.records import Crop, Frame, Source, StageCount
from pipelines.sandbox import SandboxError
from pipelines.settings import CurationSettings, FrameSettings
from pipelines.sights import Shot, judge_sights
from pipelines.subjects import Detection, Detector, View, working_view
from pipelines.tools import Tools, open_tools
from pipelines.tracks import follow
from pipelines.video import reduced_size

Result = TypeVar("Result")
Found = tuple[list[tuple[Frame, Rgb]], list[list[Detection]], list[list[int]]]  # of a shot: frames, subjects, tracks
THUMBNAIL = 112  # longer side of the picture that is kept of a rejected frame [px]
REJECTED_MEDIA = {
    "no_video_stream",
    "too_many_bytes",
    "too_many_pixels",
    "too_small",
}  # sound files of an unwanted kind; others are damaged
DESCRIBED_SCALE, DESCRIBED_SIDE = 1.7, 384  # what a captioner sees: as targets are cut on average; BLIP's side [px]


def read_frames(
    sources: Sequence[Source], settings: FrameSettings, read_video: Callable[[Source, FrameSettings], list[Frame]]
) -> tuple[list[Source], list[Frame]]:
    """Decode the sources of a clip; a source that cannot be decoded is rejected or quarantined and gives no frames."""
    judged, frames = [], []
    for source in sources:
        try:
            video = source.kind == "video"
            found = _read_local(source, settings, read_video) if video else [read_still(source, settings)]
        except (MediaError, ImageError, SandboxError) as error:
            status: Status = "rejected" if error.reason in REJECTED_MEDIA else "quarantined"
            judged.append(dataclasses.replace(source, status=status, reason=error.reason))
        except OSError:
            judged.append(dataclasses.replace(source, status="quarantined", reason="unreadable"))
        else:
            judged.append(source)
            frames += found
    return judged, frames


def read_still(source: Source, settings: FrameSettings) -> Frame:
    """A still as a frame at curation resolution.

    Raises:
        ImageError: it is no usable picture.
        OSError: it cannot be read.
    """
    limit = 2**20 + int(16 * settings.max_pixels)  # no picture that is allowed takes more: 4 channels of 32 bits
    try:
        data = storage.read_bytes(source, limit)
    except storage.TooLargeError as error:
        raise ImageError("too_many_bytes", str(error)) from error
    rgb = decode_image(data, max_pixels=settings.max_pixels)
    small = resize(rgb, reduced_size(rgb.shape[0], rgb.shape[1], settings.max_side))
    return Frame(source.uri, source.sha256, 0, 0.0, 0.0, encode_png(small, level=1))


def _read_local(
    source: Source, settings: FrameSettings, read_video: Callable[[Source, FrameSettings], list[Frame]]
) -> list[Frame]:
    """Decoders need a local path: the file itself, or a copy of what is in a bucket or a tar, while they read."""
    with storage.local_copy(source) as path:
        return patiently(read_video, dataclasses.replace(source, path=str(path), offset=-1), settings)


def find_subjects(
    cluster: str, sources: Sequence[Source], frames: Sequence[Frame], settings: CurationSettings, tools: Tools
) -> tuple[list[SubjectRow], list[Crop]]:
    """Rows of every source, frame and subject of a clip, and the crops of the accepted subjects in the rows' order."""
    by_hash = {source.sha256: source for source in sources}
    rows = [source_row(s, cluster, [f for f in frames if f.source_hash == s.sha256]) for s in sources]
    crops: list[Crop] = []
    good: list[tuple[Frame, Rgb]] = []
    measured: dict[Frame, dict[str, float]] = {}
    to_describe: dict[str, Rgb] = {}
    for frame, image, verdicts in _judge(frames, settings, tools):
        reason = filters.first_reason(verdicts)
        measured[frame] = {verdict.name: verdict.value for verdict in verdicts}
        if reason:
            rows.append(_frame_row(frame, by_hash[frame.source_hash], cluster, reason, measured[frame]))
        else:
            good.append((frame, image))
    shots = _detect(good, sources, settings, tools.detect)
    for (shot, found, tracks), told in zip(shots, _sights(shots, sources, settings), strict=True):
        for (frame, image), detections, numbers, sights in zip(shot, found, tracks, told, strict=True):
            source = by_hash[frame.source_hash]
            reason = "" if detections else "no_subject"
            rows.append(
                _frame_row(frame, source, cluster, reason, {**measured[frame], "subjects": float(len(detections))})
            )
            for detection, number, verdicts in zip(detections, numbers, sights, strict=True):
                track = (
                    f"{cluster}:{number}" if source.kind == "multiview" else f"{cluster}:{shot[0][0].index}:{number}"
                )
                row, crop = _subject(frame, image, source, cluster, track, detection, verdicts, settings)
                rows.append(row)
                crops += [crop] if crop else []
                if crop and row.caption_source == "fallback":
                    to_describe[row.key] = target_square(image, row.box, DESCRIBED_SCALE, DESCRIBED_SIDE)
    return (captions.described(rows, to_describe, tools.describe) if tools.describe else rows), crops


def _judge(
    frames: Sequence[Frame], settings: CurationSettings, tools: Tools
) -> list[tuple[Frame, Rgb, list[filters.Verdict]]]:
    """Each frame with its picture and all verdicts on it."""
    judged, kept = [], defaultdict[str, list[Rgb]](list)
    for frame in frames:
        image = decode_image(frame.image, min_side=1)
        verdicts = filters.judge_frame(image, settings.filters, kept[frame.source_hash])
        judged.append((frame, image, verdicts))
        if not filters.first_reason(verdicts):
            kept[frame.source_hash].append(image)
    if tools.score:  # a model costs most: it sees only what would be kept
        passed = [one for one in judged if not filters.first_reason(one[2])]
        for (_, _, verdicts), score in zip(passed, tools.score([image for _, image, _ in passed]), strict=True):
            verdicts.append(filters.aesthetic(score, settings.filters))
    return judged


def search_clip(
    cluster: str, sources: Sequence[Source], frames: Sequence[Frame], settings: CurationSettings, gpu: bool = False
) -> tuple[list[SubjectRow], list[Crop]]:
    """`find_subjects` with the tools that the settings name; runs in a sandbox, for detectors crash too.

    Weights are loaded at the first call of a process; one without sources does only that.
    """
    cv2.setNumThreads(1)  # parallelism comes from processes
    tools = open_tools(settings, gpu)  # type: ignore[arg-type]  # frozen models of pydantic have a hash
    return find_subjects(cluster, sources, frames, settings, tools) if sources else ([], [])


def find_or_quarantine(
    cluster: str,
    sources: Sequence[Source],
    frames: Sequence[Frame],
    settings: CurationSettings,
    search: Callable[..., tuple[list[SubjectRow], list[Crop]]],
) -> tuple[list[SubjectRow], list[Crop]]:
    """What `search` finds in a clip. Whatever a clip does to it costs this clip alone and is counted."""
    hashes = {source.sha256 for source in sources}
    own = [frame for frame in frames if frame.source_hash in hashes]
    try:
        return patiently(search, cluster, sources, own, settings)
    except SandboxError as error:
        reason = f"subjects:{error.reason}"
    except Exception as error:
        reason = f"subjects:{type(error).__name__}"
    return [source_row(quarantined(source, reason), cluster) for source in sources], []


def patiently(call: Callable[..., Result], *arguments: object, attempts: int = 3) -> Result:
    """The result of a call in a sandbox. One that dies may have been killed from outside: it is tried again."""
    for left in reversed(range(attempts)):
        try:
            return call(*arguments)
        except SandboxError as error:
            if error.reason != "died" or not left:
                raise
    raise AssertionError("attempts must be at least 1")


def pair_unit(
    rows: Sequence[SubjectRow],
    crops: Sequence[Crop],
    embeddings: np.ndarray,
    settings: CurationSettings,
    target_side: int,
) -> tuple[list[SubjectRow], list[PairRow], StageCount]:
    """Pairs of every clip of a unit; a clip that cannot be paired has its subjects quarantined.

    Args:
        embeddings: float32 (S, Dd) of unit length, in the crops' order.
    """
    order = {crop.key: i for i, crop in enumerate(crops)}
    judged, pairs, count = list[SubjectRow](), list[PairRow](), StageCount()
    for _, group in itertools.groupby(rows, key=lambda row: row.cluster):
        clip = list(group)
        own = [order[row.key] for row in clip if row.unit == "subject" and row.key in order]
        try:
            made, ended = make_pairs(clip, [crops[i] for i in own], embeddings[own], settings, target_side)
        except Exception as error:  # whatever it is, it costs this clip alone and is counted
            clip = quarantined_subjects(clip, f"pairs:{type(error).__name__}")
        else:
            pairs += made
            count.merge(ended)
        judged += clip
    return judged, pairs, count


def make_pairs(
    rows: Sequence[SubjectRow],
    crops: Sequence[Crop],
    embeddings: np.ndarray,
    settings: CurationSettings,
    target_side: int,
) -> tuple[list[PairRow], StageCount]:
    """Pairs among the accepted subjects of a clip; embeddings (S, Dd) of unit length, in the crops' order."""
    frames = {
        (row.source_hash, row.frame_index): decode_image(row.frame, min_side=1)
        for row in rows
        if row.unit == "frame" and row.status == "accepted"
    }
    duration = max((row.scores.get("duration", 0.0) for row in rows if row.unit == "frame"), default=0.0)
    maker = PairMaker(frames, duration, settings.pairs, target_side, settings.seed)
    return maker.make(subjects_of(rows, crops, embeddings))


def thumbnail(image: bytes) -> bytes:
    """A small JPEG of a picture that is not used: what a person sees of it in the report."""
    rgb = decode_image(image, min_side=1)
    return encode_jpeg(resize(rgb, reduced_size(rgb.shape[0], rgb.shape[1], THUMBNAIL)), 80)


def source_row(source: Source, cluster: str = "", frames: Sequence[Frame] = ()) -> SubjectRow:
    """A source's own row; among its scores how many frames it gave, and how many were decoded for them."""
    return SubjectRow(
        key=subject_key(f"{source.sha256}:{source.uri}", -1, []),  # the uri keeps duplicates apart
        source=source.uri,
        source_hash=source.sha256,
        kind=source.kind,
        unit="source",
        status=source.status,
        reason=source.reason,
        licence=source.licence,
        consent=source.consent,
        provenance=source.provenance,
        cluster=cluster,
        scores={
            "bytes": float(source.bytes),
            "frames": float(len(frames)),
            "decoded": float(frames[0].decoded if frames else 0),
            "damaged": float(frames[0].damaged if frames else 0),
        },
    )


def quarantined(source: Source, reason: str) -> Source:
    """The source after a stage failed on its clip; one that was judged before keeps its verdict."""
    return dataclasses.replace(source, status="quarantined", reason=reason) if source.status == "accepted" else source


def quarantined_subjects(rows: Sequence[SubjectRow], reason: str) -> list[SubjectRow]:
    """The rows after a stage failed on their clip: every subject that was still accepted is quarantined."""
    hit = ("subject", "accepted")
    return [
        dataclasses.replace(r, status="quarantined", reason=reason) if (r.unit, r.status) == hit else r for r in rows
    ]


def _sights(
    shots: Sequence[Found], sources: Sequence[Source], settings: CurationSettings
) -> list[list[list[list[filters.Verdict]]]]:
    """Per shot, frame and detection, what the other sights of its track say of it; nothing of stills."""
    if sources[0].kind != "video":
        return [[[[] for _ in one] for one in found] for _, found, _ in shots]
    return judge_sights([Shot(found, tracks) for _, found, tracks in shots], settings.filters)


def _detect(
    good: list[tuple[Frame, Rgb]], sources: Sequence[Source], settings: CurationSettings, detect: Detector
) -> list[Found]:
    """Per shot: its frames, the detections of each, their track numbers."""
    options = settings.subjects
    views = [_view(frame, image, options.side) for frame, image in good]
    if sources[0].kind == "multiview":  # one subject, shown by every picture: the most salient one of each
        found = [detect([view], options)[0][:1] for view in views]
        return [(good, found, [[0] * len(d) for d in found])] if good else []
    result = []
    for _, group in itertools.groupby(range(len(views)), key=lambda i: good[i][0].shot):
        shot = list(group)
        found = detect([views[i] for i in shot], options)
        tracks = follow(found, [views[i].image for i in shot], options)
        result.append(([good[i] for i in shot], found, tracks))
    return result


def _view(frame: Frame, image: Rgb, side: int) -> View:
    return working_view(image, decode_image(frame.neighbour, min_side=1) if frame.neighbour else None, side)


def _frame_row(frame: Frame, source: Source, cluster: str, reason: str, scores: dict[str, float]) -> SubjectRow:
    return SubjectRow(
        key=subject_key(frame.source_hash, frame.index, []),
        source=source.uri,
        source_hash=source.sha256,
        kind=source.kind,
        unit="frame",
        status="rejected" if reason else "accepted",
        reason=reason,
        licence=source.licence,
        consent=source.consent,
        provenance=source.provenance,
        frame_index=frame.index,
        timestamp=frame.timestamp,
        cluster=cluster,
        frame=thumbnail(frame.image) if reason else frame.image,
        scores={
            "subjects": 0.0,
            "duration": frame.duration,
            "shot": float(frame.shot),
            "tone_mapped": float(frame.tone_mapped),
            **scores,
        },
    )


def _subject(
    frame: Frame,
    image: Rgb,
    source: Source,
    cluster: str,
    track: str,
    detection: Detection,
    sights: Sequence[filters.Verdict],
    settings: CurationSettings,
) -> tuple[SubjectRow, Crop | None]:
    height, width = image.shape[:2]
    mask: Mask = frame_mask(detection.mask, height, width)
    verdicts = [*filters.judge_subject(detection.box, image, mask, settings.filters), *sights]
    reason = filters.first_reason(verdicts)
    text, caption_source = captions.caption(source, frame.index, settings.captions, detection.phrase)
    key = subject_key(frame.source_hash, frame.index, list(detection.box))
    row = SubjectRow(
        key=key,
        source=source.uri,
        source_hash=source.sha256,
        kind=source.kind,
        unit="subject",
        status="rejected" if reason else "accepted",
        reason=reason,
        licence=source.licence,
        consent=source.consent,
        provenance=source.provenance,
        frame_index=frame.index,
        timestamp=frame.timestamp,
        track=track,
        cluster=cluster,
        box=list(detection.box),
        mask=encode_mask(mask),
        phrase=captions.phrase(source, settings.captions, detection.phrase),
        caption=text,
        caption_source=caption_source,
        scores={
            "evidence": detection.score,
            "caption_fallback": float(caption_source == "fallback"),
            **{verdict.name: verdict.value for verdict in verdicts},
        },
    )
    if reason:
        return row, None
    crop, crop_mask = cut_out(image, mask, detection.box, key, settings.pairs, settings.seed)
    return row, Crop(key, encode_png(crop), encode_mask(crop_mask))

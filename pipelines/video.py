"""Frames of a video: PyAV probes it, decord reads the wanted frames, PyAV reads what decord gets wrong.

`read_video` runs in a sandbox (see sandbox.py), never in an actor itself: decoders hang and abort on damaged input.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from jaxtyping import UInt8

from flexip.images import Rgb, encode_png
from pipelines.records import Frame, Source
from pipelines.settings import FrameSettings

Frames = UInt8[np.ndarray, "F H W 3"]


class MediaError(ValueError):
    """A video that cannot be used. `reason` is one short word for counting, the message is for people."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):  # the default would call the class with the message alone when it crosses a process
        return MediaError, (self.reason, str(self))


@dataclass(frozen=True)
class VideoInfo:
    """What the container says of its first video stream."""

    container: str
    codec: str
    width: int  # [px] as shown, after rotation
    height: int
    fps: float  # average; 0 when unknown
    duration: float  # of the video stream [s]; 0 when unknown


def probe(path: str) -> VideoInfo:
    """Read the header.

    Raises:
        MediaError: reason `not_a_video`, `truncated` (a video container without its index), `no_video_stream`.
    """
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise MediaError("no_video_stream", f"{path}: no video stream in it")
            stream = container.streams.video[0]
            alone = len(container.streams) == 1  # else the container's duration may be that of the sound
            seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            if not seconds and alone and container.duration:
                seconds = container.duration / av.time_base
            fps = float(stream.average_rate or 0)
            height, width = _shown_size(container, stream)
            return VideoInfo(container.format.name, stream.codec_context.name, width, height, fps, seconds)
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        if _looks_like_video(path):
            raise MediaError("truncated", f"{path}: a video whose index is missing or damaged ({error})") from error
        raise MediaError("not_a_video", f"{path}: not a video ({error})") from error


def _shown_size(container: Any, stream: Any) -> tuple[int, int]:
    """(height, width) after rotation, which only a decoded frame tells."""
    height, width = stream.codec_context.height, stream.codec_context.width
    try:
        turned = next(container.decode(stream)).rotation % 180 != 0
    except (av.error.FFmpegError, StopIteration):
        turned = False  # no readable first frame: the reader will say what is wrong
    return (width, height) if turned else (height, width)


def read_video(source: Source, settings: FrameSettings) -> list[Frame]:
    """Frames evenly spaced over the video, each with its neighbour a moment later, as PNG at curation resolution.

    Raises:
        MediaError: `not_a_video`, `no_video_stream`, `truncated`, `undecodable`.
    """
    info = probe(source.path)
    size = reduced_size(info.height, info.width, settings.max_side)
    if decord_is_wrong(info):
        return _read(read_pyav, source, info, size, settings)
    try:
        return _read(read_decord, source, info, size, settings)
    except MediaError:
        return _read(read_pyav, source, info, size, settings)


def decord_is_wrong(info: VideoInfo) -> bool:
    """Measured: MPEG-TS gives wrong frames without a word, AV1 is not decoded, narrow frames fail."""
    return "mpegts" in info.container or "av1" in info.codec or info.codec == "libdav1d" or info.width < 96


def choose_frames(timestamps: Sequence[float], count: int, gap: float) -> list[tuple[int, int]]:
    """(index, neighbour) of `count` frames in the middles of equal parts; the neighbour is `gap` seconds later.

    At the end of the video the neighbour is earlier instead; a video of one frame is its own neighbour.
    """
    total = len(timestamps)
    wanted = sorted({int((i + 0.5) * total / count) for i in range(count)})
    chosen = []
    for index in wanted:
        later = int(np.searchsorted(timestamps, timestamps[index] + gap))
        earlier = int(np.searchsorted(timestamps, timestamps[index] - gap, side="right")) - 1
        chosen.append((index, later if later < total else max(earlier, 0)))
    return chosen


def reduced_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """(height, width) with the longer side at most `max_side`, both even (decoders work on 2x2 blocks of colour)."""
    scale = min(1.0, max_side / max(height, width))
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


def read_decord(
    path: str, size: tuple[int, int], settings: FrameSettings
) -> tuple[list[float], list[tuple[int, int]], dict[int, Rgb]]:
    """All timestamps [s], the chosen (index, neighbour) pairs, and the pictures of all these indices."""
    import decord  # not at the top: the probe and the fallback work on machines that have no decord

    # One thread: two were slower, and parallelism comes from processes. The reader dies here, for an open one
    # decodes ahead and grows without limit.
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), width=size[1], height=size[0], num_threads=1)
        timestamps = reader.get_frame_timestamp(list(range(len(reader))))[:, 0].astype(float)
        chosen = choose_frames(timestamps.tolist(), settings.per_video, settings.motion_gap_s)
        indices = sorted({index for pair in chosen for index in pair})
        pictures = reader.get_batch(indices).asnumpy()
        del reader
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise MediaError("undecodable", f"{path}: decord: {str(error).splitlines()[0]}") from error
    return timestamps.tolist(), chosen, dict(zip(indices, pictures, strict=True))


def read_pyav(
    path: str, size: tuple[int, int], settings: FrameSettings
) -> tuple[list[float], list[tuple[int, int]], dict[int, Rgb]]:
    """As `read_decord`. Frame times come from the packets, so that only the parts around chosen frames are decoded."""
    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stamps = sorted({p.pts for p in container.demux(stream) if p.pts is not None and p.size})
            base = float(stream.time_base or 0)
        if not stamps or not base:
            raise MediaError("undecodable", f"{path}: its video stream has no frame with a time")
        timestamps = [(stamp - stamps[0]) * base for stamp in stamps]
        chosen = choose_frames(timestamps, settings.per_video, settings.motion_gap_s)
        wanted = sorted({index for pair in chosen for index in pair})
        return timestamps, chosen, _decode(path, [(index, stamps[index]) for index in wanted], size)
    except av.error.FFmpegError as error:
        raise MediaError("undecodable", f"{path}: {error}") from error


def _decode(path: str, wanted: list[tuple[int, int]], size: tuple[int, int]) -> dict[int, Rgb]:
    """Pictures of the wanted (index, time stamp), in order; seeks only over long stretches."""
    pictures: dict[int, Rgb] = {}
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = container.decode(stream)
        far = int(5 / float(stream.time_base or 1))
        last = None
        for index, stamp in wanted:
            if last is not None and stamp - last > far:
                container.seek(stamp, stream=stream)
                frames = container.decode(stream)
            frame = next((f for f in frames if f.pts is not None and f.pts >= stamp), None)
            if frame is None:
                raise MediaError("truncated", f"{path}: its header promises frame {index}, decoding ends before it")
            last = frame.pts
            pictures[index] = _upright(frame, size)
    return pictures


def _upright(frame: av.VideoFrame, size: tuple[int, int]) -> Rgb:
    """RGB of shape `size`, turned as the container says; decord turns by itself."""
    height, width = size if frame.rotation % 180 == 0 else (size[1], size[0])
    rgb = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90))


def content_box(pictures: Sequence[Rgb], dark: float = 10.0) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of what lies inside black bars that all pictures share; at most 30% a side go."""
    brightest = np.max([picture.mean(axis=2) for picture in pictures], axis=0)
    edges = []
    for profile in (brightest.mean(axis=1), brightest.mean(axis=0)):
        lit = np.flatnonzero(profile > dark)
        size = len(profile)
        first, last = (int(lit[0]), int(lit[-1]) + 1) if len(lit) else (0, size)
        small = first <= 0.3 * size and last >= 0.7 * size
        edges += [first, last] if small and last - first < 0.98 * size else [0, size]
    return edges[0], edges[1], edges[2], edges[3]


def _read(reader, source: Source, info: VideoInfo, size: tuple[int, int], settings: FrameSettings) -> list[Frame]:
    timestamps, chosen, pictures = reader(source.path, size, settings)
    if not timestamps:
        raise MediaError("undecodable", f"{source.path}: no frame in it")
    start, end = timestamps[0], timestamps[-1]
    step = (end - start) / max(1, len(timestamps) - 1)
    if end - start + step < 0.9 * info.duration - 0.5:
        kept = f"{end - start + step:.1f} of {info.duration:.1f} s"
        raise MediaError("truncated", f"{source.path}: only {kept} are there")
    top, bottom, left, right = content_box(list(pictures.values()))
    pngs = {i: encode_png(np.ascontiguousarray(p[top:bottom, left:right])) for i, p in pictures.items()}
    duration = end - start + step if math.isfinite(step) else 0.0
    return [
        Frame(source.uri, source.sha256, index, timestamps[index] - start, duration, pngs[index], pngs[neighbour])
        for index, neighbour in chosen
    ]


def _looks_like_video(path: str) -> bool:
    """Whether the file starts as a known video container does."""
    with Path(path).open("rb") as file:
        head = file.read(16)
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"FLV\x01")

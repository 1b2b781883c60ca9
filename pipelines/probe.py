"""What a video file is, before a frame of it is used: header, first frame and packets, read with PyAV.

Nothing but the first frame is decoded. `decord_fault` says from that whether decord may read the frames.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import av
import av.error
import av.stream
import numpy as np
from jaxtyping import Float64, Int64

Transfer = Literal["sdr", "pq", "hlg"]
TRANSFERS: dict[int, Transfer] = {16: "pq", 18: "hlg"}  # codes of ITU-T H.273, table 3
DECORD_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # FFmpeg's names of what decord indexes rightly


class MediaError(ValueError):
    """A video that cannot be used. `reason` is one short word for counting, the message is for people."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):  # the default would call the class with the message alone when it crosses a process
        return MediaError, (self.reason, str(self))


@dataclass(frozen=True, eq=False)
class Timeline:
    """When each frame is shown, in that order, from the packets of the stream."""

    stamps: Int64[np.ndarray, " F"]  # presentation times in units of the stream; empty: it does not tell them
    keys: Int64[np.ndarray, " K"]  # indices of the frames that need no other to be decoded
    times: Float64[np.ndarray, " F"]  # from the first frame [s]
    open_gops: bool  # frames that are shown before a keyframe but need it
    edited: bool  # packets that an edit list hides
    headless: bool  # the first packet is no keyframe

    @property
    def variable(self) -> bool:
        """Whether the distance of frames varies by more than the rounding of a coarse clock (1 ms in Matroska)."""
        if len(self.times) < 3:
            return False
        gaps = np.diff(self.times)
        return bool(gaps.max() - gaps.min() > 0.002 + 0.01 * np.median(gaps))

    @cached_property
    def index(self) -> dict[int, int]:
        """Stamp to index."""
        return {int(stamp): i for i, stamp in enumerate(self.stamps)}


@dataclass(frozen=True)
class VideoInfo:
    """What container and packets say of the video stream that is read."""

    container: str  # FFmpeg's name of the demuxer
    codec: str
    stream: int  # its index in the container
    video_streams: int  # without cover art
    width: int  # [px] as shown: after rotation, with square pixels
    height: int
    rotation: int  # [degrees], to be turned anticlockwise
    pixel_format: str
    bits: int  # of one component
    alpha: bool
    transfer: Transfer  # pq and hlg are high dynamic range
    fps: float  # average; 0 when unknown
    duration: float  # of the video stream [s]; 0 when unknown
    timeline: Timeline = field(repr=False, compare=False)

    @property
    def frames(self) -> int:
        """Frames that the packets promise."""
        return len(self.timeline.times)


def decord_fault(info: VideoInfo) -> str:
    """Why decord must not read this video, in words; empty when it reads it rightly.

    Measured with decord 0.6.0 on videos that carry the index of each frame as pixels: most of these give wrong frames
    without an error. PyAV reads them all.
    """
    timeline = info.timeline
    faults = {
        f"frames of {info.container} are counted wrongly": info.container not in DECORD_CONTAINERS,
        f"{info.codec} is not decoded": info.codec in ("av1", "libdav1d", "vvc"),
        "narrow frames fail": info.width < 96,
        f"{info.bits} bits and {info.transfer} would be cut to 8 bits": info.bits > 8 or info.transfer != "sdr",
        "transparency would be dropped": info.alpha,
        "another video stream may be taken": info.video_streams > 1,
        "frames before a keyframe are counted wrongly": timeline.open_gops,
        "hidden frames are counted too": timeline.edited,
        "frames before the first keyframe are counted wrongly": timeline.headless,
        "frames have no time": not len(timeline.stamps),
    }
    return next((words for words, holds in faults.items() if holds), "")


def probe(path: str) -> VideoInfo:
    """Read header, first frame and packets.

    Raises:
        MediaError: reason `not_a_video`, `truncated` (a video container without its index), `no_video_stream`,
            `undecodable` (no packet in it).
    """
    try:
        with av.open(path) as container:
            streams = picture_streams(container)
            if not streams:
                raise MediaError("no_video_stream", f"{path}: no video stream in it")
            timeline = _timeline(container, streams[0])
            promised = bool(streams[0].frames or streams[0].duration)
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        if _looks_like_video(path):
            raise MediaError("truncated", f"{path}: a video whose index is missing or damaged ({error})") from error
        raise MediaError("not_a_video", f"{path}: not a video ({error})") from error
    if not len(timeline.times):
        reason = "truncated" if promised else "undecodable"
        raise MediaError(reason, f"{path}: its video stream holds no frame")
    with av.open(path) as container:
        return _describe(container, timeline)


def picture_streams(container: Any) -> list[Any]:
    """Video streams, the one to read first: the default, else the largest; cover art of a sound file is none."""
    disposition = av.stream.Disposition
    streams = [s for s in container.streams.video if not s.disposition & disposition.attached_pic]
    return sorted(streams, key=lambda s: (not s.disposition & disposition.default, -s.width * s.height, s.index))


def _describe(container: Any, timeline: Timeline) -> VideoInfo:
    streams = picture_streams(container)
    stream = streams[0]
    context = stream.codec_context
    rotation = 0
    with suppress(av.error.FFmpegError, StopIteration):  # no readable first frame: the reader will say what is wrong
        rotation = next(container.decode(stream)).rotation
    aspect = float(stream.sample_aspect_ratio or 1)
    width, height = round(context.width * aspect), context.height
    pixels = context.format  # None where nothing could be decoded
    return VideoInfo(
        container=container.format.name,
        codec=context.name,
        stream=stream.index,
        video_streams=len(streams),
        width=height if rotation % 180 else width,
        height=width if rotation % 180 else height,
        rotation=rotation,
        pixel_format=pixels.name if pixels else "",
        bits=max((c.bits for c in pixels.components), default=8) if pixels else 8,
        alpha=any(c.is_alpha for c in pixels.components) if pixels else False,
        transfer=TRANSFERS.get(int(context.color_trc or 0), "sdr"),
        fps=float(stream.average_rate or 0),
        duration=_seconds(container, stream),
        timeline=timeline,
    )


def _seconds(container: Any, stream: Any) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1  # else the container's duration may be that of the sound
    return container.duration / av.time_base if alone and container.duration else 0.0


def _timeline(container: Any, stream: Any) -> Timeline:
    """Demuxes the whole stream. Packets after a damaged place are not seen; the reader compares with the duration."""
    shown: list[tuple[int | None, bool]] = []
    edited, open_gops, key = False, False, None
    with suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.is_discard:
                edited = True
                continue
            if packet.is_keyframe:
                key = packet.pts
            elif key is not None and packet.pts is not None and packet.pts < key:
                open_gops = True
            shown.append((packet.pts, packet.is_keyframe))
    headless = bool(shown) and not shown[0][1]
    stamps = [stamp for stamp, _ in shown if stamp is not None]
    if len(set(stamps)) == len(shown) and stream.time_base:
        shown.sort(key=lambda entry: entry[0] or 0)
        order = np.sort(np.array(stamps, np.int64))
        times = (order - order[:1]) * float(stream.time_base)
    else:  # times are missing or repeat: frames are counted as they come
        order = np.zeros(0, np.int64)
        times = np.arange(len(shown)) / float(stream.average_rate or 25)
    keys = np.array([i for i, (_, is_key) in enumerate(shown) if is_key], np.int64)
    return Timeline(order, keys, times, open_gops, edited, headless)


def _looks_like_video(path: str) -> bool:
    """Whether the file starts as a known video container does."""
    with Path(path).open("rb") as file:
        head = file.read(16)
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"FLV\x01")

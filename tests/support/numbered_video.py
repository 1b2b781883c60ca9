"""Videos whose frames carry their number as pixels, in every codec and container that this build of PyAV can write."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 8
DARK, BRIGHT, BACKGROUND = 64, 192, 128
TINT = np.array([1.0, 0.75, 0.5])  # grey has no hue, and what codecs make of that looks like a cut


def numbered(number: int, height: int = 96, width: int = 160) -> np.ndarray:
    """uint8 (H, W, 3): a dark and a bright block, then the number in Gray code, so that frames change evenly."""
    code = number ^ number >> 1
    levels = [DARK, BRIGHT] + [BRIGHT if code >> bit & 1 else DARK for bit in range(BITS)]
    image = np.full((height, width, 3), BACKGROUND, np.uint8)
    edges = np.linspace(0, width, len(levels) + 1).round().astype(int)
    for level, left, right in zip(levels, edges[:-1], edges[1:], strict=True):
        image[height * 3 // 10 : height * 7 // 10, left:right] = level
    return (image * TINT).astype(np.uint8)


def number_in(image: np.ndarray) -> int:
    """The number that `numbered` wrote, whatever the picture's size and brightness."""
    height, width = image.shape[:2]
    centres = [int((k + 0.5) * width / (BITS + 2)) for k in range(BITS + 2)]
    levels = image[height * 4 // 10 : height * 6 // 10, centres].mean(axis=(0, 2))
    bits = levels[2:] > (levels[0] + levels[1]) / 2
    number, code = 0, int(sum(1 << k for k in np.flatnonzero(bits)))
    while code:
        number ^= code
        code >>= 1
    return number


@dataclass(frozen=True)
class Film:
    """How a numbered video is encoded."""

    suffix: str
    codec: str
    options: dict[str, str] = field(default_factory=dict)
    container: str | None = None  # FFmpeg's name; None: by the suffix
    muxer: dict[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"
    frames: int = 40
    rate: int = 25
    size: tuple[int, int] = (96, 160)
    rotation: int = 0  # [degrees] written into the container; the pictures are turned so that they show upright
    transfer: int = 0  # code of H.273; 16 is PQ, 18 HLG
    gaps: Sequence[int] = (1,)  # between frames [1/rate s], repeated: variable when they differ
    skip: int = 0  # packets that are left out at the start
    hide: int = 0  # frames that an edit list hides
    second: tuple[int, int] | None = None  # size of another video stream, of plain grey

    def write(self, path: Path) -> Path:
        """The encoded file. Raises what PyAV raises where it has no such encoder."""
        with av.open(str(path), "w", format=self.container, options=self.muxer) as out:
            stream = self._stream(out, self.size)
            other = self._stream(out, self.second) if self.second else None
            out.start_encoding()
            stamp = -self.hide
            written = 0
            for number in [*range(self.frames), None]:
                frame = None if number is None else self._frame(number, stamp)
                for packet in stream.encode(frame):
                    written += 1
                    if written > self.skip:
                        out.mux(packet)
                if other is not None and self.second:
                    grey = None if number is None else self._plain(self.second, stamp)
                    out.mux(other.encode(grey))
                stamp += self.gaps[(number or 0) % len(self.gaps)]
        return path

    def _stream(self, out: Any, size: tuple[int, int]) -> Any:
        stream: Any = out.add_stream(self.codec, rate=self.rate, options=self.options)
        stream.height, stream.width = size
        stream.pix_fmt = self.pixels
        stream.time_base = stream.codec_context.time_base = Fraction(1, self.rate)
        if self.rotation:
            stream.set_display_rotation(self.rotation)
        if self.transfer:
            stream.codec_context.color_trc, stream.codec_context.color_primaries = self.transfer, 9
            stream.codec_context.colorspace, stream.codec_context.color_range = 9, 1
        return stream

    def _frame(self, number: int, stamp: int) -> av.VideoFrame:
        height, width = self.size
        turned = self.rotation % 180 != 0
        upright = numbered(number, width, height) if turned else numbered(number, height, width)
        coded = np.ascontiguousarray(np.rot90(upright, -self.rotation // 90))
        return self._timed(av.VideoFrame.from_ndarray(coded, format="rgb24"), stamp)

    def _plain(self, size: tuple[int, int], stamp: int) -> av.VideoFrame:
        return self._timed(av.VideoFrame.from_ndarray(np.full((*size, 3), 90, np.uint8), format="rgb24"), stamp)

    def _timed(self, frame: av.VideoFrame, stamp: int) -> av.VideoFrame:
        if frame.format.name != self.pixels:
            frame = frame.reformat(format=self.pixels)
        frame.pts, frame.time_base = stamp, Fraction(1, self.rate)
        return frame


GOP = {"g": "12", "bf": "2"}
X265 = {"x265-params": "log-level=none:keyint=12:bframes=2:pools=1"}
X264 = Film(".mp4", "libx264", GOP)

FILMS: dict[str, Film] = {
    "h264 mp4": X264,
    "h264 faststart": replace(X264, muxer={"movflags": "faststart"}),
    "h264 fragmented": replace(X264, muxer={"movflags": "frag_keyframe+empty_moov"}),
    "h264 mkv": replace(X264, suffix=".mkv"),
    "h264 mov": replace(X264, suffix=".mov"),
    "mpegts": replace(X264, suffix=".ts"),
    "mpeg2 program stream": Film(".mpg", "mpeg2video", GOP),
    "asf": Film(".wmv", "wmv2", {"g": "12"}, "asf"),
    "flv": replace(X264, suffix=".flv"),
    "avi with b-frames": Film(".avi", "mpeg4", GOP),
    "avi mjpeg": Film(".avi", "mjpeg", pixels="yuvj420p"),
    "mpeg4 mp4": Film(".mp4", "mpeg4", {"g": "12"}),
    "open gops": replace(X264, options={"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"}),
    "edit list": replace(X264, hide=10),
    "missing keyframe": replace(X264, suffix=".mkv", options={"g": "12", "bf": "0"}, skip=5),
    "av1": Film(".mp4", "libsvtav1", {"preset": "8", "g": "12", "crf": "15", "svtav1-params": "lp=1:enable-tf=0"}),
    "hevc": Film(".mp4", "libx265", X265),
    "vp9 webm": Film(".webm", "libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "vp8 webm": Film(".webm", "libvpx", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "variable rate": replace(X264, suffix=".mkv", gaps=(1, 1, 5, 2)),
    "pq": Film(".mp4", "libx265", X265, pixels="yuv420p10le", transfer=16),
    "hlg": Film(".mkv", "libx265", X265, pixels="yuv420p10le", transfer=18),
    "10 bit": Film(".mkv", "libx264", GOP, pixels="yuv420p10le"),
    "rotated": replace(X264, size=(160, 96), rotation=90),
    "upside down": replace(X264, rotation=180),
    "odd size": replace(X264, pixels="yuv444p", size=(97, 163)),
    "narrow": replace(X264, size=(64, 48)),
    "alpha": Film(".mov", "qtrle", pixels="argb"),
    "two video streams": replace(X264, suffix=".mkv", second=(48, 64)),
    "one frame": replace(X264, frames=1),
}


def missing_encoder(film: Film) -> str:
    """Why the film cannot be written here; empty when it can."""
    return "" if film.codec in av.codecs_available else f"this build of PyAV has no encoder {film.codec}"

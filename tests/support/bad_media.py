"""Inputs as they come from the wild: every kind of spoilt, odd or hostile file, with what must become of it.

All are made here; none is a copy of somebody's file.
"""

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.stream
import numpy as np
from numbered_video import FILMS, X264, Film, missing_encoder
from PIL import Image

from flexip.rows import Status


@dataclass(frozen=True)
class Case:
    """One input and how it must end."""

    name: str  # of the file
    make: Callable[[Path], object]  # writes it
    status: Status = "accepted"
    reason: str = ""
    lacking: str = ""  # why it cannot be made here


def cases() -> list[Case]:
    """Every kind of input; those that cannot be made here say why."""
    return [*_films(), *_damaged(), *_odd_videos(), *_stills()]


def _films() -> list[Case]:
    return [
        Case(f"film {name}{film.suffix}", film.write, lacking=missing_encoder(film)) for name, film in FILMS.items()
    ]


def _damaged() -> list[Case]:
    film, quick = X264.write, FILMS["h264 faststart"].write
    mkv, ts = FILMS["h264 mkv"].write, FILMS["mpegts"].write
    return [
        Case("zero bytes.mp4", lambda path: path.write_bytes(b""), "rejected", "empty_file"),
        Case("page.mp4", lambda path: path.write_text("<html>404</html>\n" * 50), "quarantined", "not_a_video"),
        Case("noise.mp4", lambda path: path.write_bytes(_noise(4096)), "quarantined", "not_a_video"),
        Case("head cut off.mp4", _changed(film, lambda data: data[100:]), "quarantined", "not_a_video"),
        Case("head cut off.ts", _changed(ts, lambda data: data[1000:])),
        Case("no index.mp4", _changed(film, lambda data: data[: data.rindex(b"moov") - 4]), "quarantined", "truncated"),
        Case("tail cut off.mp4", _changed(quick, lambda d: d[: len(d) * 6 // 10]), "quarantined", "truncated"),
        Case("tail cut off.mkv", _changed(mkv, lambda d: d[: len(d) * 6 // 10]), "quarantined", "truncated"),
        Case(
            "index without frames.mp4", _changed(quick, lambda d: d[: d.index(b"mdat") + 4]), "quarantined", "truncated"
        ),
        Case("many flipped bytes.mp4", _changed(quick, lambda d: _flipped(d, 400)), "quarantined", "damaged"),
        Case("a flipped byte.mp4", _changed(quick, lambda d: _flipped(d, 1))),
        Case("lost packets.ts", _changed(ts, lambda data: _lossy(data, 75))),
        Case("many lost packets.ts", _changed(ts, lambda data: _lossy(data, 7)), "quarantined", "damaged"),
        Case("sound only.mp4", sound, "rejected", "no_video_stream"),
        Case("cover art.mp4", _cover_art, "rejected", "no_video_stream"),
        Case("dangling.mp4", lambda path: path.symlink_to("nowhere.mp4"), "quarantined", "unreadable"),
        Case("zz copy.mp4", _copy_of("film h264 mp4.mp4"), "rejected", "duplicate"),
    ]


def _copy_of(name: str) -> Callable[[Path], object]:
    return lambda path: shutil.copyfile(path.with_name(name), path)


def _odd_videos() -> list[Case]:
    return [
        Case("na\u00efve \u7406\u60f3 \U0001f98a.mp4", replace(X264, frames=41).write),
        Case("an hour of black.mp4", _hour_of_black),
        Case("eats memory.mov", _wide_frames, "quarantined", "memory"),
        Case("takes for ever.mp4", _slow, "quarantined", "timeout"),
        Case("other size in the middle.ts", _two_sizes),
        Case("repeated times.mpg", _repeated_times),
    ]


def _stills() -> list[Case]:
    photograph = Image.fromarray(np.random.default_rng(3).integers(0, 255, (80, 120, 3), np.uint8))

    def saved(kind: str, picture: Image.Image = photograph, **options: Any) -> Callable[[Path], object]:
        return lambda path: picture.save(path, kind, **options)

    other = photograph.rotate(180)
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray((np.arange(6400, dtype=np.uint16) * 10).reshape(80, 80))
    return [
        Case("mpo.mpo", saved("MPO", save_all=True, append_images=[other])),
        Case("cmyk.jpg", saved("JPEG", photograph.convert("CMYK"))),
        Case("animated.webp", saved("WEBP", save_all=True, append_images=[other])),
        Case("animated.gif", saved("GIF", save_all=True, append_images=[other])),
        Case("palette with transparency.png", saved("PNG", photograph.quantize(16), transparency=0)),
        Case("16 bits.png", saved("PNG", deep)),
        Case("turned by exif.jpg", saved("JPEG", exif=turned)),
        Case("60 megapixels.png", saved("PNG", Image.new("RGB", (10_000, 6_000), (200, 90, 40)), compress_level=1)),
        Case("bomb.png", lambda path: path.write_bytes(bomb(60_000)), "rejected", "too_many_pixels"),
        Case("dot.png", saved("PNG", Image.new("RGB", (1, 1))), "rejected", "too_small"),
        Case("half.png", _changed(saved("PNG"), lambda d: d[: len(d) // 2]), "quarantined", "truncated"),
        Case("page.jpg", lambda path: path.write_text("<html>404</html>"), "quarantined", "not_an_image"),
        Case("empty.png", lambda path: path.write_bytes(b""), "rejected", "empty_file"),
    ]


def sound(path: Path) -> None:
    """An mp4 with nothing but silence."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def bomb(side: int) -> bytes:
    """A few hundred bytes of PNG that claim side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(4096))) + chunk(b"IEND", b"")
    )


def _changed(make: Callable[[Path], object], change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def spoilt(path: Path) -> None:
        make(path)
        path.write_bytes(change(path.read_bytes()))

    return spoilt


def _noise(size: int) -> bytes:
    return np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()


def _flipped(data: bytes, count: int) -> bytes:
    """Some bytes of the pictures inverted; the index, which stands before them, stays."""
    changed, first = bytearray(data), data.index(b"mdat") + 64
    for position in np.random.default_rng(2).integers(first, len(data), count):
        changed[position] ^= 0xFF
    return bytes(changed)


def _lossy(data: bytes, every: int) -> bytes:
    """A transport stream without one in so many of its packets of 188 bytes, from the eleventh on."""
    packets = [data[i : i + 188] for i in range(0, len(data), 188)]
    return b"".join(packet for i, packet in enumerate(packets) if i < 10 or i % every != every - 1)


def _cover_art(path: Path) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 30, 30)).save(jpeg, "JPEG")
    with av.open(str(path), "w") as out:
        tone = out.add_stream("aac", rate=16000, layout="mono")
        cover: Any = out.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 64
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.start_encoding()
        packet = av.Packet(jpeg.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1, 1)
        out.mux(packet)
        out.mux(tone.encode(frame))
        out.mux(tone.encode(None))


def _hour_of_black(path: Path) -> None:
    _repeat(path, (64, 96), rate=1, gop=60, times=60)


def _slow(path: Path) -> None:
    """Small as a file, minutes of work for a decoder."""
    _repeat(path, (4320, 8192), rate=30, gop=15, times=120)


def _repeat(path: Path, size: tuple[int, int], rate: int, gop: int, times: int) -> None:
    """One group of pictures, black, that is repeated as it is."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "bf": "0", "g": str(gop)})
        (stream.height, stream.width), stream.pix_fmt = size, "yuv420p"
        black = av.VideoFrame.from_ndarray(np.zeros((*size, 3), np.uint8), format="rgb24").reformat(format="yuv420p")
        packets = []
        for number in range(gop):
            black.pts, black.time_base = number, Fraction(1, rate)
            packets += stream.encode(black)
        packets += stream.encode(None)
        bodies = [(bytes(packet), packet.is_keyframe) for packet in packets]
        for number in range(gop * times):
            body, key = bodies[number % gop]
            packet = av.Packet(body)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, rate), key
            packet.pts = packet.dts = number
            packet.duration = 1
            out.mux(packet)


def _wide_frames(path: Path) -> None:
    """A black PNG film of 12,000 x 12,000 pixels: 2 MB here, 400 MB and more for each frame in a decoder."""
    png = io.BytesIO()
    Image.new("RGB", (12_000, 12_000)).save(png, "PNG", compress_level=1)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("png", rate=5)
        stream.height = stream.width = 12_000
        stream.pix_fmt = "rgb24"
        out.start_encoding()
        for number in range(8):
            packet = av.Packet(png.getvalue())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 5), True
            out.mux(packet)


def _two_sizes(path: Path) -> None:
    """Two transport streams one after the other, as a broadcaster's programme change."""
    film = FILMS["mpegts"]
    first = film.write(path).read_bytes()
    second = replace(film, size=(64, 112)).write(path).read_bytes()
    path.write_bytes(first + second)


def _repeated_times(path: Path) -> None:
    """The same programme stream twice in one file: every time stamp comes twice."""
    once = Film(".mpg", "mpeg2video", {"g": "12"}).write(path).read_bytes()
    path.write_bytes(once + once)

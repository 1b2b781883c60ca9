"""Frames carry their index as pixels, so that the right frame is checked and not only its count."""

import os
import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from flexip.images import decode_image
from pipelines.records import Source
from pipelines.sandbox import Sandbox, SandboxError
from pipelines.settings import FrameSettings
from pipelines.video import MediaError, choose_frames, content_box, probe, read_video

FRAMES, FPS = 50, 25


def numbered(index: int, height: int = 128, width: int = 192) -> np.ndarray:
    """The index as six black or white blocks, least significant left."""
    image = np.full((height, width, 3), 128, np.uint8)
    for bit in range(6):
        image[20 : height - 20, bit * width // 6 : (bit + 1) * width // 6] = 255 if index >> bit & 1 else 0
    return image


def number_in(image: np.ndarray) -> int:
    height, width = image.shape[:2]
    row = image[height // 2, :, 0]
    return sum((int(row[(2 * bit + 1) * width // 12]) > 127) << bit for bit in range(6))


def encode(path: Path, codec: str, frames: int = FRAMES, container: str | None = None, size=(128, 192)) -> Path:
    with av.open(str(path), "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"g": "12"} if codec != "libsvtav1" else {"preset": "12"}
        for index in range(frames):
            for packet in stream.encode(av.VideoFrame.from_ndarray(numbered(index, *size), format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def read(path: Path, **options):
    return read_video(Source(str(path), path.name, "video", "00"), FrameSettings(**options))


def codecs() -> list:
    return [
        pytest.param(suffix, codec, marks=[] if codec in av.codecs_available else pytest.mark.skip(f"no {codec} here"))
        for suffix, codec in ((".mp4", "libx264"), (".mkv", "libx264"), (".ts", "libx264"), (".mp4", "libsvtav1"))
    ]


@pytest.mark.parametrize(("suffix", "codec"), codecs())
def test_frames_are_the_right_ones_in_every_container(tmp_path, suffix, codec):
    frames = read(encode(tmp_path / f"v{suffix}", codec), per_video=7)
    assert [frame.index for frame in frames] == [3, 10, 17, 25, 32, 39, 46]
    assert [number_in(decode_image(frame.image)) for frame in frames] == [frame.index for frame in frames]
    assert [frame.timestamp for frame in frames] == pytest.approx([f.index / FPS for f in frames], abs=0.021)
    neighbours = [number_in(decode_image(frame.neighbour)) - frame.index for frame in frames]
    assert neighbours[:-1] == [4] * 6, "0.15 s later at 25 frames a second, rounded up"
    assert neighbours[-1] == -4, "at the end the neighbour is earlier"


def test_narrow_video_is_read_although_decord_fails_on_it(tmp_path):
    frames = read(encode(tmp_path / "v.mp4", "libx264", size=(72, 48)), per_video=3)
    assert [number_in(decode_image(frame.image)) for frame in frames] == [frame.index for frame in frames]


def test_frames_are_reduced_when_decoded(tmp_path):
    frames = read(encode(tmp_path / "v.mp4", "libx264"), per_video=1, max_side=96)
    assert decode_image(frames[0].image).shape == (64, 96, 3)


def test_truncated_video_is_told_from_a_text_file_and_from_sound(tmp_path):
    whole = encode(tmp_path / "v.mp4", "libx264").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    for name, reason in (("cut.mp4", "truncated"), ("text.mp4", "not_a_video"), ("sound.mp4", "no_video_stream")):
        with pytest.raises(MediaError) as caught:
            read(tmp_path / name)
        assert caught.value.reason == reason, name


def test_header_that_promises_more_than_there_is_means_truncated(tmp_path):
    path = encode(tmp_path / "v.mkv", "libx264")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    assert probe(str(path)).duration == pytest.approx(2.0, abs=0.1)
    with pytest.raises(MediaError) as caught:
        read(path)
    assert caught.value.reason == "truncated"


def test_chosen_frames_are_sorted_inside_and_unique():
    stamps = [i / 10 for i in range(30)]
    chosen = choose_frames(stamps, 8, 0.15)
    assert [i for i, _ in chosen] == sorted({i for i, _ in chosen})
    assert all(0 <= n < 30 and n != i for i, n in chosen)
    assert choose_frames([0.0], 8, 0.15) == [(0, 0)]
    assert len(choose_frames(stamps[:3], 8, 0.15)) == 3


def test_black_bars_are_cut_and_a_black_picture_is_left_alone():
    bars = np.zeros((100, 160, 3), np.uint8)
    bars[12:88] = 90
    assert content_box([bars, np.zeros_like(bars)]) == (12, 88, 0, 160)
    assert content_box([np.zeros_like(bars)]) == (0, 100, 0, 160)


def test_sandbox_survives_a_hang_a_death_and_an_error(tmp_path):
    hang, die, fine = Sandbox("time:sleep", 0.8), Sandbox("os:_exit", 20), Sandbox("os.path:basename", 20)
    start = time.monotonic()
    with pytest.raises(SandboxError) as caught:
        hang(60)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - start < 10
    with pytest.raises(SandboxError, match="code 134") as caught:
        die(134)
    assert caught.value.reason == "died"
    assert fine("/a/b") == "b"
    with pytest.raises(TypeError):
        fine(3.5)
    assert fine("/a/c") == "c", "an error of the function does not end the child"
    child = fine._child
    assert child is not None
    fine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_real_videos_are_read_upright(test_data):
    shapes = {}
    for name in ("video_0", "video_90", "video_180", "video_270"):
        shapes[name] = decode_image(read(test_data / "video" / f"{name}.mov", per_video=1)[0].image).shape[:2]
    assert shapes == {"video_0": (288, 512), "video_90": (512, 288), "video_180": (288, 512), "video_270": (512, 288)}
    assert cv2.__version__ < "5"

"""Frames of a video, sampled inside its shots. `read_video` runs in a sandbox, for decoders hang and abort.

A video of ordinary length is decoded once from end to end with PyAV: every frame goes to the search for cuts as a
thumbnail, and those that may be wanted are kept. A long one is searched at keyframes only, and the wanted frames,
which are keyframes and their neighbours, are read by decord or, where decord is wrong, by PyAV.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import av
import av.error
import numpy as np

from flexip.images import Rgb, encode_png
from pipelines.hdr import tone_mapped
from pipelines.probe import MediaError, VideoInfo, decord_fault, probe
from pipelines.records import Frame, Source
from pipelines.settings import FrameSettings
from pipelines.shots import THUMBNAIL_SIDE, CutFinder, choose, keyframe_cuts, shot_of

Size = tuple[int, int]  # height, width [px] as shown
SPARE = 3  # candidates for each wanted frame, for some lie at cuts or are damaged; odd: the middle one is among them


@dataclass(frozen=True)
class Footage:
    """What was read of a video."""

    pictures: dict[int, Rgb]  # by index
    chosen: list[tuple[int, int]]  # (index, neighbour), both in `pictures`
    cuts: list[int]  # indices of the frames that begin a new shot
    end: float  # time of the last frame that is there [s]
    decoded: int  # frames that went through a decoder
    damaged: int = 0  # of them, those that damage has reached


def read_video(source: Source, settings: FrameSettings) -> list[Frame]:
    """Frames spread evenly over the shots, each with its neighbour a moment later, as PNG at curation resolution.

    Raises:
        MediaError: `not_a_video`, `no_video_stream`, `truncated`, `undecodable`, `damaged`.
    """
    info = probe(source.path)
    size = reduced_size(info.height, info.width, settings.max_side)
    try:
        read = read_whole if info.frames <= settings.search_frames else read_keyframes
        footage = read(source.path, info, size, settings)
    except av.error.FFmpegError as error:
        raise MediaError("undecodable", f"{source.path}: {error}") from error
    _check_complete(source.path, info, footage, settings)
    return _frames(source, info, footage)


def read_whole(path: str, info: VideoInfo, size: Size, settings: FrameSettings) -> Footage:
    """Every frame decoded once, in order: cuts to the frame, pictures of the candidates kept on the way."""
    candidates = candidate_frames(info, np.arange(info.frames), settings)
    wanted = {index for pair in candidates for index in pair}
    finder, pictures, last, decoded, damaged = CutFinder(settings), dict[int, Rgb](), 0, 0, 0
    small, large = Reducer(info, reduced_size(info.height, info.width, THUMBNAIL_SIDE), "AREA"), Reducer(info, size)
    for index, frame, sound in decode(path, info):
        decoded += 1
        if not sound:
            damaged += 1
            continue
        last = index
        finder.add(index, small.thumbnail(frame))
        if index in wanted:
            pictures[index] = large.picture(frame)
    there = [(i, n) for i, n in candidates if i in pictures and n in pictures]
    cuts = finder.cuts()
    return Footage(
        pictures, choose(there, cuts, settings.per_video), cuts, float(info.timeline.times[last]), decoded, damaged
    )


def read_keyframes(path: str, info: VideoInfo, size: Size, settings: FrameSettings) -> Footage:
    """Cuts from keyframe to keyframe; then keyframes inside the shots, for these cost the least to decode."""
    keys = _thinned(info.timeline.keys, settings.search_frames)
    reducer = Reducer(info, reduced_size(info.height, info.width, THUMBNAIL_SIDE), "AREA")
    seen = [(index, reducer.thumbnail(frame)) for index, frame, sound in decode(path, info, keys) if sound]
    if not seen:
        raise MediaError("undecodable", f"{path}: none of its {len(keys)} keyframes can be decoded")
    indices = [index for index, _ in seen]
    cuts = keyframe_cuts(indices, [thumbnail for _, thumbnail in seen], settings.keyframe_change)
    chosen = choose(candidate_frames(info, np.array(indices), settings), cuts, settings.per_video)
    wanted = sorted({index for pair in chosen for index in pair})
    pictures = read_at(path, info, wanted, size)
    chosen = [(i, n) for i, n in chosen if i in pictures and n in pictures]
    decoded = len(keys) + sum(int(i - info.timeline.keys[info.timeline.keys <= i].max(initial=0)) + 1 for i in wanted)
    return Footage(pictures, chosen, cuts, float(info.timeline.times[-1]), decoded)


def read_at(path: str, info: VideoInfo, indices: Sequence[int], size: Size) -> dict[int, Rgb]:
    """Pictures of some frames, by decord where it is right and PyAV else; without those that cannot be decoded."""
    if not decord_fault(info):
        with suppress(MediaError):
            return read_decord(path, info, indices, size)
    return read_pyav(path, info, indices, size)


def read_decord(path: str, info: VideoInfo, indices: Sequence[int], size: Size) -> dict[int, Rgb]:
    """Pictures of sorted indices.

    Raises:
        MediaError: `undecodable`, also when decord's frame times are not those of the packets.
    """
    import decord  # not at the top: the probe and PyAV work on machines that have no decord

    # One thread: two were slower, and parallelism comes from processes. The reader dies here, for an open one
    # decodes ahead and grows without limit.
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), width=size[1], height=size[0], num_threads=1)
        times = reader.get_frame_timestamp(list(range(len(reader))))[:, 0]
        if len(times) != info.frames or np.abs(times - times[0] - info.timeline.times).max() > 0.002:
            raise MediaError("undecodable", f"{path}: decord's frame times differ from those of the packets")
        pictures = reader.get_batch(list(indices)).asnumpy()
        del reader
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise MediaError("undecodable", f"{path}: decord: {str(error).splitlines()[0]}") from error
    return dict(zip(indices, pictures, strict=True))


def read_pyav(path: str, info: VideoInfo, indices: Sequence[int], size: Size) -> dict[int, Rgb]:
    """As `read_decord`: decodes from the keyframe before each wanted frame, or onwards from the last one."""
    reducer, pictures, keys = Reducer(info, size), dict[int, Rgb](), info.timeline.keys
    with av.open(path) as container:
        stream = _open(container, info)
        frames, key, exact = _indexed(container, stream, info), 0, bool(len(info.timeline.stamps))
        for index in indices:
            start = int(keys[keys <= index].max(initial=0))
            if exact and start > key:
                container.seek(int(info.timeline.stamps[start]), stream=stream)
                frames, key = _indexed(container, stream, info), start
            found = next((entry for entry in frames if entry[0] >= index), None)
            if exact and start > 0 and found is not None and found[0] > index:  # it came out too late, as in MPEG-TS
                container.seek(0, any_frame=False)
                frames, exact = _indexed(container, stream, info), False
                found = next((entry for entry in frames if entry[0] >= index), None)
            if found is not None and found[0] == index and found[2]:
                pictures[index] = reducer.picture(found[1])
    return pictures


def decode(
    path: str, info: VideoInfo, only: Sequence[int] | np.ndarray | None = None
) -> Iterator[tuple[int, av.VideoFrame, bool]]:
    """(index, frame, whether it is sound) in the order of display; `only` some keyframes' packets are decoded.

    For a packet that cannot be decoded there is an unsound frame of index -1, which must not be looked at.
    """
    with av.open(path) as container:
        stream = _open(container, info)
        if only is None:
            yield from _indexed(container, stream, info)
            return
        if len(info.timeline.stamps):
            stamps = {int(info.timeline.stamps[index]) for index in only}
            yield from _indexed(container, stream, info, lambda packet: packet.pts in stamps)
        else:  # no times to tell the packets by: all are decoded, which few containers need
            keys = set(only)
            yield from (entry for entry in _indexed(container, stream, info) if entry[0] in keys)


def _indexed(container: Any, stream: Any, info: VideoInfo, wanted: Any = None) -> Iterator[Any]:
    """Decoded frames with their indices. After damage, frames count as unsound up to the next keyframe."""
    index_of, counted, sound = info.timeline.index, -1, True
    keyed = bool(len(info.timeline.keys))
    for frame in _frames_of(container, stream, keyed, wanted):
        if frame is None:
            sound = False
            yield -1, None, False
            continue
        counted += 1
        index = index_of.get(-1 if frame.pts is None else frame.pts, -1) if index_of else counted
        sound = not frame.is_corrupt and (sound or bool(frame.key_frame))
        if 0 <= index < info.frames:
            yield index, frame, sound


def _frames_of(container: Any, stream: Any, keyed: bool, wanted: Any) -> Iterator[av.VideoFrame | None]:
    """Frames of the wanted packets from the first keyframe on; None where a packet could not be decoded."""
    packets, started = container.demux(stream), not keyed
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the file is damaged here: what the decoder still holds comes out
            packet = None
        if packet is not None and packet.size:
            started = started or packet.is_keyframe
            if not started or (wanted is not None and not wanted(packet)):
                continue
            if packet.is_corrupt:  # a transport stream that lost some of it
                yield None
                continue
        try:
            yield from stream.decode(packet)
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            yield None
        if packet is None or not packet.size:
            return


def _open(container: Any, info: VideoInfo) -> Any:
    stream = container.streams[info.stream]
    stream.codec_context.thread_count = 1  # parallelism comes from processes
    stream.codec_context.options = {"err_detect": "explode"}  # else damage is painted over without a word
    return stream


class Reducer:
    """Decoded frames to pictures of one size, upright. FFmpeg's scaler is set up once for all frames."""

    def __init__(self, info: VideoInfo, size: Size, interpolation: str = "BILINEAR"):
        from av.video.reformatter import VideoReformatter

        self._scaler = VideoReformatter()
        self._info = info
        self._interpolation = interpolation
        self._size = size if info.rotation % 180 == 0 else (size[1], size[0])

    def picture(self, frame: av.VideoFrame) -> Rgb:
        """RGB (H, W, 3): turned as the container says, tone-mapped from HDR, transparency laid on white."""
        if self._info.transfer != "sdr":
            rgb = tone_mapped(self._reduced(frame, "rgb48le"), self._info.transfer)
        elif self._info.alpha:
            rgba = self._reduced(frame, "rgba").astype(np.uint16)
            opacity = rgba[..., 3:]
            rgb = ((rgba[..., :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
        else:
            rgb = self._reduced(frame, "rgb24")
        return np.ascontiguousarray(np.rot90(rgb, self._info.rotation // 90))

    def thumbnail(self, frame: av.VideoFrame) -> np.ndarray:
        """BGR (H, W, 3) as coded, for the search for cuts."""
        return self._reduced(frame, "bgr24")

    def _reduced(self, frame: av.VideoFrame, pixels: str) -> np.ndarray:
        height, width = self._size
        return self._scaler.reformat(
            frame, width=width, height=height, format=pixels, interpolation=self._interpolation
        ).to_ndarray()


def candidate_frames(info: VideoInfo, indices: np.ndarray, settings: FrameSettings) -> list[tuple[int, int]]:
    """(index, neighbour) of frames among `indices`, more than wanted, in the middles of equal parts of them.

    The neighbour is `motion_gap_s` later, at the end of the video earlier; in a video of one frame the frame itself.
    """
    times = info.timeline.times
    chosen = []
    for index in _thinned(indices, SPARE * settings.per_video):
        later = int(np.searchsorted(times, times[index] + settings.motion_gap_s))
        earlier = int(np.searchsorted(times, times[index] - settings.motion_gap_s, side="right")) - 1
        chosen.append((int(index), later if later < len(times) else max(earlier, 0)))
    return chosen


def reduced_size(height: int, width: int, max_side: int) -> Size:
    """(height, width) with the longer side at most `max_side`, both even (decoders work on 2x2 blocks of colour)."""
    scale = min(1.0, max_side / max(height, width))
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


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


def _thinned(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the values, from the middles of equal parts."""
    return values[np.unique(((np.arange(count) + 0.5) * len(values) / count).astype(int))]


def _check_complete(path: str, info: VideoInfo, footage: Footage, settings: FrameSettings) -> None:
    """Raises MediaError for a video of which too much is missing or damaged."""
    times = info.timeline.times
    step = float(times[-1]) / max(1, len(times) - 1)
    promised = max(info.duration, float(times[-1]) + step)
    for end in (float(times[-1]), footage.end):
        if end + step < 0.9 * promised - 0.5:
            raise MediaError("truncated", f"{path}: only {end + step:.1f} of {promised:.1f} s are there")
        if footage.damaged > settings.damaged_max * footage.decoded:
            raise MediaError("damaged", f"{path}: {footage.damaged} of {footage.decoded} frames are damaged")
    if not footage.chosen:
        raise MediaError("undecodable", f"{path}: none of the frames that were looked at can be decoded")


def _frames(source: Source, info: VideoInfo, footage: Footage) -> list[Frame]:
    times = info.timeline.times
    used = {index for pair in footage.chosen for index in pair}
    pictures = {index: footage.pictures[index] for index in used}
    top, bottom, left, right = content_box(list(pictures.values()))
    pngs = {i: encode_png(np.ascontiguousarray(p[top:bottom, left:right]), level=1) for i, p in pictures.items()}
    duration = footage.end + float(times[-1]) / max(1, len(times) - 1)
    whole = Frame(
        source.uri,
        source.sha256,
        index=0,
        timestamp=0.0,
        duration=duration,
        image=b"",
        tone_mapped=info.transfer != "sdr",
        decoded=footage.decoded,
        damaged=footage.damaged,
    )
    return [
        replace(
            whole,
            index=index,
            timestamp=float(times[index]),
            image=pngs[index],
            neighbour=pngs[neighbour],
            shot=shot_of(index, footage.cuts),
        )
        for index, neighbour in footage.chosen
    ]

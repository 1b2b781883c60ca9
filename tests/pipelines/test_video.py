"""Frames carry their number as pixels, so that the right frame is checked and not only its count."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numbered_video import FILMS, X264, missing_encoder, number_in

from flexip.images import decode_image
from pipelines.probe import MediaError, decord_fault, probe
from pipelines.records import Frame, Source
from pipelines.settings import FrameSettings
from pipelines.video import candidate_frames, content_box, read_decord, read_pyav, read_video, reduced_size


def read(path: Path, **options) -> list[Frame]:
    return read_video(Source(str(path), path.name, "video", "00"), FrameSettings(**options))


@pytest.fixture(params=[pytest.param(name, id=name) for name in FILMS])
def film(request, tmp_path):
    """(how it was encoded, the file) of every film that can be written here."""
    recipe = FILMS[request.param]
    if missing := missing_encoder(recipe):
        pytest.skip(missing)
    return recipe, recipe.write(tmp_path / f"film{recipe.suffix}")


@pytest.mark.parametrize("search_frames", [1800, 10], ids=["whole", "keyframes"])
def test_frames_are_the_right_ones_in_every_container(film, search_frames):
    recipe, path = film
    frames = read(path, search_frames=search_frames, per_video=6)
    first = recipe.skip + recipe.hide
    assert [number_in(decode_image(f.image)) for f in frames] == [f.index + first for f in frames]
    assert len(frames) >= min(recipe.frames, 3)
    assert {frame.shot for frame in frames} == {0}
    elapsed = np.concatenate([[0], np.cumsum(np.resize(recipe.gaps, recipe.frames))]) / recipe.rate
    shown = [elapsed[frame.index + first] - elapsed[first] for frame in frames]
    assert [frame.timestamp for frame in frames] == pytest.approx(shown, abs=0.002)
    for frame in frames if recipe.frames > 1 else []:
        other = number_in(decode_image(frame.neighbour))
        assert 0.1 <= abs(elapsed[other] - elapsed[frame.index + first]) <= 0.4, "about 0.15 s away"


def test_probe_tells_what_matters_about_each_film(film):
    recipe, path = film
    info = probe(str(path))
    turned = recipe.rotation % 180 != 0
    assert (info.height, info.width) == (recipe.size[::-1] if turned else recipe.size)
    assert info.frames == recipe.frames - recipe.skip - recipe.hide
    assert info.rotation % 360 == recipe.rotation
    assert info.transfer == {0: "sdr", 16: "pq", 18: "hlg"}[recipe.transfer]
    assert info.bits == (10 if "10" in recipe.pixels else 8)
    assert info.alpha == (recipe.pixels == "argb")
    assert info.video_streams == (2 if recipe.second else 1)
    assert info.timeline.variable == (len(recipe.gaps) > 1)
    assert info.timeline.edited == bool(recipe.hide)


def test_decord_is_right_wherever_it_is_trusted(film):
    _, path = film
    info = probe(str(path))
    size = reduced_size(info.height, info.width, 512)
    wanted = sorted({0, *range(3, info.frames, 7)})
    if decord_fault(info):
        pytest.skip(f"decord is not asked: {decord_fault(info)}")
    pictures = read_decord(str(path), info, wanted, size)
    assert [number_in(pictures[i]) for i in wanted] == wanted
    assert {picture.shape for picture in pictures.values()} == {(*size, 3)}


@pytest.mark.parametrize("name", ["mpegts", "asf", "open gops", "edit list", "missing keyframe", "narrow", "av1", "pq"])
def test_what_decord_gets_wrong_is_not_given_to_it(name, tmp_path):
    recipe = FILMS[name]
    if missing := missing_encoder(recipe):
        pytest.skip(missing)
    info = probe(str(recipe.write(tmp_path / f"film{recipe.suffix}")))
    assert decord_fault(info)


def test_decord_and_pyav_give_the_same_pictures(tmp_path):
    path = X264.write(tmp_path / "film.mp4")
    info = probe(str(path))
    ours, theirs = (reader(str(path), info, [0, 5, 17, 30], (96, 160)) for reader in (read_pyav, read_decord))
    assert ours.keys() == theirs.keys()
    assert all(np.abs(ours[i].astype(int) - theirs[i]).mean() < 3 for i in ours)


def test_each_frame_is_decoded_once_in_a_short_video_and_few_in_a_long_one(tmp_path):
    path = replace(X264, frames=200).write(tmp_path / "film.mp4")
    assert {frame.decoded for frame in read(path)} == {200}
    long = read(path, search_frames=8)
    assert len(long) == 8
    assert long[0].decoded <= 8 + 8 * (1 + 6), "a keyframe for each, and from it to the neighbour"
    assert [frame.index % 12 for frame in long] == [0] * 8


def test_frames_are_reduced_when_decoded(tmp_path):
    frames = read(X264.write(tmp_path / "v.mp4"), per_video=1, max_side=80)
    assert decode_image(frames[0].image).shape == (48, 80, 3)


def test_transparency_is_laid_on_white_as_in_stills(tmp_path):
    import av

    path = tmp_path / "v.mov"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("qtrle", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "argb"
        argb = np.zeros((64, 96, 4), np.uint8)
        argb[:, :48] = (255, 200, 30, 30)
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(argb, format="argb")))
        out.mux(stream.encode(None))
    image = decode_image(read(path)[0].image)
    assert image[32, 20] == pytest.approx([200, 30, 30], abs=2)
    assert image[32, 80] == pytest.approx([255, 255, 255], abs=2)


def test_high_dynamic_range_is_tone_mapped_and_said(tmp_path):
    if missing := missing_encoder(FILMS["pq"]):
        pytest.skip(missing)
    plain = decode_image(read(FILMS["hevc"].write(tmp_path / "sdr.mp4"))[0].image)
    frames = read(FILMS["pq"].write(tmp_path / "pq.mp4"))
    assert all(frame.tone_mapped for frame in frames)
    mapped = decode_image(frames[0].image)
    block = (slice(40, 56), slice(20, 28))  # the bright one: a signal of 192 is 780 cd/m2 in PQ, near the peak
    assert mapped[block].max(axis=2).mean() > plain[block].max(axis=2).mean() + 20


def test_candidates_are_sorted_inside_and_unique(tmp_path):
    info = probe(str(replace(X264, frames=30).write(tmp_path / "v.mp4")))
    found = candidate_frames(info, np.arange(30), FrameSettings(per_video=8))
    assert [i for i, _ in found] == sorted({i for i, _ in found})
    assert len(found) == 24
    assert all(0 <= n < 30 and abs(n - i) == 4 for i, n in found), "0.15 s at 25 frames a second, rounded up"
    assert len(candidate_frames(info, np.arange(3), FrameSettings())) == 3


def test_damaged_frames_are_left_out_and_the_others_are_right(tmp_path):
    from bad_media import cases

    case = next(c for c in cases() if c.name == "a flipped byte.mp4")
    case.make(tmp_path / case.name)
    frames = read(tmp_path / case.name)
    assert frames[0].damaged > 0
    assert [number_in(decode_image(f.image)) for f in frames] == [f.index for f in frames]
    with pytest.raises(MediaError, match="frames are damaged") as caught:
        read(tmp_path / case.name, damaged_max=0.01)
    assert caught.value.reason == "damaged"


def test_black_bars_are_cut_and_a_black_picture_is_left_alone():
    bars = np.zeros((100, 160, 3), np.uint8)
    bars[12:88] = 90
    assert content_box([bars, np.zeros_like(bars)]) == (12, 88, 0, 160)
    assert content_box([np.zeros_like(bars)]) == (0, 100, 0, 160)


def test_real_videos_are_read_upright(test_data):
    shapes = {}
    for name in ("video_0", "video_90", "video_180", "video_270"):
        shapes[name] = decode_image(read(test_data / "video" / f"{name}.mov", per_video=1)[0].image).shape[:2]
    assert shapes == {"video_0": (288, 512), "video_90": (512, 288), "video_180": (288, 512), "video_270": (512, 288)}


def test_real_film_is_cut_where_its_shots_end(test_data):
    sintel = read(test_data / "video" / "sintel_trailer_10s.mp4", per_video=16)
    shots = [[f.index for f in sintel if f.shot == shot] for shot in sorted({f.shot for f in sintel})]
    assert len(shots) == 4, "a fade to a title, out of it, and a cut"
    assert shots[0][-1] <= 101 <= shots[1][0] <= shots[1][-1] < 168 <= shots[2][-1] < 214 <= shots[3][0]
    nasa = probe(str(test_data / "video" / "nasa_13013.mp4"))
    assert (nasa.video_streams, nasa.width) == (2, 480), "the larger of two"
    with pytest.raises(MediaError) as caught:
        read(test_data / "video" / "corrupted.mp4")
    assert caught.value.reason == "damaged"

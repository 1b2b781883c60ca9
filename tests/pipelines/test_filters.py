import json

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from flexip.images import decode_image, resize
from flexip.pocket.video import film
from flexip.pocket.world import random_picture, render
from pipelines import captions, filters
from pipelines.overlay import text_share
from pipelines.records import Source
from pipelines.settings import CaptionSettings, FilterSettings
from pipelines.video import reduced_size

SETTINGS = FilterSettings()
CAPTIONS = CaptionSettings(phrase="thing")


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((0.2, 0.2, 0.8, 0.8), ""),
        ((0.2, 0.2, 0.25, 0.3), "too_small"),
        ((0.0, 0.0, 0.9, 0.9), "too_large"),
        ((0.1, 0.4, 0.9, 0.43), "too_few_pixels"),
    ],
)
def test_boxes_outside_the_limits_are_rejected_with_their_reason(box, reason):
    mask = np.ones((200, 200), bool)
    verdicts = filters.judge_subject(box, np.full((200, 200, 3), 9, np.uint8), mask, SETTINGS)[:2]
    assert filters.first_reason(verdicts) == reason


def test_a_mask_that_covers_little_of_its_box_is_scattered():
    mask = np.zeros((100, 100), bool)
    mask[20, 20:80] = mask[20:80, 20] = True
    assert filters.fill(mask, (0.2, 0.2, 0.8, 0.8), SETTINGS).reason == "scattered"
    mask[20:80, 20:80] = True
    assert filters.fill(mask, (0.2, 0.2, 0.8, 0.8), SETTINGS).keep


def test_frames_are_judged_by_light_and_sharpness():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    ramp = np.repeat(np.linspace(60, 180, 64).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    judged = {
        "": noise,
        "black_frame": np.zeros_like(noise),
        "too_dark": np.where(noise > 240, noise, 0),
        "too_bright": np.full_like(noise, 255),
        "blurred": ramp,
    }
    for reason, image in judged.items():
        assert filters.first_reason(filters.judge_frame(image, SETTINGS)) == reason


def test_a_subject_of_one_colour_is_featureless():
    image = np.full((60, 60, 3), 120, np.uint8)
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    assert filters.detail(image, mask, SETTINGS).reason == "featureless"
    image[::4] = 30
    assert filters.detail(image, mask, SETTINGS).keep


def test_captions_come_from_a_table_then_a_text_file_then_the_template(tmp_path):
    path = tmp_path / "clips" / "a.mp4"
    path.parent.mkdir()
    source = Source(str(path), "clips/a.mp4", "video")
    assert captions.caption(source, 0, CAPTIONS) == ("a photo of a thing", "fallback")
    path.with_suffix(".txt").write_text("  a walk\nin the park ")
    captions._table.cache_clear()
    assert captions.caption(source, 0, CAPTIONS) == ("a walk in the park", "text")
    lines = [
        {"file": "clips/a.mp4", "frame": 3, "captions": {"medium": "a red creature", "medium plain": "a creature"}},
        {"file": "clips/a.mp4", "caption": "the whole clip"},
    ]
    (tmp_path / "ground_truth.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n{damaged")
    captions._table.cache_clear()
    assert captions.caption(source, 3, CAPTIONS) == ("a creature", "table"), "without the identity"
    assert captions.caption(source, 4, CAPTIONS) == ("the whole clip", "table")


def test_what_the_detector_says_names_a_subject_that_no_folder_names(tmp_path):
    source = Source(str(tmp_path / "a.mp4"), "clips/a.mp4", "video")
    assert captions.phrase(source, CAPTIONS, "red dog") == "red dog"
    assert captions.caption(source, 0, CAPTIONS, "red dog") == ("a photo of a red dog", "fallback")
    view = Source("/x/backpack_dog/00.jpg", "backpack_dog/00.jpg", "multiview")
    assert captions.phrase(view, CAPTIONS, "dog") == "backpack dog"


def test_frames_that_repeat_an_earlier_one_of_their_clip_are_frozen():
    first, second = (render(picture, (96, 128)).image for picture in film(1, 2, creatures=1))
    noisy = np.clip(first + np.random.default_rng(0).normal(0, 0.4, first.shape).round(), 0, 255).astype(np.uint8)
    assert filters.frozen(first, [], SETTINGS).keep
    assert filters.frozen(noisy, [second, first], SETTINGS).reason == "frozen", "coding noise is no motion"
    moved = np.roll(first, 3, axis=1)
    assert filters.frozen(moved, [first], SETTINGS).keep
    assert filters.frozen(first[:64], [first], SETTINGS).keep, "another size is another picture"


TEXT = "BREAKING NEWS: nothing has happened"


@pytest.mark.parametrize(("size", "outlined"), [(20, True), (28, False), (40, True)])
def test_rendered_text_is_measured(size, outlined):
    shares = []
    for seed in range(4):
        plain = render(random_picture(np.random.default_rng(seed)), (384, 512)).image
        image = Image.fromarray(plain)
        lines = "\n".join([TEXT[: 640 // size]] * 3)
        place, font = (16, 370 - 4 * size), ImageFont.load_default(size)
        stroke = {"stroke_width": 1, "stroke_fill": (0, 0, 0)} if outlined else {}
        ImageDraw.Draw(image).text(place, lines, fill=(255, 255, 255), font=font, **stroke)
        shares.append(text_share(np.array(image)))
        assert text_share(plain) < SETTINGS.text_max
    assert np.median(shares) > SETTINGS.text_max, shares


def test_textures_are_no_text():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :320]
    grain = rng.normal(size=(256, 320))
    textures = {
        "checker": (x // 16 + y // 16) % 2 * 255,
        "fence": x // 8 % 2 * 255,
        "grid": ((x % 24 < 3) | (y % 24 < 3)) * 200,
        "bricks": np.where((y % 20 < 2) | ((x + y // 20 % 2 * 20) % 40 < 2), 220, 120),
        "dots": ((x % 14 - 7) ** 2 + (y % 14 - 7) ** 2 < 16) * 200,
        "noise": rng.integers(0, 255, (256, 320)),
        "clouds": np.clip(cv2.GaussianBlur(grain, (0, 0), 4) * 900 + 128, 0, 255),
    }
    for name, grey in textures.items():
        image = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        assert filters.text_overlay(image, SETTINGS).keep, name


def test_photographs_without_overlay_are_kept(test_data):
    paths = sorted((test_data / "images" / "dreambooth").glob("*/00.jpg"))
    for path in paths:
        rgb = decode_image(path.read_bytes())
        image = resize(rgb, reduced_size(rgb.shape[0], rgb.shape[1], 512))
        assert filters.text_overlay(image, SETTINGS).keep, path


def test_a_multiview_folder_names_its_subject():
    view = Source("/x/backpack_dog/00.jpg", "backpack_dog/00.jpg", "multiview")
    assert captions.phrase(view, CAPTIONS) == "backpack dog"
    assert captions.phrase(Source("/x/00.jpg", "00.jpg", "multiview"), CAPTIONS) == "thing"

import json

import numpy as np
import pytest

from pipelines import captions, filters
from pipelines.records import Source
from pipelines.settings import CaptionSettings, FilterSettings

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
        "too_dark": np.zeros_like(noise),
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


def test_a_multiview_folder_names_its_subject():
    view = Source("/x/backpack_dog/00.jpg", "backpack_dog/00.jpg", "multiview")
    assert captions.phrase(view, CAPTIONS) == "backpack dog"
    assert captions.phrase(Source("/x/00.jpg", "00.jpg", "multiview"), CAPTIONS) == "thing"

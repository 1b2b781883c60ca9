"""Detectors, maskers, captioners and heads other than the default, each run for real; those of torch are tiny."""

import shutil
from typing import Any

import av
import numpy as np
import pytest
import tiny_models
from pydantic import ValidationError

from flexip.images import decode_mask, encode_png
from flexip.pocket.video import VIDEO_SIZE as SIZE
from flexip.pocket.world import random_picture, render
from pipelines import aesthetic, masks, pretrained
from pipelines.detectors import Found, distinct, inside, open_detector
from pipelines.open_vocabulary import nearest_phrase
from pipelines.pretrained import ModelError
from pipelines.records import Frame, Source
from pipelines.settings import CurationSettings, FilterSettings, InputSettings, SubjectSettings
from pipelines.stages import search_clip
from pipelines.subjects import View, box_iou, working_view

PHRASES = ("red dog", "tall lamp")
LOOSE = {"fill_min": 0.0, "detail_min": 0.0, "area_min": 0.0, "area_max": 1.0, "side_min": 1}  # random weights


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of tiny models by kind."""
    root = tmp_path_factory.mktemp("models")
    words = ["red", "dog", "tall", "lamp", "a"]
    return {
        "owlv2": str(tiny_models.owlv2(root / "owlv2")),
        "grounding_dino": str(tiny_models.grounding_dino(root / "dino", words)),
        "sam2": str(tiny_models.sam2(root / "sam2")),
        "blip": str(tiny_models.blip(root / "blip", words)),
        "clip_768": str(tiny_models.clip_vision(root / "clip_768", 768)),
        "clip_512": str(tiny_models.clip_vision(root / "clip_512", 512)),
    }


@pytest.fixture(scope="module")
def clip() -> tuple[list[Source], list[Frame]]:
    """A clip of two frames."""
    frames = [
        Frame(
            "a.mp4",
            "f" * 64,
            i,
            float(i),
            2.0,
            encode_png(render(random_picture(np.random.default_rng(i)), SIZE).image),
        )
        for i in range(2)
    ]
    return [Source("/nowhere/a.mp4", "a.mp4", "video", "f" * 64)], frames


def settings(subjects: dict[str, Any], **sections: Any) -> CurationSettings:
    return CurationSettings(input=InputSettings(path="x"), subjects=SubjectSettings(**subjects), **sections)


def subjects_of(clip, wanted: CurationSettings):
    rows, crops = search_clip("c", clip[0], clip[1], wanted)
    found = [row for row in rows if row.unit == "subject"]
    assert len(crops) == sum(row.status == "accepted" for row in found)
    return found


@pytest.mark.parametrize("kind", ["owlv2", "grounding_dino"])
def test_boxes_and_phrases_of_open_vocabulary_detectors_reach_the_rows(models, clip, kind):
    chosen = {"detector": kind, "detector_model": models[kind], "phrases": PHRASES, "max_per_frame": 5}
    rows = subjects_of(clip, settings({**chosen, "score_min": 0.0, "text_score_min": 0.0}, filters=LOOSE))
    assert rows
    assert {row.frame_index for row in rows} == {0, 1}
    for row in rows:
        assert 0 <= row.box[0] < row.box[2] <= 1
        assert 0 <= row.box[1] < row.box[3] <= 1
        assert row.phrase in PHRASES
        assert (row.caption, row.caption_source) == (f"a photo of a {row.phrase}", "fallback")
        assert decode_mask(row.mask).shape == SIZE
        assert row.track
    for frame in (0, 1):
        boxes = [row.box for row in rows if row.frame_index == frame]
        assert all(box_iou(a, b) <= 0.5 for i, a in enumerate(boxes) for b in boxes[:i])
    middle = float(np.median([row.scores["evidence"] for row in rows]))
    fewer = subjects_of(clip, settings({**chosen, "score_min": middle, "text_score_min": 0.0}, filters=LOOSE))
    assert 0 < len(fewer) < len(rows) or len({row.scores["evidence"] for row in rows}) == 1
    assert all(row.scores["evidence"] >= middle - 1e-6 for row in fewer)
    assert subjects_of(clip, settings({**chosen, "score_min": 1.0}, filters=LOOSE)) == []


def test_words_below_the_text_threshold_name_nothing(models, clip):
    chosen = {"detector": "grounding_dino", "detector_model": models["grounding_dino"], "phrases": PHRASES}
    strict = settings({**chosen, "score_min": 0.0, "text_score_min": 1.0}, filters=LOOSE)
    assert subjects_of(clip, strict) == []


def test_part_of_a_phrase_names_it():
    assert nearest_phrase("dog", PHRASES) == "red dog"
    assert nearest_phrase("Tall . lamp dog", PHRASES) == "tall lamp"
    assert nearest_phrase("lam", PHRASES) == "tall lamp", "tokens are pieces of words"
    assert nearest_phrase("", PHRASES) == ""


def test_sam2_cuts_out_what_any_detector_finds(models, clip):
    cut = masks.open_masker(SubjectSettings(masks="sam2", masks_model=models["sam2"]), "cpu")
    image = render(random_picture(np.random.default_rng(3)), SIZE).image
    found = cut(image, [(0.1, 0.1, 0.5, 0.5), (0.3, 0.2, 0.9, 0.9)])
    assert [mask.shape for mask in found] == [SIZE, SIZE]
    assert all(mask.dtype == bool for mask in found)
    assert not (found[0] == found[1]).all(), "the box is a prompt"
    assert cut(image, []) == []
    rows = subjects_of(clip, settings({"masks": "sam2", "masks_model": models["sam2"]}, filters=LOOSE))
    plain = subjects_of(clip, settings({}, filters=LOOSE))
    assert [row.box for row in rows] == [row.box for row in plain]
    assert [row.mask for row in rows] != [row.mask for row in plain]


def test_grabcut_from_a_box_finds_the_creature():
    ious = []
    for seed in range(8):
        frame = render(random_picture(np.random.default_rng(seed), creatures=1), SIZE)
        height, width = SIZE
        box = tuple(float(edge) for edge in frame.boxes[0] / [width, height, width, height])
        mask = masks.grabcut(frame.image, [box])[0]
        ious.append((mask & frame.masks[0]).sum() / (mask | frame.masks[0]).sum())
        assert not (mask & ~masks.within(np.ones_like(mask), box)).any()
    assert np.mean(ious) >= 0.8, ious
    whole = masks.grabcut(frame.image, [(0.0, 0.0, 1.0, 1.0)])
    assert whole[0].shape == SIZE, "a box without a background around it"


def film_frame(test_data, number: int) -> np.ndarray:
    with av.open(str(test_data / "video" / "sintel_trailer_10s.mp4")) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == number:
                return frame.to_ndarray(format="rgb24")
    raise AssertionError(f"no frame {number}")


@pytest.mark.parametrize("kind", ["haar", "yunet"])
def test_face_detectors_find_a_face(test_data, kind):
    onnx: dict[str, Any] = (
        {"detector_model": str(test_data / "models" / "yunet_n_dynamic.onnx")} if kind == "yunet" else {}
    )
    chosen = SubjectSettings(detector=kind, **onnx)
    detect = open_detector(chosen)
    faces = [(216, (0.32, 0.16, 0.58, 0.70)), (48, (0.33, 0.44, 0.395, 0.575))]  # seen by eye
    views = [working_view(film_frame(test_data, number), None, 854) for number, _ in faces]
    for found, (_, face) in zip(detect(views, chosen), faces, strict=True):
        assert box_iou(found[0].box, face) >= 0.6
        assert found[0].phrase == "face"
        assert found[0].mask.any()
        assert 0 < found[0].score <= 1
    landscape = working_view(render(random_picture(np.random.default_rng(0), creatures=0), SIZE).image, None, 512)
    assert detect([landscape], chosen) == [[]]


def test_people_are_found_by_gradients(test_data):
    chosen = SubjectSettings(detector="hog")
    view = working_view(film_frame(test_data, 24), None, 854)
    found = open_detector(chosen)([view, View(np.zeros((40, 40, 3), np.uint8))], chosen)
    assert [one.phrase for one in found[0]] == ["person"]
    assert found[1] == [], "smaller than the window"


def test_the_best_of_boxes_that_overlap_stays():
    boxes = [Found((0.1, 0.1, 0.5, 0.5), 0.4), Found((0.12, 0.1, 0.52, 0.5), 0.9), Found((0.6, 0.6, 0.9, 0.9), 0.2)]
    assert distinct(boxes, 0.5) == [boxes[1], boxes[2]]
    assert inside((-10, 5, 50, 200), 100, 100) == (0.0, 0.05, 0.5, 1.0)
    assert inside((120, 5, 150, 20), 100, 100) is None


def test_a_captioner_writes_where_no_file_does(models, clip, tmp_path):
    wanted = settings({}, filters=LOOSE, captions={"model": models["blip"], "max_tokens": 4})
    rows = subjects_of(clip, wanted)
    assert {row.caption_source for row in rows} == {"model"}
    assert all(row.caption and "photo of" not in row.caption for row in rows)
    assert [row.caption for row in rows] == [row.caption for row in subjects_of(clip, wanted)]
    (tmp_path / "a.txt").write_text("somebody wrote this")
    beside = [Source(str(tmp_path / "a.mp4"), "a.mp4", "video", "f" * 64)], clip[1]
    assert {(r.caption, r.caption_source) for r in subjects_of(beside, wanted)} == {("somebody wrote this", "text")}


def test_an_aesthetic_head_rejects_what_it_scores_low(models, clip, test_data):
    head = str(test_data / "models" / "aesthetic" / "sac+logos+ava1-l14-linearMSE.pth")
    chosen = {**LOOSE, "aesthetic_head": head, "aesthetic_clip": models["clip_768"]}
    rows, _ = search_clip("c", clip[0], clip[1], settings({}, filters={**chosen, "aesthetic_min": -1e3}))
    scores = [row.scores["aesthetic"] for row in rows if row.unit == "frame"]
    assert len(scores) == 2
    limit = float(np.mean(scores))
    rows, _ = search_clip("c", clip[0], clip[1], settings({}, filters={**chosen, "aesthetic_min": limit}))
    assert [(row.status, row.reason) for row in rows if row.unit == "frame" and row.scores["aesthetic"] < limit] == [
        ("rejected", "unaesthetic")
    ]
    with pytest.raises(ModelError, match="embeddings of 512 values"):
        search_clip("c", clip[0], clip[1], settings({}, filters={**chosen, "aesthetic_clip": models["clip_512"]}))


def test_weights_that_cannot_be_used_are_named(models, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    broken = tmp_path / "yunet.onnx"
    broken.write_bytes(b"<html>404</html>")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"detector": "owlv2", "detector_model": nowhere, "phrases": ("dog",)}, "detector_model"),
        ({"detector": "owlv2", "detector_model": models["grounding_dino"], "phrases": ("dog",)}, "detector_model"),
        ({"detector": "yunet", "detector_model": str(broken)}, "detector_model"),
        ({"detector": "yunet", "detector_model": nowhere}, "detector_model"),
        ({"masks": "sam2", "masks_model": models["owlv2"]}, "masks_model"),
    ]
    for wanted, field in cases:
        with pytest.raises(ModelError, match=field):
            open_detector(SubjectSettings(**wanted))
    with pytest.raises(ModelError, match="aesthetic_head"):
        aesthetic.open_scorer(FilterSettings(aesthetic_head=nowhere), "cpu")


def test_fingerprints_follow_the_weights(models, tmp_path):
    wanted = settings({"detector": "owlv2", "detector_model": models["owlv2"], "phrases": ("dog",)})
    before = pretrained.fingerprints(wanted)
    assert set(before) == {"detector"}
    assert pretrained.fingerprints(settings({})) == {}
    copy = shutil.copytree(models["owlv2"], tmp_path / "copy")
    same = settings({"detector": "owlv2", "detector_model": str(copy), "phrases": ("dog",)})
    assert pretrained.fingerprints(same) == before
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert pretrained.fingerprints(same) != before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"detector": "owlv2"}, "owlv2 needs some"),
        ({"detector": "grounding_dino", "phrases": ("dog", " ")}, "empty phrase"),
        ({"phrases": ("dog",)}, "motion reads none"),
        ({"detector": "yunet"}, "onnx"),
        ({"detector": "haar", "detector_model": "x"}, "needs none"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        SubjectSettings(**wrong)

"""Quality of the default curation, measured on a rendered world whose truth is known."""

import json

import pytest
from local_curation import curate_local

from flexip.pocket.video import make_world
from pipelines.settings import CurationSettings, InputSettings, SplitSettings
from pipelines.truth import GOALS, iou, measure, read_truth


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), videos=8, stills=8, seed=21)


@pytest.fixture(scope="module")
def settings(world):
    return CurationSettings(input=InputSettings(path=str(world), group_by_folder=True), splits=SplitSettings(test=0.3))


@pytest.fixture(scope="module")
def curated(settings, tmp_path_factory, pocket_encoders):
    return curate_local(settings, tmp_path_factory.mktemp("curated"), pocket_encoders).dataset


def test_the_default_detector_meets_the_goals(curated, world, settings):
    quality = measure(curated, read_truth(str(world)), settings)
    assert quality is not None
    assert quality.subjects > 30
    assert quality.possible_clips >= 8
    assert quality.box_iou >= GOALS["box_iou"], quality
    assert quality.one_identity >= GOALS["one_identity"], quality
    assert quality.clip_yield >= GOALS["clip_yield"], quality
    assert quality.leaks == 0, quality


def test_a_truth_that_says_otherwise_lowers_every_figure(curated, world, settings):
    wrong = {}
    for number, (key, line) in enumerate(sorted(read_truth(str(world)).items())):
        moved = [
            {**c, "identity": f"{c['identity']}-{number % 2}", "box": [x / 2 for x in c["box"]]}
            for c in line["creatures"]
        ]
        wrong[key] = {**line, "creatures": moved}
    quality = measure(curated, wrong, settings)
    assert quality is not None
    assert quality.box_iou < 0.5
    assert quality.one_identity < 0.7
    assert sum(quality.faults.values()) > 0.5 * quality.subjects


def test_no_truth_no_figures(curated, tmp_path, settings):
    assert read_truth(str(tmp_path)) == {}
    assert measure(curated, {}, settings) is None


def test_the_table_is_found_above_the_input_too(world):
    every, videos = read_truth(str(world)), read_truth(str(world / "videos"))
    assert len(videos) > 100
    assert videos[("video-0003.mp4", 5)] == every[("videos/video-0003.mp4", 5)]
    assert json.loads((world / "ground_truth.jsonl").read_text().splitlines()[0])["file"] == "videos/video-0000.mp4"


def test_intersection_over_union():
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0

"""The report: complete, self-contained, harmless whatever the files are called, the same for the same rows."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from flexip.images import encode_mask, encode_png
from flexip.pocket.video import VIDEO_SIZE, film
from flexip.pocket.world import render
from flexip.rows import PairRow, SubjectRow
from pipelines.records import StageCount, to_table
from pipelines.report_html import Facts, StageTime, meaning, verdict, write_report
from pipelines.report_html import render as render_report
from pipelines.settings import CurationSettings, InputSettings
from pipelines.shards import write_table
from pipelines.truth import Quality

HOSTILE = '<script>alert("1")</script>&\'.mp4'
VOID = {"meta", "img", "br", "rect", "line"}
QUALITY = Quality(40, 0.81, 30, 0.991, 9, 0.5, 12, 0.4, 9, 0, {"part of a creature": 3})


class Reader(HTMLParser):
    """Elements and their attributes; fails where one is closed that is not open."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def subject_rows() -> list[SubjectRow]:
    """A source that was used, one whose frame is dark, one that cannot be read; names as bad as they come."""
    picture = encode_png(render(film(1, 4)[0], VIDEO_SIZE).image)
    mask = encode_mask(np.ones((8, 8), bool))
    same = {"source_hash": "h", "kind": "video", "frame_index": 3}
    told = {"licence": "CC <0>", "consent": ""}
    box = [0.2, 0.2, 0.6, 0.9]
    scores = {"sharpness": 90.0, "duration": 2.0, "subjects": 2.0}
    frame = {**same, "unit": "frame", "frame": picture, "scores": scores}
    small = {**same, "unit": "subject", "box": box, "mask": mask}
    return [
        SubjectRow("s1", HOSTILE, unit="source", status="accepted", **told, **{**same, "frame_index": 0}),
        SubjectRow("f1", HOSTILE, status="accepted", **frame),
        SubjectRow("u1", HOSTILE, status="accepted", scores={"area": 0.3, "caption_fallback": 1.0}, **small),
        SubjectRow("u2", HOSTILE, status="rejected", reason="too_small", scores={"area": 0.001}, **small),
        SubjectRow("f2", HOSTILE, status="rejected", reason="too_dark", **frame),
        SubjectRow("s2", "b<b>.mp4", unit="source", status="quarantined", reason="subjects:<Error>", **same),
    ]  # fmt: skip


def pair_row(number: int) -> PairRow:
    picture = encode_png(np.full((16, 16, 3), 40 * number, np.uint8))
    texts = {"caption": f"</div><img src=http://x.y/{number}>", "source": HOSTILE}
    return PairRow(
        f"p{number}", "variant", "train", f"c{number % 2}", "u1", "u1", picture, picture, picture,
        time_gap=0.5 * number, identity_similarity=0.9, pixel_similarity=0.8, **texts,
    )  # fmt: skip


def facts(sampled: bool = False, quality: Quality | None = QUALITY, path: str = "in/<i>") -> Facts:
    counts = {
        "source": StageCount(1, {}, {"subjects:<Error>": 1}),
        "frame": StageCount(1, {"too_dark": 1}),
        "subject": StageCount(1, {"too_small": 1}),
        "pair": StageCount(3, {"over_limit": 7}),
    }
    sizes = {"invariant": {"train": 0, "val": 0, "test": 0}, "variant": {"train": 3, "val": 0, "test": 0}}
    busy = {"read": (5.0, 1), "search": (16.0, 2), "pairs": (1.0, 0)}
    times = [StageTime(stage, 100, seconds, workers, 10.0) for stage, (seconds, workers) in busy.items()]
    settings = CurationSettings(input=InputSettings(path=path))
    return Facts(settings, counts, sizes, {"train": 2, "val": 0, "test": 0}, times, quality, 50, sampled)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    write_table(folder, "subjects/part-00000-a.parquet", to_table(subject_rows(), SubjectRow))
    write_table(folder, "variant/pairs/part-00000-a.parquet", to_table([pair_row(i) for i in range(3)], PairRow))
    return folder


def test_the_report_loads_nothing_and_runs_nothing(dataset):
    text = render_report(dataset, facts())
    page = Reader(text)
    assert page.open == []
    assert {tag for tag, _ in page.seen} & {"script", "link", "iframe", "object", "b<b>.mp4"} == set()
    values = [(name, value or "") for _, attributes in page.seen for name, value in attributes.items()]
    assert all(value.startswith("data:image/jpeg;base64,") for name, value in values if name in ("src", "href"))
    assert not [name for name, _ in values if name.startswith("on")]
    assert not re.search(r"@import|url\(", text)


def test_hostile_names_and_captions_are_shown_as_they_are(dataset):
    said = " ".join(Reader(render_report(dataset, facts())).words)
    assert HOSTILE.rsplit("/", 1)[-1] in said
    assert "</div><img src=http://x.y/2>" in said
    assert "CC <0>" in said
    assert "subjects:<Error>" in said


def test_the_report_says_what_became_of_every_input_and_why(dataset):
    said = " ".join(" ".join(Reader(render_report(dataset, facts())).words).split())
    assert "1 of 2 sources could be used. They give 3 pairs of 2 identity clusters" in said
    assert "too dark" in said
    assert meaning("too_dark") in said
    assert "the track has given its number of pairs already" in said, "a reason without pictures has its line too"
    assert "fallback: a photo of a {phrase} 1" in said
    assert "0.810 mean IoU" in said
    assert "99.1 %" in said
    for word in ("area of the subject", "sharpness of the frame", "length of the clips", "pixels of variant pairs"):
        assert word in said


def test_pictures_are_of_pairs_and_of_rejects(dataset):
    page = Reader(render_report(dataset, facts()))
    pictures = [attributes["src"] for tag, attributes in page.seen if tag == "img"]
    assert len(pictures) == 2 * 3 + 2 + 1 - 1, (
        "three pairs, a rejected frame, a rejected subject; no frame of the source"
    )
    assert all(len(picture or "") < 20_000 for picture in pictures)


def test_goals_that_are_missed_look_so_and_no_truth_no_section(dataset):
    page = Reader(render_report(dataset, facts()))
    states = [a["class"] for tag, a in page.seen if tag == "div" and str(a.get("class", "")).startswith("card ")]
    assert [state for state in states if "plot" not in str(state)] == [
        "card met",
        "card met",
        "card missed",
        "card met",
    ]
    assert "Against the truth" not in render_report(dataset, facts(quality=None))


def test_the_busiest_stage_is_what_bounds_the_pass(dataset):
    said = " ".join(" ".join(Reader(render_report(dataset, facts())).words).split())
    assert "read and decode 1 5.0 s 20.0 50% waits for the slowest stage" in said
    assert "find subjects 2 16.0 s 6.2 80% bounds the pass" in said
    assert "make pairs tasks 1.0 s 100.0 - CPU" in said


def test_the_same_rows_give_the_same_report_written_whole(dataset, tmp_path):
    one, two = (write_report(tmp_path / name, dataset, facts()) for name in ("a.html", "b.html"))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size < 1e6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_the_verdict_of_a_dry_run_tells_how_many_were_tried():
    assert verdict(facts(sampled=True)).startswith("2 of 50 inputs were tried: 1 of 2 sources could be used")

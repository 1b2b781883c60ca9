"""Every kind of bad input ends in exactly one state, for the right reason, and costs nobody else anything."""

import dataclasses
import os
from functools import partial
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from bad_media import Case, cases

from flexip.pocket.video import make_world
from jobs.curate import CurateConfig, run
from pipelines.listing import IMAGE_SUFFIXES
from pipelines.records import Frame, Source, count_units
from pipelines.sandbox import Sandbox
from pipelines.settings import (
    CurationSettings,
    DuplicateSettings,
    FrameSettings,
    InputSettings,
    PairSettings,
    SubjectSettings,
)
from pipelines.sources import read_hash, reject_duplicates
from pipelines.stages import find_or_quarantine, find_subjects, read_frames, source_row
from pipelines.tools import Tools
from pipelines.video import read_video

LIMITS = FrameSettings(memory_mb=900, per_video=3, timeout_s=600)
BRIEF = LIMITS.model_copy(update={"timeout_s": 3.0})
COSTLY = {"takes for ever.mp4"}  # only this one is held to the brief limit, so that a busy machine fails no other
ALL = [case for case in cases() if not case.lacking]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for case in ALL:
        case.make(folder / case.name)
    return folder


@pytest.fixture(scope="module")
def judged(corpus) -> tuple[dict[str, Source], list[Frame]]:
    """Every source after hashing, deduplication and decoding, and all frames."""
    sources = [read_hash(Source(str(corpus / case.name), case.name, kind_of(case))) for case in ALL]
    result, frames = dict[str, Source](), list[Frame]()
    patient, brief = (Sandbox("pipelines.video:read_video", s.timeout_s, memory_mb=900) for s in (LIMITS, BRIEF))
    for source in reject_duplicates(sources):
        reader = brief if source.uri in COSTLY else patient
        done, found = read_frames([source], LIMITS, reader) if source.status == "accepted" else ([source], [])
        result[source.uri] = done[0]
        frames += found
    patient.close()
    brief.close()
    return result, frames


def kind_of(case: Case):
    return "image" if Path(case.name).suffix in IMAGE_SUFFIXES else "video"


def test_there_are_enough_kinds():
    assert len({case.name for case in cases()}) == len(cases()) >= 60
    assert len({(case.status, case.reason) for case in cases()}) >= 13


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases()])
def test_each_input_ends_as_it_should(judged, case):
    if case.lacking:
        pytest.skip(case.lacking)
    sources, frames = judged
    assert (sources[case.name].status, sources[case.name].reason) == (case.status, case.reason)
    assert any(frame.uri == case.name for frame in frames) == (case.status == "accepted")


def test_sums_equal_the_inputs_at_the_levels_of_sources_and_frames(judged):
    sources, frames = judged
    settings, rows = CurationSettings(input=InputSettings(path=".")), []
    nothing = partial(find_subjects, tools=Tools(detect=lambda views, options: [[] for _ in views]))
    for name, source in sources.items():
        if source.status == "accepted":
            rows += find_or_quarantine(name, [source], frames, settings, nothing)[0]
        else:
            rows.append(source_row(source))
    counts = count_units(rows)
    assert counts["source"].total == len(ALL)
    assert counts["source"].accepted == sum(case.status == "accepted" for case in ALL)
    assert counts["frame"].total == len(frames)
    assert counts["frame"].rejected.keys() >= {"no_subject"}
    assert len({row.key for row in rows}) == len(rows)


def test_real_videos_end_in_one_state_too(test_data):
    sandbox = Sandbox("pipelines.video:read_video", 600, memory_mb=2048)
    paths = sorted((test_data / "video").iterdir())
    sources = [read_hash(Source(str(path), path.name, "video")) for path in paths]
    done, frames = read_frames(sources, FrameSettings(per_video=4), sandbox)
    sandbox.close()
    bad = {source.uri: (source.status, source.reason) for source in done if source.status != "accepted"}
    assert bad == {"corrupted.mp4": ("quarantined", "damaged")}
    assert {frame.uri for frame in frames} == {path.name for path in paths} - set(bad)
    with_frames = {frame.uri: frame for frame in frames}
    assert all(frame.decoded >= 3 and not frame.damaged for frame in with_frames.values())


def test_the_same_video_gives_the_same_frames(corpus):
    source = Source(str(corpus / "film h264 mp4.mp4"), "a.mp4", "video", "00")
    first, second = (read_video(source, FrameSettings()) for _ in range(2))
    assert [dataclasses.asdict(frame) for frame in first] == [dataclasses.asdict(frame) for frame in second]


def test_curation_counts_them_all_and_goes_on(curation_ray, corpus, tmp_path):
    make_world(corpus / "good", videos=2, stills=4, seed=3)
    config = CurateConfig(
        input=InputSettings(path=str(corpus)),
        output=tmp_path / "dataset",
        frames=LIMITS.model_copy(update={"timeout_s": 20.0}),
        subjects=SubjectSettings(timeout_s=60),
        pairs=PairSettings(identity_min=0.0),
        duplicates=DuplicateSettings(hash_bits=-1),  # one film in many containers looks the same
    )
    manifest = run(config).manifest
    for unit, count in manifest.counts.items():
        parts = count["accepted"] + sum(count["rejected"].values()) + sum(count["quarantined"].values())
        assert parts == count["inputs"] > 0, unit
    table = pads.dataset(tmp_path / "dataset" / "subjects").to_table(["source", "unit", "status", "reason"])
    states = {r["source"]: (r["status"], r["reason"]) for r in table.to_pylist() if r["unit"] == "source"}
    listed = [case for case in ALL if os.path.lexists(corpus / case.name)]
    costly = {"eats memory.mov": "memory", "takes for ever.mp4": "timeout"}  # on a busy machine time may end first
    assert {states[name] for name in costly} <= {("quarantined", reason) for reason in costly.values()}
    for case in listed:
        assert case.name in costly or states[case.name] == (case.status, case.reason), case.name
    assert manifest.counts["source"]["inputs"] == len(listed) + 6

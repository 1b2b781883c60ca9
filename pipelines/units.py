"""Units of work: a few clips that are read, searched, embedded and paired together, and finished together.

A unit is named by what is in it, so that a changed, added or missing source makes another unit and never the same one.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipelines.records import Source
from pipelines.sources import Clip

MOST_CLIPS = 16  # in a unit: ten million clips are then less than a million units
HASHED_TOGETHER = 64  # sources
SMALL_RUN = 512  # a run of fewer clips has a unit for each, so that all workers have something to do


@dataclass(frozen=True)
class Unit:
    """Sources of one or more whole clips, by cluster."""

    key: str
    sources: list[Source]


def plan_units(clips: Sequence[Clip]) -> list[Unit]:
    """The clips, sorted by key, in units of equal size; which ones depends on the clips alone."""
    size = min(MOST_CLIPS, max(1, len(clips) // SMALL_RUN))
    ordered = sorted(clips, key=lambda clip: clip.key)
    return [_unit(ordered[start : start + size]) for start in range(0, len(ordered), size)]


def plan_hashing(listed: Sequence[Source]) -> list[Unit]:
    """Sources to be hashed together, named by what the listing knows: a source that changes makes another unit."""
    groups = [list(listed[start : start + HASHED_TOGETHER]) for start in range(0, len(listed), HASHED_TOGETHER)]
    return [Unit(_digest([(dataclasses.astuple(s), _stamp(s, times=True)) for s in group]), group) for group in groups]


def inputs_digest(listed: Sequence[Source]) -> str:
    """Tells one input from another without reading it: names and sizes."""
    return _digest([(source.uri, _stamp(source, times=False)) for source in listed])


def by_cluster(sources: Sequence[Source]) -> Iterator[tuple[str, list[Source]]]:
    """The clips of a unit: cluster and sources of each."""
    for cluster, group in groupby(sources, key=lambda source: source.cluster):
        yield cluster, list(group)


def _unit(clips: Sequence[Clip]) -> Unit:
    named = sorted(clips, key=lambda clip: clip.cluster)
    members = [dataclasses.replace(source, cluster=clip.cluster) for clip in named for source in clip.sources]
    return Unit(_digest([(source.cluster, source.uri, source.sha256) for source in members]), members)


def _stamp(source: Source, times: bool) -> list[int]:
    """Size and time of change of a local file; of anything else what the listing says."""
    try:
        status = os.stat(source.path)
    except (OSError, ValueError):
        return [source.bytes]
    return [status.st_size, status.st_mtime_ns] if times else [status.st_size]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]

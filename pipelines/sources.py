"""Inputs: what they contain, and which belong together as one clip; listing.py says which there are.

A clip is the unit of work: one video, one still, or the stills of one multi-view folder.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from flexip.rows import SourceKind
from pipelines import storage
from pipelines.records import Source, chance


@dataclass(frozen=True)
class Clip:
    """Sources that are read together. All its subjects are one identity cluster: they never fall into two splits."""

    key: str  # names the clip's staged files: the same on every machine
    kind: SourceKind
    cluster: str
    sources: list[Source]


def read_hash(source: Source) -> Source:
    """The source with the SHA-256 and size of its content; quarantined as `unreadable` when it cannot be read.

    One that has its verdict already is left as it is.
    """
    if source.status != "accepted":
        return source
    digest, size = hashlib.sha256(), 0
    try:
        with storage.open_source(source) as file:
            while block := file.read(storage.BLOCK):
                digest.update(block)
                size += len(block)
    except OSError:
        return dataclasses.replace(source, status="quarantined", reason="unreadable")
    if size == 0:
        return dataclasses.replace(source, sha256=digest.hexdigest(), status="rejected", reason="empty_file")
    return dataclasses.replace(source, sha256=digest.hexdigest(), bytes=size)


def reject_duplicates(sources: Sequence[Source]) -> list[Source]:
    """Of sources with equal content the first by uri stays; the others are rejected as `duplicate`."""
    seen: set[str] = set()
    result = []
    for source in sorted(sources, key=lambda s: s.uri):
        if source.status == "accepted" and source.sha256 in seen:
            source = dataclasses.replace(source, status="rejected", reason="duplicate")
        elif source.status == "accepted":
            seen.add(source.sha256)
        result.append(source)
    return result


def sample(listed: Sequence[Source], number: int, seed: int) -> list[Source]:
    """So many of the sources, drawn by hash of their names, in the order given; a multi-view set comes whole or not."""
    order: dict[str, list[int]] = {}
    for place, source in enumerate(listed):
        name = _set_name(source) if source.kind == "multiview" else source.uri
        order.setdefault(name, []).append(place)
    taken: list[int] = []
    for name in sorted(order, key=lambda name: (chance(seed, "sample", name), name)):
        if len(taken) >= number:
            break
        taken += order[name]
    return [listed[place] for place in sorted(taken)]


def group_clips(sources: Sequence[Source]) -> list[Clip]:
    """Accepted sources as clips, sorted by key. A multi-view set is one clip, any other source one by itself."""
    groups: dict[str, list[Source]] = {}
    for source in sources:
        if source.status == "accepted":
            name = _set_name(source) if source.kind == "multiview" else source.sha256
            groups.setdefault(name, []).append(source)
    clips = [_clip(name, sorted(group, key=lambda s: s.uri)) for name, group in groups.items()]
    return sorted(clips, key=lambda clip: clip.key)


def _clip(name: str, sources: list[Source]) -> Clip:
    # The cluster of a set is its name, not its contents: one more picture does not move a subject to another split.
    return Clip(_digest(name + "".join(s.sha256 for s in sources)), sources[0].kind, _digest(name), sources)


def _set_name(source: Source) -> str:
    return f"group:{source.group}" if source.group else f"folder:{PurePosixPath(source.uri).parent.as_posix()}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""Inputs: which files there are, what they contain, and which belong together as one clip.

A clip is the unit of work: one video, one still, or the stills of one multi-view folder.
"""

import dataclasses
import glob
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexip.rows import SourceKind
from pipelines.records import Source
from pipelines.settings import InputSettings

VIDEO_SUFFIXES = {
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ts",
    ".m2ts",
    ".flv",
    ".wmv",
    ".3gp",
}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".mpo", ".avif"}


class SourceError(ValueError):
    """The input as a whole cannot be used; the message names it and says what would be right."""


@dataclass(frozen=True)
class Clip:
    """Sources that are read together. All its subjects are one identity cluster: they never fall into two splits."""

    key: str  # names the clip's staged files: the same on every machine
    kind: SourceKind
    cluster: str
    sources: list[Source]


def list_sources(settings: InputSettings) -> list[Source]:
    """Every video and image below the path, sorted by uri; other files (captions, notes) are not inputs.

    Raises:
        SourceError: the path does not exist, or nothing there is a video or image.
    """
    root = Path(settings.path)
    if root.is_file():
        files, base = [root], root.parent
        if _kind(root, False) is None:
            raise SourceError(f"input.path = {root}: {root.suffix or 'no suffix'} is no video or image; {_known()}")
    elif root.is_dir():
        inside = glob.glob("**/*", root_dir=root, recursive=True)  # follows linked folders, leaves hidden files alone
        files, base = sorted(root / name for name in inside if (root / name).is_file()), root
    else:
        files, base = (
            sorted(Path(p) for p in glob.glob(settings.path, recursive=True) if Path(p).is_file()),
            _base(root),
        )
        if not files:
            raise SourceError(f"input.path = {settings.path}: no such file or folder, and no file matches it")
    sources = [_source(file, base, settings) for file in files if _kind(file, False)]
    if not sources:
        raise SourceError(f"input.path = {settings.path}: {len(files)} files, none a video or image; {_known()}")
    return sorted(sources, key=lambda source: source.uri)


def read_hash(source: Source) -> Source:
    """The source with the SHA-256 and size of its content; quarantined as `unreadable` when it cannot be read."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(source.path, "rb") as file:
            while block := file.read(1 << 20):
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


def group_clips(sources: Sequence[Source]) -> list[Clip]:
    """Accepted sources as clips, sorted by key. A multi-view folder is one clip, any other source one by itself."""
    groups: dict[str, list[Source]] = {}
    for source in sources:
        if source.status == "accepted":
            name = f"folder:{Path(source.uri).parent.as_posix()}" if source.kind == "multiview" else source.sha256
            groups.setdefault(name, []).append(source)
    clips = [_clip(name, sorted(group, key=lambda s: s.uri)) for name, group in groups.items()]
    return sorted(clips, key=lambda clip: clip.key)


def _clip(name: str, sources: list[Source]) -> Clip:
    # The cluster of a folder is its name, not its contents: one more picture does not move a subject to another split.
    return Clip(_digest(name + "".join(s.sha256 for s in sources)), sources[0].kind, _digest(name), sources)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _source(file: Path, base: Path, settings: InputSettings) -> Source:
    kind = _kind(file, settings.group_by_folder)
    assert kind is not None
    uri = file.relative_to(base).as_posix() if file.is_relative_to(base) else file.as_posix()
    return Source(str(file.absolute()), uri, kind, licence=settings.licence)


def _kind(file: Path, grouped: bool) -> SourceKind | None:
    suffix = file.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in IMAGE_SUFFIXES:
        return "multiview" if grouped else "image"
    return None


def _base(pattern: Path) -> Path:
    """The folder above the first part of a glob that has a wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if any(c in part for c in "*?["):
            break
        parts.append(part)
    return Path(*parts)


def _known() -> str:
    return "known are " + " ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))

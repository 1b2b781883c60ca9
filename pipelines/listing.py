"""Which inputs there are: files and folders, manifests, WebDataset shards; local or in a bucket.

Nothing is opened but manifests and the headers of tar files. Whatever cannot be an input (a row without a file, a shard
that ends in the middle) is a source with a verdict and a reason, so that it is counted.
"""

import dataclasses
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import BinaryIO

from flexip.rows import SourceKind
from pipelines import manifests, storage
from pipelines.manifests import ManifestError, Notes
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
MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
KINDS: dict[str, SourceKind] = {"image": "image", "video": "video", "multiview": "multiview"}
NOTE_LIMIT = 1 << 20  # [bytes] of a caption or of metadata in a tar
UNTOLD = Notes()
PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")


class SourceError(ValueError):
    """The input as a whole cannot be used; the message names it and says what would be right."""


def list_sources(settings: InputSettings) -> list[Source]:
    """Every input that `settings.path` means, sorted by uri, judged only where that needs no look into the file.

    What the path is decides how it is read: a manifest (.jsonl, .json, .csv, .parquet) row by row; a .tar member by
    member; any other video or image as itself. A folder or a glob may hold videos, images and tars together; its other
    files (captions, notes) are not inputs.

    Raises:
        SourceError: the path names nothing, nothing there is a video or image, or a manifest cannot be read.
    """
    base, files = _find(settings)
    tables = storage.suffix(settings.path).lower() in manifests.READERS  # those in a folder are its captions
    sources: list[Source] = []
    for file in files:
        ending = storage.suffix(file).lower()
        if tables and ending in manifests.READERS:
            sources += _manifest(file, base, settings)
        elif ending == ".tar":
            sources += _tar(file, base, settings)
        elif ending in MEDIA_SUFFIXES:
            sources.append(_file(file, base, settings))
    if not sources:
        raise SourceError(f"input.path = {settings.path}: {_nothing(settings.path, files)}")
    sources = [_with_terms(source) for source in sources] if settings.faces else sources
    return _distinct([_with_plain_names(source) for source in sources])


def _find(settings: InputSettings) -> tuple[str, list[str]]:
    for name in ("path", "root"):
        if PASSWORD.search(getattr(settings, name)):
            raise SourceError(f"input.{name}: the URL holds a password; give it through the environment instead")
    try:
        return storage.find(settings.path)
    except FileNotFoundError as error:
        raise SourceError(f"input.path = {settings.path}: no such file or folder, and no file matches it") from error
    except OSError as error:
        raise SourceError(f"input.path = {settings.path}: cannot be listed ({str(error).splitlines()[0]})") from error


def _file(file: str, base: str, settings: InputSettings) -> Source:
    """A video or image by itself.

    With `group_by_folder` the stills of a folder are one subject: DreamBooth's layout, and kohya's, whose folders are
    called `<repeats>_<phrase>`. Repeats are ignored: a picture counts once, weighing it is the business of a training.
    """
    return _source(file, storage.relative(file, base), _kind(file, settings.group_by_folder), settings)


def _manifest(file: str, base: str, settings: InputSettings) -> list[Source]:
    """A source for every row of a manifest; files are relative to `input.root`, or else to the manifest's folder."""
    name = storage.relative(file, base)
    root = storage.join(".", settings.root) if settings.root else storage.folder(file)
    base = root if settings.root else base
    try:
        rows = enumerate(manifests.read(file), start=1)
        sources = [_row(row, f"{name}#{number}", root, base, settings) for number, row in rows]
    except ManifestError as error:
        raise SourceError(f"input.path = {settings.path}: {error}") from error
    if not sources:
        raise SourceError(f"input.path = {settings.path}: {file} has no row")
    return sources


def _row(row: Notes | None, name: str, root: str, base: str, settings: InputSettings) -> Source:
    """A row as a source, without a path where it cannot be one. Pictures with a group are views of one subject."""
    if row is None:
        return Source("", name, "image", status="quarantined", reason="bad_row")
    path = storage.join(root, row.file)
    kind = KINDS.get(row.kind.lower()) if row.kind else _kind(path, settings.group_by_folder)
    reason = _fault(row, kind)
    if reason:
        return _source("", name, kind, settings, row, status="rejected", reason=reason)
    kind = "multiview" if row.group and kind == "image" else kind
    return _source(path, storage.relative(path, base), kind, settings, row)


def _fault(row: Notes, kind: SourceKind | None) -> str:
    if not row.file:
        return "no_file"
    if PASSWORD.search(row.file):
        return "password_in_url"
    return "" if kind else "bad_kind" if row.kind else "unknown_suffix"


def _tar(file: str, base: str, settings: InputSettings) -> list[Source]:
    """The videos and images in an uncompressed tar (WebDataset), with what the .txt and .json of the same stem say.

    With `group_by_folder` the stills of a folder in the tars are one subject, even where it goes on in the next tar;
    those in no folder are by themselves. A damaged tar keeps the members before the damage and has a row of its own.
    """
    name, fault = storage.relative(file, base), ""
    sources: list[Source] = []
    beside: dict[str, dict[str, bytes]] = {}
    try:
        with storage.open_path(file) as tar:
            for member in _members(tar):
                inner = "/".join(part for part in member.name.split("/") if part not in ("", ".", ".."))
                ending = storage.suffix(inner).lower()
                if member.isdir():
                    continue
                if ending in MEDIA_SUFFIXES and not storage.is_hidden(inner):
                    sources.append(_member(member, file, f"{name}/{inner}", inner, settings))
                elif ending in (".txt", ".json") and member.isreg():
                    tar.seek(member.offset_data)
                    stem = storage.with_suffix(f"{name}/{inner}", "")
                    beside.setdefault(stem, {})[ending] = tar.read(member.size) if member.size <= NOTE_LIMIT else b""
    except tarfile.ReadError as error:
        fault = str(error)
    except OSError:
        fault = "unreadable"
    sources = [_with_notes(source, beside.get(storage.with_suffix(source.uri, ""), {})) for source in sources]
    damage = [Source(file, name, "image", status="quarantined", reason=fault)] if fault else []
    return sources + damage


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar, without reading what they describe.

    Raises:
        tarfile.ReadError: `not_a_tar`, or `truncated`: it is cut or damaged after the last header that was yielded.
    """
    size = file.seek(0, 2)
    file.seek(0)
    try:
        tar = tarfile.TarFile(fileobj=file)
    except tarfile.TarError as error:
        raise tarfile.ReadError("not_a_tar") from error
    try:
        while member := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header
            if member.size < 0 or member.offset_data + member.size > size:
                break
            yield member
            if tar.offset > size:
                break
    except (tarfile.TarError, ValueError) as error:
        raise tarfile.ReadError("truncated") from error
    if member is None:
        file.seek(tar.offset)  # tarfile ends quietly at a header that makes no sense
    if member or file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("truncated")


def _member(member: tarfile.TarInfo, file: str, uri: str, inner: str, settings: InputSettings) -> Source:
    folder = PurePosixPath(inner).parent.as_posix()
    kind = _kind(inner, settings.group_by_folder and folder != ".")
    group = folder if kind == "multiview" else ""
    if not member.isreg() or member.issparse():
        return _source(file, uri, kind, settings, status="rejected", reason="not_a_file")
    if not member.size:
        return _source(file, uri, kind, settings, status="rejected", reason="empty_file")
    where = {"offset": member.offset_data, "bytes": member.size}
    return _source(file, uri, kind, settings, Notes(group=group), **where)


def _with_notes(source: Source, beside: dict[str, bytes]) -> Source:
    """The source with the caption of its .txt, or else of its .json, and the .json's terms."""
    try:
        text = " ".join(beside.get(".txt", b"").decode("utf-8-sig").split())
    except UnicodeDecodeError:
        text = ""  # as beside a file: no caption
    try:
        told = manifests.notes(json.loads(beside.get(".json", b"{}")))
    except (ValueError, RecursionError, AttributeError):
        told = None
    if told is None:  # it may have said that the picture must not be used
        return dataclasses.replace(source, status="quarantined", reason="bad_metadata")
    page = told.file if storage.is_url(told.file) else None  # in a tar a URL tells where the member was found
    terms = {"licence": told.licence, "consent": told.consent, "provenance": told.provenance or page}
    known = {name: value for name, value in terms.items() if value is not None}
    return dataclasses.replace(source, caption=text or told.caption, **known)


def _source(
    path: str, uri: str, kind: SourceKind | None, settings: InputSettings, told: Notes = UNTOLD, **fields
) -> Source:
    """A source with the terms that are told of it, or else with those of the settings."""
    terms = {
        name: getattr(settings, name) if getattr(told, name) is None else getattr(told, name)
        for name in ("licence", "consent", "provenance")
    }
    return Source(path, uri, kind or "image", caption=told.caption, group=told.group, **terms, **fields)


def _with_terms(source: Source) -> Source:
    """The source, rejected where nobody says on what ground a face may be used."""
    missing = "no_licence" if not source.licence else "no_consent" if not source.consent else ""
    if source.status == "accepted" and missing:
        return dataclasses.replace(source, status="rejected", reason=missing)
    return source


def _with_plain_names(source: Source) -> Source:
    """The source with names that can be written as UTF-8; a file whose path cannot be is quarantined."""
    path, uri, group = (
        name.encode("utf-8", "backslashreplace").decode() for name in (source.path, source.uri, source.group)
    )
    if path != source.path:
        return dataclasses.replace(source, path=path, uri=uri, group=group, status="quarantined", reason="bad_name")
    return source if (uri, group) == (source.uri, source.group) else dataclasses.replace(source, uri=uri, group=group)


def _distinct(sources: Sequence[Source]) -> list[Source]:
    """Sorted by uri; of several with one uri the first stays, the others are rejected under names of their own."""
    result: list[Source] = []
    seen: dict[str, int] = {}
    for source in sorted(sources, key=lambda source: source.uri):
        count = seen[source.uri] = seen.get(source.uri, 0) + 1
        if count > 1:
            verdict = {"status": "rejected", "reason": "duplicate"} if source.status == "accepted" else {}
            source = dataclasses.replace(source, uri=f"{source.uri}#{count}", **verdict)
        result.append(source)
    return sorted(result, key=lambda source: source.uri)


def _kind(path: str, grouped: bool) -> SourceKind | None:
    ending = storage.suffix(path).lower()
    if ending in VIDEO_SUFFIXES:
        return "video"
    if ending in IMAGE_SUFFIXES:
        return "multiview" if grouped else "image"
    return None


def _nothing(path: str, files: Sequence[str]) -> str:
    known = "known are " + " ".join(sorted(MEDIA_SUFFIXES | {".tar"} | set(manifests.READERS)))
    if len(files) == 1 and storage.suffix(path) == storage.suffix(files[0]):
        return f"{storage.suffix(path) or 'no suffix'} is no video or image; {known}"
    return f"{len(files)} files, none a video or image; {known}"

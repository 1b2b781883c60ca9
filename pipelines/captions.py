"""Captions of frames: from files beside the source where there are any, else from a captioner, else from a phrase.

Beside `clips/a.mp4` may lie `clips/a.txt` (one caption for the whole source), or a `ground_truth.jsonl` or
`captions.jsonl` in the same folder or up to two above, with lines such as
`{"file": "a.mp4", "frame": 12, "caption": "a creature on a beach"}` (frame may be left out). In a bucket only the
`.txt` is looked for. Where no such file says anything, the words of the source's manifest or tar hold.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from flexip.images import Rgb
from flexip.rows import CaptionSource, SubjectRow
from pipelines import storage
from pipelines.records import Source
from pipelines.settings import CaptionSettings

TEXT_LIMIT = 1 << 20  # [bytes]: what is longer is no caption
NOT_THERE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
TABLES = ("captions.jsonl", "ground_truth.jsonl")


def caption(source: Source, frame_index: int, settings: CaptionSettings, found: str = "") -> tuple[str, CaptionSource]:
    """The caption and where it came from: `table`, `text`, `manifest` or `fallback`, which a captioner may replace.

    Args:
        found: what the detector calls the subject, if it knows.

    Raises:
        OSError: whether there is a caption beside the source cannot be told, because its storage does not answer.
    """
    if settings.side_files and source.offset < 0:  # a member of a tar has its side files in the tar
        path = storage.local_path(source.path)
        listed = _from_tables(path, frame_index) if path else ""
        if listed:
            return listed, "table"
        beside = storage.with_suffix(source.path, ".txt")
        text = _text(beside) if path else _text_in_bucket(beside)
        if text:
            return text, "text"
    if source.caption:
        return source.caption, "manifest"
    return settings.template.format(phrase=phrase(source, settings, found)), "fallback"


def described(
    rows: Sequence[SubjectRow], pictures: Mapping[str, Rgb], describe: Callable[[Sequence[Rgb]], list[str]]
) -> list[SubjectRow]:
    """The rows with a captioner's words for those whose picture is given by key; where it has none, nothing changes."""
    words = dict(zip(pictures, describe(list(pictures.values())), strict=True)) if pictures else {}
    return [
        dataclasses.replace(
            row, caption=words[row.key], caption_source="model", scores={**row.scores, "caption_fallback": 0.0}
        )
        if words.get(row.key)
        else row
        for row in rows
    ]


def phrase(source: Source, settings: CaptionSettings, found: str = "") -> str:
    """What the subject is, in words: a multi-view set or its folder is named after its subject, as in `10_red dog`.

    Else the detector's word for it, else the settings'.
    """
    name = PurePosixPath(source.group).name or PurePosixPath(source.uri).parent.name
    words = re.sub(r"[\W\d_]+", " ", name).strip().lower()
    return words if source.kind == "multiview" and words else found or settings.phrase


def _from_tables(path: Path, frame_index: int) -> str:
    for folder in path.parents[:3]:
        for name in TABLES:
            table = _table(folder / name)
            file = path.relative_to(folder).as_posix()
            found = table.get((file, frame_index)) or table.get((file, None))
            if found:
                return found
    return ""


def _text(path: str) -> str:
    try:
        data = storage.read_bytes(Source(path, path, "image"), TEXT_LIMIT)
        return " ".join(data.decode("utf-8-sig").split())
    except (*NOT_THERE, storage.TooLargeError, UnicodeDecodeError):
        return ""  # no caption, or none that can be read: the fallback is counted


_text_in_bucket = lru_cache(maxsize=64)(_text)  # all frames of a clip ask for the same one


@lru_cache(maxsize=8)  # a table serves thousands of frames of the same folder
def _table(path: Path) -> dict[tuple[str, int | None], str]:
    captions: dict[tuple[str, int | None], str] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                text = _plain_caption(entry)
                if text and isinstance(entry.get("file"), str):
                    captions[(entry["file"], entry.get("frame"))] = text
    except (OSError, ValueError, AttributeError):
        return captions  # what could be read before the damaged line
    return captions


def _plain_caption(entry: dict) -> str:
    """The caption without identity where the table has several: the reference says who, the text says what happens."""
    several = entry.get("captions")
    if isinstance(several, dict):
        return str(several.get("medium plain") or several.get("plain") or next(iter(several.values()), ""))
    return str(entry.get("caption") or "")

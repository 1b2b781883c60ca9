"""Captions of frames: from files beside the source where there are any, else from a phrase.

Beside `clips/a.mp4` may lie `clips/a.txt` (one caption for the whole source), or a `ground_truth.jsonl` or
`captions.jsonl` in the same folder or up to two above, with lines such as
`{"file": "a.mp4", "frame": 12, "caption": "a creature on a beach"}` (frame may be left out). In a bucket only the
`.txt` is looked for. Where no such file says anything, the words of the source's manifest or tar hold.
"""

import json
import re
from functools import lru_cache
from pathlib import Path, PurePosixPath

from pipelines import storage
from pipelines.records import Source
from pipelines.settings import CaptionSettings

TEXT_LIMIT = 1 << 20  # [bytes]: what is longer is no caption
NOT_THERE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
TABLES = ("captions.jsonl", "ground_truth.jsonl")


def caption(source: Source, frame_index: int, settings: CaptionSettings) -> tuple[str, str]:
    """The caption and where it came from: `table`, `text`, `manifest` or `fallback`.

    Raises:
        OSError: whether there is a caption beside the source cannot be told, because its storage does not answer.
    """
    if settings.side_files and source.offset < 0:  # a member of a tar has its side files in the tar
        path = storage.local_path(source.path)
        found = _from_tables(path, frame_index) if path else ""
        if found:
            return found, "table"
        beside = storage.with_suffix(source.path, ".txt")
        text = _text(beside) if path else _text_in_bucket(beside)
        if text:
            return text, "text"
    if source.caption:
        return source.caption, "manifest"
    return settings.template.format(phrase=phrase(source, settings)), "fallback"


def phrase(source: Source, settings: CaptionSettings) -> str:
    """What the subject is, in words: a multi-view set or its folder is named after its subject, as in `10_red dog`."""
    name = PurePosixPath(source.group).name or PurePosixPath(source.uri).parent.name
    words = re.sub(r"[\W\d_]+", " ", name).strip().lower()
    return words if source.kind == "multiview" and words else settings.phrase


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

"""Captions of frames: from files beside the source where there are any, else from a phrase.

Beside `clips/a.mp4` may lie `clips/a.txt` (one caption for the whole source), or a `ground_truth.jsonl` or
`captions.jsonl` in the same folder or up to two above, with lines such as
`{"file": "a.mp4", "frame": 12, "caption": "a creature on a beach"}` (frame may be left out).
"""

import json
import re
from functools import lru_cache
from pathlib import Path

from pipelines.records import Source
from pipelines.settings import CaptionSettings

TABLES = ("captions.jsonl", "ground_truth.jsonl")


def caption(source: Source, frame_index: int, settings: CaptionSettings) -> tuple[str, str]:
    """The caption and where it came from: `table`, `text` or `fallback`."""
    path = Path(source.path)
    for folder in path.parents[:3]:
        for name in TABLES:
            table = _table(folder / name)
            file = path.relative_to(folder).as_posix()
            found = table.get((file, frame_index)) or table.get((file, None))
            if found:
                return found, "table"
    text = _text(path.with_suffix(".txt"))
    return (text, "text") if text else (settings.template.format(phrase=phrase(source, settings)), "fallback")


def phrase(source: Source, settings: CaptionSettings) -> str:
    """What the subject is, in words: a multi-view folder is named after its subject."""
    folder = Path(source.uri).parent.name
    words = re.sub(r"[\W\d_]+", " ", folder).strip().lower()
    return words if source.kind == "multiview" and words else settings.phrase


def _text(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        return ""  # no caption, or none that can be read: the fallback is counted


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

"""Small real inputs in every layout that curation reads: folders, manifests, tars."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flexip.images import encode_png
from pipelines.listing import list_sources
from pipelines.records import Source
from pipelines.settings import InputSettings

NAMES = ("a.png", "b/ü 名.png", "b/c.png")


TEXTS = {name: f"picture {number}, näher" for number, name in enumerate(NAMES)}


def listed(path, **options) -> list[Source]:
    return list_sources(InputSettings(path=str(path), **options))


def verdicts(sources) -> list[tuple[str, str, str]]:
    return [(s.uri, s.status, s.reason) for s in sources]


def picture(number: int) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 255, (16, 24, 3), np.uint8))


PICTURES = {name: picture(number) for number, name in enumerate(NAMES)}


def write_jsonl(path: Path, rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def with_texts(members: dict[str, bytes]) -> dict[str, bytes]:
    texts = {name.replace(".png", ".txt"): text.encode() for name, text in TEXTS.items()}
    return dict(sorted({**members, **texts}.items()))


def make_inputs(folder: Path, bucket) -> dict[str, str]:
    """The same pictures and captions in every layout: its path by name."""
    for name, data in with_texts(PICTURES).items():
        (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "files" / name).write_bytes(data)
        bucket.put(f"files/{name}", data)
    (folder / "bare").mkdir()  # without captions beside the pictures: only the manifests have them
    for name, data in PICTURES.items():
        (folder / "bare" / name).parent.mkdir(exist_ok=True)
        (folder / "bare" / name).write_bytes(data)
    rows = [{"image_file": name, "text": text, "score": 3} for name, text in TEXTS.items()]
    write_jsonl(folder / "bare" / "rows.jsonl", rows)
    (folder / "bare" / "rows.json").write_text(json.dumps(rows))
    write_csv(folder / "bare" / "rows.csv", rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "bare" / "rows.parquet")
    urls = [{"url": f"{bucket.url}/files/{name}", "caption": "older words"} for name in NAMES]
    shard = write_tar(folder / "shard.tar", with_texts(PICTURES))
    return {
        "folder": str(folder / "files"),
        "glob": str(folder / "files" / "**" / "*.png"),
        **{kind: str(folder / "bare" / f"rows.{kind}") for kind in ("jsonl", "json", "csv", "parquet")},
        "tar": str(shard),
        "bucket": f"{bucket.url}/files",
        "manifest in bucket": bucket.put("bare/rows.jsonl", write_jsonl(folder / "u.jsonl", urls).read_bytes()),
        "tar in bucket": bucket.put("shard.tar", shard.read_bytes()),
    }


BAD_ROWS = [
    ({"file": "a.png"}, "accepted", ""),
    ({"file": ""}, "rejected", "no_file"),
    ({"caption": "words alone"}, "rejected", "no_file"),
    ({"file": 7.5}, "rejected", "unknown_suffix"),
    ({"file": {"bytes": "x"}}, "rejected", "no_file"),
    ({"file": "notes.txt"}, "rejected", "unknown_suffix"),
    ({"file": "b.png", "kind": "sculpture"}, "rejected", "bad_kind"),
    ({"file": "https://user:word@host/c.png"}, "rejected", "password_in_url"),
    ({"file": "a.png", "caption": "again"}, "rejected", "duplicate"),
    ("{", "quarantined", "bad_row"),
    ('["a.png"]', "quarantined", "bad_row"),
    ('{"file": "\\ud800.png"}', "quarantined", "bad_row"),
    ({"file": "https://host/photo?id=3", "kind": "Image"}, "accepted", ""),
    ({"file": "gone.mp4"}, "accepted", ""),
]

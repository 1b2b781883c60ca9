"""A dataset's pairs in the formats that other trainings read, each of which curation reads too.

    webdataset   <split>-000000.tar: <id>.png target, <id>.reference.png, <id>.txt caption, <id>.json the rest
    uno          images/ and <split>.json: [{"image_paths": [reference], "image_tgt_path": target, "prompt": caption}]
    ip-adapter   images/ and <split>.json: [{"image_file": target, "text": caption}]
    kohya        1_<identity cluster>/<id>.png and .txt

The last two know single pictures: the target of each pair, once. Licence, consent and provenance go along wherever a
format has a place for them, which kohya's folders have not.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from flexip.rows import PairRow, Split
from pipelines.shards import DatasetError, PairDataset

Format = Literal["webdataset", "uno", "ip-adapter", "kohya"]

ROWS_AT_ONCE = 64
TAR_ROWS = 1000  # pairs in one tar


def export(dataset: PairDataset, to: Format, output: Path, split: Split) -> int:
    """Write a split's pairs to a new folder; returns how many entries it has.

    Raises:
        DatasetError: a folder that is there already, or a split without pairs.
    """
    if output.exists():
        raise DatasetError(f"{output}: is there already; give another name")
    if not any(dataset.size(name, split) for name in dataset.names):
        raise DatasetError(
            f"{dataset.root}: its split {split} has no pairs; the manifest says {dataset.manifest.sizes}"
        )
    partial = output.with_name(f"{output.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    written = _WRITERS[to](_pairs(dataset, split), partial, split)
    partial.rename(output)
    return written


def _pairs(dataset: PairDataset, split: Split) -> Iterator[PairRow]:
    for name in dataset.names:
        size = dataset.size(name, split)
        for start in range(0, size, ROWS_AT_ONCE):
            yield from dataset.read_pairs(name, split, range(start, min(start + ROWS_AT_ONCE, size)))


def _webdataset(pairs: Iterable[PairRow], folder: Path, split: Split) -> int:
    tar, count = None, 0
    for count, pair in enumerate(pairs, start=1):
        if tar is None or count % TAR_ROWS == 1:
            _close(tar)
            tar = tarfile.open(folder / f"{split}-{(count - 1) // TAR_ROWS:06d}.tar", "w")  # noqa: SIM115 - closed below
        told = _terms(pair) | {"dataset": pair.dataset, "cluster": pair.cluster, "source": pair.source}
        members = {"png": pair.target, "reference.png": pair.reference, "txt": pair.caption.encode()}
        for ending, content in (members | {"json": json.dumps(told).encode()}).items():
            info = tarfile.TarInfo(f"{pair.pair_id}.{ending}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    _close(tar)
    return count


def _close(tar: tarfile.TarFile | None) -> None:
    if tar is not None:
        tar.close()


def _uno(pairs: Iterable[PairRow], folder: Path, split: Split) -> int:
    def row(pair: PairRow) -> dict[str, Any]:
        reference = _picture(folder, pair.reference_key, "reference", pair.reference)
        target = _picture(folder, pair.target_key, "target", pair.target)
        return {"image_paths": [reference], "image_tgt_path": target, "prompt": pair.caption} | _terms(pair)

    return _write_json(folder / f"{split}.json", [row(pair) for pair in pairs])


def _ip_adapter(pairs: Iterable[PairRow], folder: Path, split: Split) -> int:
    rows = [
        {"image_file": _picture(folder, pair.target_key, "target", pair.target), "text": pair.caption} | _terms(pair)
        for pair in _targets(pairs)
    ]
    return _write_json(folder / f"{split}.json", rows)


def _kohya(pairs: Iterable[PairRow], folder: Path, split: Split) -> int:
    count = 0
    for pair in _targets(pairs):
        subject = folder / f"1_{pair.cluster}"
        subject.mkdir(exist_ok=True)
        (subject / f"{pair.target_key}.png").write_bytes(pair.target)
        (subject / f"{pair.target_key}.txt").write_text(pair.caption + "\n", encoding="utf-8")
        count += 1
    return count


def _targets(pairs: Iterable[PairRow]) -> Iterator[PairRow]:
    """The first pair of each target."""
    seen: set[str] = set()
    for pair in pairs:
        if pair.target_key not in seen:
            seen.add(pair.target_key)
            yield pair


def _picture(folder: Path, key: str, role: str, content: bytes) -> str:
    """Writes it once; returns its name relative to the folder."""
    path = folder / "images" / f"{key}-{role}.png"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_bytes(content)
    return path.relative_to(folder).as_posix()


def _terms(pair: PairRow) -> dict[str, str]:
    """On what ground the picture may be used; what is not told is left out."""
    told = {"licence": pair.licence, "consent": pair.consent, "provenance": pair.provenance}
    return {name: value for name, value in told.items() if value}


def _write_json(path: Path, rows: list[dict[str, Any]]) -> int:
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(rows)


_WRITERS: dict[Format, Callable[[Iterable[PairRow], Path, Split], int]] = {
    "webdataset": _webdataset,
    "uno": _uno,
    "ip-adapter": _ip_adapter,
    "kohya": _kohya,
}

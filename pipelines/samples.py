"""What a report shows of a dataset: pictures chosen by hash, and distributions of what was measured."""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from flexip.images import Rgb, decode_image, encode_jpeg, pad_square, resize
from flexip.rows import DATASETS, DatasetName
from pipelines.records import chance
from pipelines.shards import read_part

TILE = 112  # side of a picture [px]: some 5 kB, so that 300 of them stay below 2 MB
PER_REASON = 8  # pictures of what one reason rejected
REASONS_SHOWN = 30  # with pictures or names
MOST_PARTS = 200  # files that are read for distributions; which ones is drawn by hash
_LIGHT = ["key", "source", "unit", "status", "reason", "kind", "licence", "consent", "frame_index", "scores", "box"]
_FRAME = (232, 72, 40)  # colour of a box


@dataclass(frozen=True)
class Tile:
    """One picture, or only words where there is none."""

    picture: str  # data URI
    title: str
    note: str = ""


@dataclass(frozen=True)
class PairTile:
    """Reference and target of a pair as data URIs, and what is said of them."""

    reference: str
    target: str
    caption: str
    note: str


@dataclass
class Samples:
    """Everything that is read from the rows. Exact when all parts were read, else of a sample."""

    parts: int = 0
    parts_read: int = 0
    values: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)  # measure -> (value, accepted)
    licences: Counter[str] = field(default_factory=Counter)  # of accepted sources
    consents: Counter[str] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)  # of accepted subjects: `fallback` or `told`
    tiles: dict[tuple[str, str, str], list[Tile]] = field(default_factory=dict)  # (unit, status, reason)
    timed: set[str] = field(default_factory=set)  # videos whose length was taken


def read_samples(dataset: Path, seed: int) -> Samples:
    """Reads the subject rows of a dataset's folder, of at most MOST_PARTS files."""
    parts = sorted(dataset.glob("subjects/*.parquet"))
    chosen = sorted(sorted(parts, key=lambda part: chance(seed, "part", part.name))[:MOST_PARTS])
    samples = Samples(len(parts), len(chosen))
    ranked: dict[tuple[str, str, str], list[tuple[float, Path, int, dict[str, Any]]]] = {}
    for part in chosen:
        rows = read_part(part, _LIGHT).to_pylist()
        for place, row in enumerate(rows):
            row["scores"] = dict(row["scores"])
            _tally(samples, row)
            if row["status"] != "accepted":
                held = ranked.setdefault((row["unit"], row["status"], row["reason"]), [])
                held.append((chance(seed, "reject", row["key"]), part, place, row))
                held.sort(key=lambda found: found[0])
                del held[PER_REASON:]
    for key in sorted(ranked, key=lambda key: (key[0], key[1], key[2]))[:REASONS_SHOWN]:
        samples.tiles[key] = [_tile(part, place, row) for _, part, place, row in ranked[key]]
    return samples


def read_pairs(dataset: Path, seed: int, number: int) -> dict[DatasetName, list[PairTile]]:
    """Some pairs of each dataset, of as many identity clusters as there are."""
    return {name: [pair_tile(row) for row in choose_pairs(dataset, name, seed, number)] for name in DATASETS}


def pair_measures(dataset: Path, seed: int) -> dict[str, list[tuple[float, bool]]]:
    """Similarities and time gaps of variant pairs, of at most MOST_PARTS files."""
    parts = sorted((dataset / "variant" / "pairs").glob("*.parquet"), key=lambda p: chance(seed, "part", p.name))
    names = ("identity_similarity", "pixel_similarity", "time_gap")
    values: dict[str, list[tuple[float, bool]]] = {name: [] for name in names}
    for part in parts[:MOST_PARTS]:
        table = read_part(part, list(names))
        for name in names:
            values[name] += [(value, True) for value in table[name].to_pylist()]
    return values


def choose_pairs(output: Path, dataset: str, seed: int, number: int) -> list[dict[str, Any]]:
    """Rows to show: clusters in turn, so that each is seen before one is seen twice."""
    light = [
        (part, i, row)
        for part in sorted((output / dataset / "pairs").glob("part-*.parquet"))
        for i, row in enumerate(read_part(part, ["pair_id", "cluster"]).to_pylist())
    ]
    light.sort(key=lambda found: chance(seed, "sheet", found[2]["pair_id"]))
    turns: dict[str, int] = {}
    ranked = []
    for part, i, row in light:
        turns[row["cluster"]] = turns.get(row["cluster"], 0) + 1
        ranked.append((turns[row["cluster"]], part, i))
    ranked.sort(key=lambda found: found[0])
    return [read_part(part).slice(i, 1).to_pylist()[0] for _, part, i in ranked[:number]]


def pair_tile(row: Mapping[str, Any]) -> PairTile:
    """A row of pairs as it is shown."""
    apart = f"{row['time_gap']:.1f} s apart, " if row["time_gap"] else ""
    identity = f"identity {row['identity_similarity']:.2f}, " if row["dataset"] == "variant" else ""
    note = f"{row['split']}: {apart}{identity}pixels {row['pixel_similarity']:.2f}"
    reference, target = (data_uri(decode_image(row[name], min_side=1)) for name in ("reference", "target"))
    return PairTile(reference, target, row["caption"], note)


def data_uri(image: Rgb) -> str:
    """A small JPEG of the picture, square, as a data URI."""
    square = resize(pad_square(image, fill=236), (TILE, TILE))
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(square, 80)).decode()


def _tally(samples: Samples, row: Mapping[str, Any]) -> None:
    kept, scores = row["status"] == "accepted", row["scores"]
    if row["unit"] == "source" and kept:
        samples.licences[row["licence"]] += 1
        samples.consents[row["consent"]] += 1
    if row["unit"] == "subject" and kept:
        samples.captions["fallback" if scores.get("caption_fallback") else "told"] += 1
    wanted = {"frame": "sharpness", "subject": "area"}.get(row["unit"])
    if wanted and wanted in scores:
        samples.values.setdefault(wanted, []).append((scores[wanted], kept))
    if row["unit"] == "frame" and row["kind"] == "video" and row["source"] not in samples.timed:
        samples.timed.add(row["source"])
        samples.values.setdefault("duration", []).append((scores["duration"], True))


def _tile(part: Path, place: int, row: Mapping[str, Any]) -> Tile:
    title = Path(row["source"]).name or row["source"]
    if row["unit"] == "source":
        image = _frame_of(part, row["source"], None)
        return Tile(data_uri(image) if image is not None else "", title, row["source"])
    image = _frame_of(part, row["source"], row["frame_index"])
    note = f"frame {row['frame_index']}" if row["kind"] == "video" else ""
    if image is None:
        return Tile("", title, note)
    return Tile(data_uri(_boxed(image, row["box"]) if row["unit"] == "subject" else image), title, note)


def _frame_of(part: Path, source: str, index: int | None) -> Rgb | None:
    """The picture of a frame; of the source's first that has one where no index is given."""
    light = read_part(part, ["source", "unit", "frame_index"]).to_pylist()
    places = [
        place
        for place, row in enumerate(light)
        if row["unit"] == "frame" and row["source"] == source and index in (None, row["frame_index"])
    ]
    pictures = read_part(part, ["frame"])["frame"].take(places).to_pylist() if places else []
    return next((decode_image(picture, min_side=1) for picture in pictures if picture), None)


def _boxed(image: Rgb, box: Sequence[float]) -> Rgb:
    height, width = image.shape[:2]
    drawn = Image.fromarray(image)
    edges = [edge * side for edge, side in zip(box, (width, height, width, height), strict=True)]
    ImageDraw.Draw(drawn).rectangle(edges, outline=_FRAME, width=max(2, round(max(height, width) / 60)))
    return np.asarray(drawn)


def shares(counter: Mapping[str, int], most: int = 12) -> Iterable[tuple[str, int]]:
    """The most frequent, and the others as one."""
    ranked = sorted(counter.items(), key=lambda kv: (-kv[1], kv[0]))
    rest = sum(number for _, number in ranked[most:])
    return [*ranked[:most], *([("others", rest)] if rest else [])]

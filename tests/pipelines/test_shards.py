import hashlib
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from flexip.images import encode_png
from flexip.rows import PairRow
from pipelines import shards
from pipelines.records import StageCount, to_table
from pipelines.report import count_line, draw_sheet
from pipelines.shards import DatasetError, open_dataset, read_manifest, verify

ROWS, PER_FILE = 23, 10
SHAPES = {"clip": [5], "dino": [4, 300]}


def value(row: int, family: str) -> np.ndarray:
    return np.random.default_rng([row, len(family)]).normal(size=SHAPES[family]).astype(np.float16)


def pair(row: int) -> PairRow:
    split = "test" if row % 5 == 0 else "train"
    return PairRow(f"{row:04d}", "variant", split, "c", "a", "b", b"r", b"m", b"t", f"caption {row}", 0.5, 0.9, 0.8)


def write(root, rows=ROWS):
    entries = []
    for number, start in enumerate(range(0, rows, PER_FILE)):
        part, numbers = shards.part_name(number, "0"), range(start, min(start + PER_FILE, rows))
        pairs = [pair(row) for row in numbers]
        entries.append(shards.write_table(root, f"variant/pairs/{part}", to_table(pairs, PairRow)))
        for family in SHAPES:
            table = shards.feature_table(
                [p.pair_id for p in pairs], family, np.stack([value(n, family) for n in numbers])
            )
            entries.append(shards.write_table(root, f"{shards.feature_folder('variant', family, 'f0')}/{part}", table))
    sizes = {"variant": {"train": 18, "val": 0, "test": 5}, "invariant": dict.fromkeys(("train", "val", "test"), 0)}
    manifest = shards.Manifest(
        shards.SCHEMA_VERSION, {}, {}, dict.fromkeys(SHAPES, "f0"), SHAPES, "float16", {}, sizes, {}
    )
    shards.write_manifest(root, manifest, entries)
    return root


def test_random_rows_come_back_exactly_with_a_tiny_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_BYTES", 8 << 10)  # about three rows a group
    dataset = open_dataset(write(tmp_path), cache_bytes=20_000)
    train = [row for row in range(ROWS) if row % 5]
    assert (dataset.size("variant", "train"), dataset.size("variant", "test"), dataset.size("invariant", "train")) == (
        18,
        5,
        0,
    )
    rng = np.random.default_rng(0)
    for _ in range(5):
        asked = rng.integers(0, 18, 9).tolist()
        got = dataset.read("variant", "train", asked, ["clip", "dino"])
        assert got["caption"].tolist() == [f"caption {train[i]}" for i in asked]
        assert got["pair_id"].tolist() == [f"{train[i]:04d}" for i in asked]
        for family in SHAPES:
            assert got[family].dtype == np.float16
            np.testing.assert_array_equal(got[family], np.stack([value(train[i], family) for i in asked]))
    assert dataset._cache.held <= 20_000


def test_parts_have_exactly_their_rows_and_pairs_are_in_order(tmp_path):
    root = write(tmp_path)
    parts = sorted((root / "variant" / "pairs").glob("*.parquet"))
    assert [pq.read_metadata(part).num_rows for part in parts] == [10, 10, 3]
    table = open_dataset(root).pairs("variant", "test")
    assert table["pair_id"].to_pylist() == ["0000", "0005", "0010", "0015", "0020"]
    assert open_dataset(root).pairs("variant", "test", ["caption"]).column_names == ["caption"]
    folder = root / shards.feature_folder("variant", "dino", "f0")
    assert str(pq.read_schema(folder / "part-00000-0.parquet").field("dino").type).startswith("fixed_size_list")


def test_the_same_rows_give_the_same_bytes(tmp_path):
    first, second = (write(tmp_path / name) for name in "ab")
    digests = [
        {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}
        for root in (first, second)
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 10


def test_verify_names_the_changed_and_the_missing_file(tmp_path):
    root = write(tmp_path)
    assert len(verify(root).files) == 9
    victim = root / shards.feature_folder("variant", "clip", "f0") / "part-00001-0.parquet"
    good = victim.read_bytes()
    victim.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    with pytest.raises(DatasetError, match=r"clip-f0/part-00001-0\.parquet: changed"):
        verify(root)
    victim.unlink()
    with pytest.raises(DatasetError, match=r"clip-f0/part-00001-0\.parquet: missing"):
        verify(root)
    with pytest.raises(DatasetError, match="clip-f0"):
        open_dataset(root).read("variant", "train", list(range(18)), ["clip"])


def test_what_is_no_dataset_is_said_in_one_line(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset \(manifest.json is missing\)"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{not json")
    with pytest.raises(DatasetError, match="not a manifest"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema_version": 99}')
    with pytest.raises(DatasetError, match="schema version 99; this program reads version 2"):
        read_manifest(tmp_path)


def test_reading_a_dataset_imports_no_ray():
    code = "import sys, pipelines.shards; sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_counts_are_told_in_words():
    count = StageCount(3, {"blurred": 2, "too_small": 5}, {"truncated": 1})
    assert count_line(count) == "3 of 11 accepted; rejected: 5 too_small, 2 blurred; quarantined: 1 truncated"


def test_contact_sheet_shows_reference_and_target_of_both_sections():
    red, blue = (np.full((20, 20, 3), colour, np.uint8) for colour in ((250, 0, 0), (0, 0, 250)))
    row = {
        "reference": encode_png(red),
        "target": encode_png(blue),
        "caption": "a very long caption " * 20,
        "dataset": "variant",
        "split": "train",
        "time_gap": 1.0,
        "identity_similarity": 0.9,
        "pixel_similarity": 0.8,
    }
    sheet = draw_sheet([("invariant", [row] * 6, 60), ("variant", [row] * 2, 9)])
    reds, blues = ((sheet == colour).all(axis=2).sum() for colour in ((250, 0, 0), (0, 0, 250)))
    assert reds > 7.5 * 128 * 128
    assert blues > 7.5 * 128 * 128

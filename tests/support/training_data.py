"""A small dataset directory in the layout that curation writes, with random features of the pocket encoders' shapes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flexip.encoders import Encoders
from flexip.rows import DATASETS, PairRow, arrow_schema


def write_dataset(directory: Path, encoders: Encoders, train: int = 12, val: int = 2, seed: int = 0) -> Path:
    """`train` + `val` pairs in each of the two datasets; returns the directory."""
    rng = np.random.default_rng(seed)
    files = {}
    for name in DATASETS:
        pairs = [_pair(name, i, "train" if i < train else "val") for i in range(train + val)]
        table = pa.Table.from_pylist([vars(pair) for pair in pairs], schema=arrow_schema(PairRow))
        files |= _write(directory, f"{name}/pairs/part-00000.parquet", table)
        ids = pa.array([pair.pair_id for pair in pairs])
        for family, shape in encoders.shapes.items():
            values = pa.array(rng.normal(size=len(pairs) * int(np.prod(shape))).astype(np.float16))
            column = pa.FixedSizeListArray.from_arrays(values, int(np.prod(shape)))
            table = pa.table({"pair_id": ids, family: column})
            files |= _write(directory, f"{name}/{family}-{encoders.fingerprints[family]}/part-00000.parquet", table)
    manifest = {
        "schema_version": 1,
        "fingerprints": encoders.fingerprints,
        "shapes": {family: list(shape) for family, shape in encoders.shapes.items()},
        "files": files,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def _pair(dataset, index: int, split) -> PairRow:
    return PairRow(
        pair_id=f"{dataset}-{index}",
        dataset=dataset,
        split=split,
        cluster=f"cluster-{index}",
        reference_key=f"reference-{index}",
        target_key=f"target-{index}",
        reference=b"",
        reference_mask=b"",
        target=b"",
        caption="a creature",
        time_gap=0.0,
        identity_similarity=1.0,
        pixel_similarity=0.5,
    )


def _write(directory: Path, name: str, table: pa.Table) -> dict[str, dict]:
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {name: {"sha256": digest, "bytes": file.stat().st_size, "rows": table.num_rows}}

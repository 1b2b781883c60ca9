"""Shards of faces: written part by part, read row by row, counted, and told apart from datasets of pairs."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flexip.encoders import Encoders
from flexip.faces import FaceLibrary, open_faces
from flexip.images import decode_image
from flexip.rows import FaceRow
from pipelines import face_shards, shards, variface
from pipelines.backfill import plan_family
from pipelines.face_shards import FAMILIES, FaceSettings, open_faces_dataset, plan_parts
from pipelines.shards import FACES, DatasetError, FileEntry, open_dataset, verify

SETTINGS = FaceSettings(train=2, val=1, test=0, people_per_file=2)
CELLS = 4  # of everybody, in place of 35


@pytest.fixture(scope="module", autouse=True)
def few_cells() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variface, "EXPRESSIONS", variface.EXPRESSIONS[3:5])
        patch.setattr(variface, "POSES", [*variface.POSES][2:4])
        yield


@pytest.fixture(scope="module")
def library() -> FaceLibrary:
    return open_faces("pocket")


@pytest.fixture(scope="module")
def written(pocket_encoders, library, tmp_path_factory) -> tuple[Path, list[dict]]:
    """A dataset of three people in two parts, and the records of the parts."""
    root = tmp_path_factory.mktemp("faces")
    return root, write(root, pocket_encoders, library)


def write(root: Path, encoders: Encoders, library: FaceLibrary) -> list[dict]:
    records = [
        face_shards.write_part(part, SETTINGS, encoders, library, root / "dataset") for part in plan_parts(SETTINGS)
    ]
    info = face_shards.describe(encoders.names, gpu=False, threads=1)
    manifest = face_shards.make_manifest(SETTINGS, encoders.names, info, records)
    files = [FileEntry(**entry) for record in records for entry in record["files"]]
    shards.write_manifest(root / "dataset", manifest, files)
    return records


def test_everybody_has_rows_and_features_and_every_picture_is_counted(written, pocket_encoders):
    root, records = written
    manifest = verify(root / "dataset")
    dataset = open_faces_dataset(root / "dataset")
    count = manifest.counts["face"]
    assert count["accepted"] + sum(count["rejected"].values()) == count["inputs"] == 3 * CELLS
    assert count["accepted"] >= 2 * CELLS
    assert sum(dataset.size(FACES, split) for split in ("train", "val")) == count["accepted"]
    assert manifest.clusters == {"train": 2, "val": 1, "test": 0}
    people = dataset.people("train")
    assert sorted(row for rows in people.values() for row in rows) == [*range(dataset.size(FACES, "train"))]
    assert len(people) == 2
    assert dataset.people("test") == {}
    found = dataset.read(FACES, "train", [3, 0], FAMILIES)
    assert {name: found[name].shape[1:] for name in FAMILIES} == {n: tuple(s) for n, s in manifest.shapes.items()}
    (row,) = dataset.read_pairs(FACES, "train", [3])
    assert isinstance(row, FaceRow)
    assert found["key"][0] == row.key
    np.testing.assert_allclose(found["identity"][0], row.identity, atol=1e-3)
    hidden = pocket_encoders.encode_hidden([decode_image(row.crop)])[0].numpy()
    np.testing.assert_allclose(found["hidden"][0], hidden, atol=0.02, rtol=2e-3)
    assert sum(len(record["files"]) for record in records) == len(manifest.files)


def test_the_same_settings_give_the_same_files_and_others_are_refused(written, pocket_encoders, library, tmp_path):
    root, records = written
    (part, *_) = plan_parts(SETTINGS)
    assert face_shards.write_part(part, SETTINGS, pocket_encoders, library, tmp_path) == records[0]
    assert [part.people for part in plan_parts(SETTINGS)] == [[("train", 0), ("train", 1)], [("val", 0)]]
    info = face_shards.describe(pocket_encoders.names, gpu=False, threads=1)
    assert face_shards.finished(tmp_path, SETTINGS, info) is None
    found = face_shards.finished(root / "dataset", SETTINGS, json.loads(json.dumps(info)))
    assert found is not None
    with pytest.raises(DatasetError, match="holds a dataset of other settings"):
        face_shards.finished(root / "dataset", FaceSettings(train=3), info)


def test_faces_and_pairs_are_told_apart(written):
    root, _ = written
    with pytest.raises(DatasetError, match="holds faces, for DynamicID, and no pairs"):
        open_dataset(root / "dataset")
    with pytest.raises(DatasetError, match="of a dataset of faces no family is computed anew"):
        plan_family(verify(root / "dataset"), "clip")
    manifest = json.loads((root / "dataset" / "manifest.json").read_text())
    (root / "pairs").mkdir()
    (root / "pairs" / "manifest.json").write_text(json.dumps(manifest | {"sizes": {"invariant": {}}}))
    with pytest.raises(DatasetError, match="holds pairs and no faces"):
        open_faces_dataset(root / "pairs")


def test_not_one_face_is_an_error(pocket_encoders):
    nothing = {"count": {"accepted": 0, "rejected": {"no_face": 35}, "quarantined": {}}, "rows": {}, "people": {}}
    info = {"fingerprints": {}, "shapes": {}, "device": "", "tools": {}}
    with pytest.raises(DatasetError, match="not one picture of 35 was accepted"):
        face_shards.make_manifest(SETTINGS, pocket_encoders.names, info, [nothing])

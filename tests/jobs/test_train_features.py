"""Features that are read, and the same ones encoded again in the step."""

from pathlib import Path

import numpy as np
import pytest
from training_data import write_dataset, write_encoded_dataset
from training_job import job_of

from flexip.training import batch_rows
from jobs.console import UserError
from jobs.tracking import history, open_client
from jobs.training.assignment import Assignment, Place
from jobs.training.config import AdapterSizes, TrainConfig
from jobs.training.features import feature_source
from jobs.training.feeding import features_of
from jobs.training.setup import feature_shapes, load_matching_encoders
from jobs.training.worker import train
from pipelines.shards import open_dataset

SIZES = AdapterSizes(queries=2, cls_tokens=2, depth=1, heads=2, dim_head=16)


@pytest.fixture(scope="module")
def dataset(pocket_encoders, tmp_path_factory) -> Path:
    return write_encoded_dataset(tmp_path_factory.mktemp("dataset"), pocket_encoders, train=4, val=1)


def configuration(dataset: Path, output: Path, **changes) -> TrainConfig:
    settings = {"dataset": dataset, "output": output, "adapter": SIZES, "steps": 2, "batch_size": 4, "workers": 1}
    return TrainConfig(**(settings | changes))


@pytest.mark.parametrize("method", ["flexip", "ip-adapter-plus"])
def test_online_features_are_those_of_the_dataset(dataset, pocket_encoders, tmp_path, method):
    data = open_dataset(dataset)
    rows = batch_rows(0, 1, 4, {"invariant": 4, "variant": 4}, {"invariant": 1.0, "variant": 1.0})
    cached, online = (
        features_of(feature_source(config, data, pocket_encoders.names, "cpu"), rows)
        for config in (
            configuration(dataset, tmp_path, adapter=AdapterSizes(method=method), features=features)
            for features in ("cached", "online")
        )
    )
    assert online.keys() == cached.keys()
    for family, expected in cached.items():
        assert online[family].dtype == expected.dtype
        np.testing.assert_allclose(online[family].astype(float), expected.astype(float), rtol=2e-3, atol=2e-3)
        assert len({row.tobytes() for row in expected}) > 1  # rows that are mixed up would show


def losses(job: Assignment) -> list[float]:
    return [value for _, value in history(open_client(job.tracking_uri), job.run_id, "loss")]


def test_an_online_training_follows_the_cached_one(dataset, pocket_encoders, tmp_path):
    jobs = []
    for features in ("cached", "online"):
        jobs.append(job_of(configuration(dataset, tmp_path, name=features, features=features), pocket_encoders))
        train(jobs[-1], Place(0, 1, "cpu"))
    cached, online = (losses(job) for job in jobs)
    assert len(online) == 2
    assert online == pytest.approx(cached, rel=1e-2)


def test_online_asks_nothing_of_the_features_on_disk(dataset, pocket_encoders, tmp_path):
    data = open_dataset(dataset)
    data.manifest.fingerprints["dino"] = "0" * 16
    with pytest.raises(UserError, match="its dino features come from encoder 0000000000000000"):
        load_matching_encoders(configuration(dataset, tmp_path), data)
    del data.manifest.shapes["dino"]
    online = configuration(dataset, tmp_path, features="online")
    assert feature_shapes(online, data) == pocket_encoders.shapes
    assert load_matching_encoders(online, data).fingerprints == pocket_encoders.fingerprints


def test_pictures_count_in_the_bound_of_what_is_kept_in_memory(pocket_encoders, tmp_path):
    root = write_dataset(tmp_path, pocket_encoders, train=2, val=0, reference=bytes(100_000))
    data = open_dataset(root, cache_bytes=50_000)
    pairs = data.read_pairs("variant", "train", [1, 0])
    assert [pair.pair_id for pair in pairs] == ["variant-0001", "variant-0000"]
    assert all(len(pair.reference) == 100_000 for pair in pairs)
    assert data._cache.held < 100_000

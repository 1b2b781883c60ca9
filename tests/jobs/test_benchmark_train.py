"""The benchmark of training runs from end to end; what it measures is not looked at, for machines differ."""

import re

import pytest
from training_data import write_encoded_dataset

from benchmarks.flops import flops_of
from benchmarks.train import BenchmarkConfig, run
from jobs.training.config import AdapterSizes

KNOWN = 334.6 + 162.0 + 13.3 + 1116.7  # GFLOPs of CLIP-H, DINOv2-L, CLIP's text tower and the VAE at 512 px


def test_every_line_of_the_report_is_measured(pocket_encoders, tmp_path):
    config = BenchmarkConfig(
        dataset=write_encoded_dataset(tmp_path / "dataset", pocket_encoders, train=2, val=0),
        adapter=AdapterSizes(queries=2, cls_tokens=2, depth=1, heads=2, dim_head=16),
        batch_size=2,
        workers=1,
        rounds=1,
        stretch=1,
    )
    said = "\n".join(run(config))
    for words in (
        "samples/s",
        "against encoders in the step",
        "IP-Adapter's loop",
        "checkpoint: stalls",
        "scaling: not",
    ):
        assert words in said
    assert "nan" not in said
    found = re.search(r"full size, 512 px: ([\d.]+) GFLOP to train a row, ([\d.]+) to encode it", said)
    assert found
    assert float(found[2]) == pytest.approx(KNOWN, rel=1e-3)
    assert float(found[1]) == pytest.approx(1669.3, rel=0.05)  # counted once with 16 + 16 tokens
    assert set(flops_of(pocket_encoders)) == {"clip", "dino", "text", "vae"}

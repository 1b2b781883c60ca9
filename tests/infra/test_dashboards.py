"""Dashboards plot what is measured: by the service, as its own code says, and by Ray, as its own dashboards do."""

import json
import re
from pathlib import Path

import pytest
import ray
from manifests import metrics_of
from prometheus_client.parser import text_string_to_metric_families
from service import Blind, Easel

from flexip.references import ReferenceCache
from jobs.serving.batching import Batcher
from jobs.serving.metrics import Counted, Meters

MONITORING = Path(__file__).parents[2] / "infra" / "base" / "monitoring"


@pytest.fixture(scope="module")
def measured() -> set[str]:
    """Names of all that the service and Ray export."""
    references = ReferenceCache(Blind(), max_bytes=0)
    batcher = Batcher(lambda: Easel(references, [], 0.0), max_rows=1, max_waiting=1)
    counted = {sample.name for family in Counted(batcher, references).collect() for sample in family.samples}
    meters = Meters()
    meters.observe("draw", 1.0)
    timed = text_string_to_metric_families(meters.text().decode())
    panels = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    plotted = "\n".join(path.read_text() for path in panels.glob("*panels.py"))
    return (
        counted
        | {sample.name for family in timed for sample in family.samples}
        | set(re.findall(r"\b(ray_\w+)\{\{", plotted))
    )


@pytest.mark.parametrize("name", ["curation", "training", "serving"])
def test_a_dashboard_names_only_metrics_that_exist(name, measured):
    board = json.loads((MONITORING / f"{name}.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    named = set().union(*map(metrics_of, expressions))
    assert len(expressions) > 6
    assert named, expressions
    assert named <= measured


def test_the_serving_dashboard_shows_everything_that_the_service_counts(measured):
    board = (MONITORING / "serving.json").read_text()
    parts = ("_sum", "_count", "_created")  # of a histogram whose buckets are shown
    counted = {name for name in measured if name.startswith("flexip_") and not name.endswith(parts)}
    assert {name for name in counted if name not in board} == set()


def test_metrics_are_told_from_labels_and_functions():
    expression = 'sum by (ray_io_cluster) (rate(flexip_images_total{a_b="c_d"}[5m])) / last_over_time(x_y[1m])'
    assert metrics_of(expression) == {"flexip_images_total", "x_y"}

"""Numbers for Prometheus: those that the batcher and the cache count anyway, and the time that each stage takes.

Every series has the label `process`, since each replica answers /metrics for itself.
"""

import os
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from flexip.references import ReferenceCache
from jobs.serving.batching import Batcher

STAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)  # upper edges of the buckets [s]


class Meters:
    """The time of each stage: decode (pictures of a request), wait (in the queue), draw, encode (the image file)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._stages = Histogram(
            "flexip_stage_seconds",
            "Time that a stage took",
            ["stage", "process"],
            buckets=STAGES,
            registry=self.registry,
        )

    def observe(self, stage: str, seconds: float) -> None:
        """One passage through a stage."""
        self._stages.labels(stage, str(os.getpid())).observe(seconds)

    def time(self, stage: str):
        """A context manager that observes how long its block takes."""
        return self._stages.labels(stage, str(os.getpid())).time()

    def text(self) -> bytes:
        """Prometheus' exposition format."""
        return generate_latest(self.registry)


class Counted(Collector):
    """What a batcher and its cache have counted, at the moment somebody asks."""

    def __init__(self, batcher: Batcher, references: ReferenceCache):
        self._batcher, self._references = batcher, references

    def collect(self) -> Iterable[Metric]:
        """The metrics; steps/s is rate(flexip_unet_calls_total), the batch's fill calls x rows against the limit."""
        batcher, counters, references = self._batcher, self._batcher.counters, self._references
        yield _gauge("queue_rows", "Images that wait", batcher.waiting)
        yield _gauge("running_rows", "Images that are being drawn", batcher.running)
        yield _gauge("batch_rows_limit", "Most images of one UNet call", batcher.max_rows)
        yield _gauge("reference_cache_bytes", "Size of the features that are kept", references.bytes)
        yield _counter("unet_calls", "UNet calls: in each step one for each size of pictures", counters.calls)
        yield _counter("unet_rows", "Images in all UNet calls together", counters.drawn)
        yield _counter("images", "Images drawn", counters.images)
        yield _counter("failed", "Images that could not be drawn", counters.failed)
        yield _counter("refused", "Requests answered with 429 because of the queue", counters.refused)
        yield _counter("abandoned", "Images given up in the middle", counters.abandoned)
        yield _counter("references_encoded", "References that the encoders ran for", references.encoded)
        yield _counter("reference_hits", "References whose features were kept", references.hits)


def _gauge(name: str, meaning: str, value: float) -> Metric:
    family = GaugeMetricFamily(f"flexip_{name}", meaning, labels=["process"])
    family.add_metric([str(os.getpid())], value)
    return family


def _counter(name: str, meaning: str, value: float) -> Metric:
    family = CounterMetricFamily(f"flexip_{name}", meaning, labels=["process"])
    family.add_metric([str(os.getpid())], value)
    return family

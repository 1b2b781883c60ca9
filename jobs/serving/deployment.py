"""The Ray Serve deployment: one replica is one engine, its batcher and the HTTP application in front of it."""

import functools
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.deployment import Application

from flexip.checkpoint import load_checkpoint
from flexip.images import Rgb
from flexip.references import ReferenceCache
from flexip.request import Request
from flexip.sampler import Drawing
from jobs.serving.app import build_app
from jobs.serving.batching import Batcher
from jobs.serving.requests import LimitsConfig, Served

SECONDS_TO_RETRY = 2.0  # told by Serve's own guard, which knows nothing of the replica's speed
REFUSED_AT_ONCE = 500  # requests beyond the queue that the replica itself still refuses
CONSTRUCTOR_TRIES = 2  # a checkpoint that does not load will not load the twentieth time either


@dataclass(frozen=True)
class Capacity:
    """What one replica takes on."""

    batch_rows: int  # most images in one UNet call
    queue_rows: int  # most images that wait
    cache_mb: float  # features of references that are kept [MB]


class ImageService:
    """Loads a checkpoint and answers for it. Serve asks `__serve_build_asgi_app__` for the application."""

    def __init__(self, checkpoint: Path, name: str, limits: LimitsConfig, capacity: Capacity):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        engine = load_checkpoint(checkpoint, device)
        self._references = ReferenceCache(engine.encoders, int(capacity.cache_mb * 1e6))
        engine = replace(engine, references=self._references)
        self._served = Served(name, engine.encoders.resolution, limits, engine.calibration)
        self._batcher: Batcher[Request, Rgb] = Batcher(
            functools.partial(Drawing, engine), max_rows=capacity.batch_rows, max_waiting=capacity.queue_rows
        )
        logging.getLogger("ray.serve").info("checkpoint %s is loaded on %s", engine.digest[:16], device)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self._batcher, self._served, self._references)

    def check_health(self) -> None:
        """Called by Serve every few seconds; an error has the replica replaced."""
        self._batcher.check()


def application(
    checkpoint: Path,
    *,
    name: str,
    limits: LimitsConfig,
    capacity: Capacity,
    replicas: int,
    cpus: float,
    gpus: float,
) -> Application:
    """The Serve application of one checkpoint.

    The replica's own queue refuses first, with a computed Retry-After and OpenAI's error shape; Serve's limits stand
    far behind it, so that a flood of requests does not even reach the replica.
    """
    at_once = capacity.batch_rows + capacity.queue_rows + REFUSED_AT_ONCE
    deployment = serve.deployment(
        serve.ingress()(ImageService),
        name="images",
        num_replicas=replicas,
        max_ongoing_requests=at_once,
        max_queued_requests=at_once,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=SECONDS_TO_RETRY),
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        max_constructor_retry_count=CONSTRUCTOR_TRIES,
        graceful_shutdown_timeout_s=10,
        health_check_period_s=5,
    )
    return deployment.bind(checkpoint.resolve(), name, limits, capacity)

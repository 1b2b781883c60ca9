"""The Ray Serve deployment: one replica is one engine, its batcher and the HTTP application in front of it."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.deployment import Application
from ray.serve.schema import LoggingConfig

from flexip.checkpoint import load_checkpoint
from flexip.references import ReferenceCache
from flexip.sampler import Drawing
from jobs.serving.access import AccessConfig
from jobs.serving.app import Service, build_app
from jobs.serving.batching import Batcher
from jobs.serving.logs import LOGGER
from jobs.serving.metrics import Meters
from jobs.serving.requests import LimitsConfig, Served
from jobs.serving.subjects import SubjectsConfig, SubjectStore

SECONDS_TO_RETRY = 2.0  # told by Serve's own guard, which knows nothing of the replica's speed
REFUSED_AT_ONCE = 500  # requests beyond the queue that the replica itself still refuses
SECONDS_TO_SWEEP = 5  # between two looks at a replica's health, and at the subjects that it must forget
CONSTRUCTOR_TRIES = 2  # a checkpoint that does not load will not load the twentieth time either


@dataclass(frozen=True)
class Capacity:
    """What one replica takes on."""

    batch_rows: int  # most images in one UNet call
    queue_rows: int  # most images that wait
    cache_mb: float  # features of references that are kept [MB]


@dataclass(frozen=True)
class Settings:
    """What the service says and allows."""

    name: str
    limits: LimitsConfig
    access: AccessConfig
    subjects: SubjectsConfig


class ImageService:
    """Loads a checkpoint and answers for it. Serve asks `__serve_build_asgi_app__` for the application."""

    def __init__(self, checkpoint: Path, settings: Settings, capacity: Capacity):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        engine = load_checkpoint(checkpoint, device)
        references = ReferenceCache(engine.encoders, int(capacity.cache_mb * 1e6))
        engine, meters, kept = replace(engine, references=references), Meters(), settings.subjects
        assert kept.folder is not None  # jobs.serve made one
        self._service = Service(
            batcher=Batcher(
                functools.partial(Drawing, engine),
                max_rows=capacity.batch_rows,
                max_waiting=capacity.queue_rows,
                observe=meters.observe,
            ),
            served=Served(
                settings.name, engine.encoders.resolution, settings.limits, engine.calibration, engine.digest
            ),
            references=references,
            store=SubjectStore(kept.folder, kept.hours * 3600, kept.most, references.forget),
            access=settings.access,
            meters=meters,
        )
        LOGGER.info("checkpoint %s is loaded on %s", engine.digest[:16], device)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self._service)

    def check_health(self) -> None:
        """Called by Serve every few seconds; an error has the replica replaced. Forgets subjects deleted elsewhere."""
        self._service.batcher.check()
        self._service.store.sweep()


def application(
    checkpoint: Path,
    *,
    settings: Settings,
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
        health_check_period_s=SECONDS_TO_SWEEP,
        logging_config=LoggingConfig(enable_access_log=False),  # it would have the paths, and with them subjects' ids
    )
    return deployment.bind(checkpoint.resolve(), settings, capacity)

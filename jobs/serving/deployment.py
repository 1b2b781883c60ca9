"""The Ray Serve deployment: one replica is one engine, its batcher and the HTTP application in front of it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import Field
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.deployment import Application
from ray.serve.schema import LoggingConfig

from flexip.engine import Engine
from flexip.sampler import Drawing
from jobs.config import Section
from jobs.serving.access import AccessConfig
from jobs.serving.app import Service, build_app
from jobs.serving.batching import Batcher
from jobs.serving.hooks import HooksConfig, load_hooks
from jobs.serving.metrics import Meters
from jobs.serving.models import PeopleConfig, Registry, RegistryConfig, follow, load_models
from jobs.serving.requests import LimitsConfig, Served
from jobs.serving.rows import Job
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

    sources: Mapping[str, str]  # of each model by its name; the first is the one that needs no name
    registry: RegistryConfig
    limits: LimitsConfig
    access: AccessConfig
    subjects: SubjectsConfig
    hooks: HooksConfig
    people: PeopleConfig = field(default_factory=PeopleConfig)


class ScalingConfig(Section):
    """How many replicas there are, when it is not always the same number."""

    max_replicas: int | None = Field(
        default=None,
        ge=1,
        description="most replicas, if load decides how many there are; none: always replicas",
    )
    min_replicas: int = Field(
        default=1, ge=0, description="fewest replicas; with 0 the last one ends too, and the next request starts one"
    )
    target_requests: float | None = Field(
        default=None, gt=0, description="requests in one replica, waiting or drawn, that are aimed at; none: batch_rows"
    )
    up_seconds: float = Field(default=30, ge=0, description="load that is too high for so long starts replicas [s]")
    down_seconds: float = Field(default=600, ge=0, description="load that is too low for so long ends replicas [s]")


class JobDrawing:
    """`Drawing` for jobs: each is begun with its own adapters, and all of one size share the UNet calls."""

    def __init__(self, engine: Engine):
        drawing = self._drawing = Drawing(engine)
        self.remove, self.step, self.preview = drawing.remove, drawing.step, drawing.preview

    @property
    def unet_calls(self) -> int:
        """Of the next step."""
        return self._drawing.unet_calls

    def add(self, jobs: Mapping[Any, Job]) -> None:
        """Begins these, or none of them. Raises as `Drawing.add`."""
        try:
            for engine in {id(job.engine): job.engine for job in jobs.values()}.values():
                requests = {key: job.request for key, job in jobs.items() if job.engine is engine}
                self._drawing.add(requests, engine)
        except Exception:
            self._drawing.remove(jobs)
            raise


class ImageService:
    """Loads the models and answers for them. Serve asks `__serve_build_asgi_app__` for the application."""

    def __init__(self, settings: Settings, capacity: Capacity):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        registry = Registry(settings.registry.tracking_uri) if settings.registry.tracking_uri else None
        models = load_models(settings.sources, registry, device, int(capacity.cache_mb * 1e6), settings.people)
        first, meters, kept = models.all()[0].engine, Meters(), settings.subjects
        own = first.encoders.resolution, first.encoders.resolution
        assert kept.folder is not None  # jobs.serve sees to it
        assert first.references is not None
        self._service = Service(
            batcher=Batcher(
                functools.partial(JobDrawing, first),
                max_rows=capacity.batch_rows,
                max_waiting=capacity.queue_rows,
                observe=meters.observe,
            ),
            served=Served(models, own, first.unit, settings.limits),
            references=first.references,
            store=SubjectStore(kept.folder, kept.hours * 3600, kept.most, first.references.forget),
            access=settings.access,
            meters=meters,
            hooks=load_hooks(settings.hooks),
        )
        if registry:
            follow(models, settings.sources, registry, settings.registry.seconds)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self._service)

    def check_health(self) -> None:
        """Called by Serve every few seconds; an error has the replica replaced. Forgets subjects deleted elsewhere."""
        self._service.batcher.check()
        self._service.store.sweep()


def application(
    settings: Settings, capacity: Capacity, *, replicas: int, scaling: ScalingConfig, cpus: float, gpus: float
) -> Application:
    """The Serve application of the configured models.

    The replica's own queue refuses first, with a computed Retry-After and OpenAI's error shape; Serve's limits stand
    far behind it, so that a flood of requests does not even reach the replica.
    """
    at_once = capacity.batch_rows + capacity.queue_rows + REFUSED_AT_ONCE
    deployment = serve.deployment(
        serve.ingress()(ImageService),
        name="images",
        **_replicas(replicas, scaling, capacity.batch_rows),
        max_ongoing_requests=at_once,
        max_queued_requests=at_once,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=SECONDS_TO_RETRY),
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        max_constructor_retry_count=CONSTRUCTOR_TRIES,
        graceful_shutdown_timeout_s=10,
        health_check_period_s=SECONDS_TO_SWEEP,
        logging_config=LoggingConfig(enable_access_log=False),  # it would have the paths, and with them subjects' ids
    )
    return deployment.bind(settings, capacity)


def _replicas(replicas: int, scaling: ScalingConfig, batch_rows: int) -> dict[str, Any]:
    """What Serve is told of their number."""
    if scaling.max_replicas is None:
        return {"num_replicas": replicas}
    automatic = AutoscalingConfig(
        min_replicas=scaling.min_replicas,
        initial_replicas=replicas,
        max_replicas=scaling.max_replicas,
        target_ongoing_requests=scaling.target_requests or batch_rows,
        upscale_delay_s=scaling.up_seconds,
        downscale_delay_s=scaling.down_seconds,
    )
    return {"autoscaling_config": automatic}

"""Serve a checkpoint over HTTP with Ray Serve: `python -m jobs.serve --checkpoint DIR`, until Ctrl-C."""

import ipaddress
import os
import re
import signal
import socket
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from pydantic import Field, model_validator
from ray import serve
from ray.serve.schema import LoggingConfig

from flexip.checkpoint import checkpoint_path, read_config
from jobs.cluster import gpu_wanted, ray_session
from jobs.config import JobConfig, RayConfig, load
from jobs.console import UserError, command_line, say
from jobs.serving import unanswered
from jobs.serving.access import AccessConfig
from jobs.serving.deployment import Capacity, ScalingConfig, Settings, application
from jobs.serving.hooks import HooksConfig, load_hooks
from jobs.serving.models import REGISTERED, PeopleConfig, RegistryConfig, Source
from jobs.serving.requests import LimitsConfig
from jobs.serving.subjects import SubjectsConfig

APPLICATION = "flexip"
# Read by Serve's processes. Its controller kills a proxy that has not started after 3 x 5 s, as on a busy machine it
# may not have.
FOR_SERVE = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": unanswered.CALLBACK,
}


class ServeConfig(JobConfig):
    """Draw pictures over HTTP from a trained checkpoint, with OpenAI's image routes."""

    checkpoint: Source = Field(
        description="checkpoint directory, as written by jobs.train, or models:/NAME@ALIAS in the registry"
    )
    host: str = Field(
        default="127.0.0.1", description="address to listen on; beyond loopback, e.g. 0.0.0.0, it needs access.keys"
    )
    port: int = Field(default=8000, ge=1, le=65535, description="TCP port to listen on")
    name: str = Field(default="flexip", min_length=1, description="the model's name in /v1/models")
    adapters: dict[str, Source] = Field(
        default={}, description="further models: name -> what checkpoint may be, on the same base model and encoders"
    )
    registry: RegistryConfig = Field(default=RegistryConfig(), description="where models:/NAME@ALIAS are looked up")
    replicas: int = Field(default=1, ge=1, description="copies of the models, each in a process of its own")
    scaling: ScalingConfig = Field(default=ScalingConfig(), description="more or fewer replicas as load demands")
    cpus_per_replica: float = Field(
        default=1, gt=0, description="CPUs of one replica; also its number of compute threads"
    )
    batch_rows: int = Field(default=8, ge=1, description="most images that are drawn together")
    queue_rows: int = Field(
        default=32, ge=1, description="most images that wait in one replica; beyond, 429 is answered"
    )
    cache_mb: float = Field(
        default=256,
        ge=0,
        description="features of references that one replica keeps [MB]",
    )
    limits: LimitsConfig = Field(default=LimitsConfig(), description="what one request may cost")
    access: AccessConfig = Field(default=AccessConfig(), description="who may ask, and how often")
    subjects: SubjectsConfig = Field(default=SubjectsConfig(), description="subjects that are uploaded once")
    people: PeopleConfig = Field(default=PeopleConfig(), description="DynamicID, for subjects that are people")
    hooks: HooksConfig = Field(default=HooksConfig(), description="what sees each picture before it leaves")
    ray: RayConfig = Field(default=RayConfig(), description="the Ray that the service runs on")

    @property
    def sources(self) -> dict[str, str]:
        """Where each model comes from, by its name; the one that needs no name is the first."""
        return {self.name: self.checkpoint, **self.adapters}

    @model_validator(mode="after")
    def _models_that_can_be_found(self):
        if self.name in self.adapters:
            raise ValueError(f"adapters.{self.name}: is the name of the checkpoint too; give each its own name")
        for source in self.sources.values():
            if source.startswith("models:") and not re.fullmatch(REGISTERED, source):
                raise ValueError(f"checkpoint {source}: write models:/NAME@ALIAS or models:/NAME/VERSION")
            if source.startswith("models:") and self.registry.tracking_uri is None:
                raise ValueError(f"registry.tracking_uri: missing; it says where {source} is looked up")
        return self

    @model_validator(mode="after")
    def _as_many_replicas_as_may_be(self):
        most = self.scaling.max_replicas
        if most is not None and not self.scaling.min_replicas <= self.replicas <= most:
            raise ValueError(
                f"replicas = {self.replicas}: the number at the start; give one from scaling.min_replicas, "
                f"{self.scaling.min_replicas}, to scaling.max_replicas, {most}"
            )
        return self

    @model_validator(mode="after")
    def _room_for_one_request(self):
        if self.queue_rows < self.limits.images:
            raise ValueError(
                f"queue_rows = {self.queue_rows}: smaller than limits.images = {self.limits.images}; "
                "one full request would never be accepted"
            )
        return self

    @model_validator(mode="after")
    def _keys_on_a_network(self):
        if not self.access.keys and not _is_loopback(self.host):
            raise ValueError(
                f"host = {self.host}: opens the service to the network; give access.keys, or a loopback host"
            )
        return self


@contextmanager
def serving(config: ServeConfig) -> Iterator[str]:
    """The service runs inside the block; gives its URL, e.g. http://127.0.0.1:8000.

    At the end the application is removed; a Ray that was started here ends too, one that was there before is kept.

    Raises:
        CheckpointError, UserError: a checkpoint that cannot be served, a port that is taken.
    """
    _check_sources(config)
    if not (ray.is_initialized() or config.ray.address or os.environ.get("RAY_ADDRESS")):
        _check_port(config.host, config.port)  # of a Ray that is there already, Serve itself may hold the port
    for name, value in FOR_SERVE.items():
        os.environ.setdefault(name, value)
    url = f"http://{_reachable(config.host)}:{config.port}"
    with ray_session(config.ray), _subjects_folder(config.subjects) as folder:
        http = {"host": config.host, "port": config.port}
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config=LoggingConfig(enable_access_log=False))
        try:
            _deploy(_application(config, folder))
            _check_answer(url)
            yield url
        finally:
            serve.delete(APPLICATION)  # Serve itself ends with its Ray, which may serve others too


def build(config: ServeConfig) -> serve.Application:
    """The application for `serve deploy`, whose YAML gives the configuration as `args` and has its own address.

    Raises:
        UserError: no keys, or no folder for subjects: the YAML opens the service to a network, and it outlives us.
    """
    if not config.access.keys:
        raise UserError("access.keys: missing; give the hash of at least one key")
    if config.subjects.folder is None:
        raise UserError("subjects.folder: missing; give a folder that all replicas share")
    _check_sources(config)
    return _application(config, config.subjects.folder)


def _check_sources(config: ServeConfig) -> None:
    for source in config.sources.values():
        if not source.startswith("models:"):
            read_config(source)
    if config.people.checkpoint is not None:
        read_config(config.people.checkpoint)
    load_hooks(config.hooks)


@contextmanager
def _subjects_folder(config: SubjectsConfig) -> Iterator[Path]:
    """The folder that the replicas share."""
    if config.folder is not None:
        config.folder.mkdir(parents=True, exist_ok=True)
        yield config.folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="flexip-subjects-") as folder:
        yield Path(folder)


def _deploy(app: serve.Application) -> None:
    """Returns when the application answers. What a replica could not load becomes a UserError."""
    try:
        serve.run(app, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        found = serve.status().applications.get(APPLICATION)
        reports = [deployment.message for deployment in found.deployments.values()] if found else []
        reasons = re.findall(
            r"(?:flexip\.checkpoint\.CheckpointError|jobs\.console\.UserError): (.+)", "\n".join(reports)
        )
        if reasons:
            raise UserError(reasons[-1]) from error
        raise


def _application(config: ServeConfig, folder: Path) -> serve.Application:
    sources = {name: _absolute(source) for name, source in config.sources.items()}
    subjects = config.subjects.model_copy(update={"folder": folder.resolve()})
    at = config.people.checkpoint
    people = config.people.model_copy(update={"checkpoint": at.resolve() if at else None})
    return application(
        Settings(sources, config.registry, config.limits, config.access, subjects, config.hooks, people),
        Capacity(config.batch_rows, config.queue_rows, config.cache_mb),
        replicas=config.replicas,
        scaling=config.scaling,
        cpus=config.cpus_per_replica,
        gpus=1 if gpu_wanted(config.ray) else 0,
    )


def _absolute(source: str) -> str:
    """Replicas run in another directory."""
    return source if source.startswith("models:") else str(checkpoint_path(source).resolve())


def _check_port(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            return
    except OSError as error:
        raise UserError(f"port = {port}: cannot listen on {host} ({error.strerror}); choose another --port") from error


def _check_answer(url: str) -> None:
    """A Serve that ran before keeps the address it was started with; then nobody listens on ours."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=60):
            return
    except OSError as error:
        raise UserError(
            f"{url}: does not answer ({error}); the Serve that runs on this Ray already listens elsewhere: "
            "give its --host and --port, or end it with `serve shutdown`"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "") else host


def run(config: ServeConfig) -> None:
    """Serves until SIGINT or SIGTERM, then stops everything that it started."""
    say("serve", f"loading {config.checkpoint}")
    with serving(config) as url:
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        say("serve", f"{url} is ready; API pages at {url}/docs; Ctrl-C stops it. Try:")
        say("", example(url))
        stop.wait()
        say("serve", "stopping")
    say("serve", "stopped")


def example(url: str) -> str:
    """A shell command that asks the service for one picture of a subject."""
    fields = "-F image=@subject.png -F prompt='on a beach' -F gate=0.5"
    return f"curl -s {url}/v1/images/edits {fields} | jq -r '.data[0].b64_json' | base64 -d > answer.png"


@command_line
def main(argv: list[str] | None = None) -> None:
    run(load(ServeConfig, argv, "python -m jobs.serve"))


if __name__ == "__main__":
    main()

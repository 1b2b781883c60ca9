"""The models that are served, by name: adapters on one base model, whose requests share UNet calls.

A model comes from a checkpoint directory, or from a registered model in MLflow. When an alias there moves on, the new
version takes the place of the old one between two requests: whoever was accepted before is drawn by the old one.
"""

import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from flexip.checkpoint import CheckpointError, load_beside, load_checkpoint
from flexip.engine import Engine
from flexip.references import ReferenceCache
from jobs.config import Section
from jobs.people import FacesConfig, with_people
from jobs.serving.logs import LOGGER, log_error
from jobs.tracking import open_client

REGISTERED = r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))"
Source = Annotated[str, BeforeValidator(str)]  # a directory, or what REGISTERED matches


class RegistryConfig(Section):
    """Where models:/NAME@ALIAS are looked up."""

    tracking_uri: str | None = Field(
        default=None,
        description="MLflow store of registered models, e.g. http://host:5000 or sqlite:////path/mlflow.db",
    )
    seconds: float = Field(default=30, gt=0, description="time between two looks at what an alias stands for [s]")


class PeopleConfig(Section):
    """Who draws people's faces."""

    checkpoint: Path | None = Field(
        default=None, description="DynamicID on the same base model, for subjects that are people; none: there are none"
    )
    faces: FacesConfig = Field(default=FacesConfig(), description="what finds faces in pictures")


@dataclass(frozen=True)
class Model:
    """One version of a model."""

    name: str  # that requests call it by
    engine: Engine
    version: str = ""  # in the registry; empty for a directory
    since: int = field(default_factory=lambda: int(time.time()))  # Unix time [s]


class Shelf:
    """The models in force; the first is the one that requests without a name get."""

    def __init__(self, *models: Model):
        self._models = {model.name: model for model in models}

    @property
    def default(self) -> str:
        """The name of the first."""
        return next(iter(self._models))

    def get(self, name: str | None = None) -> Model | None:
        """None when nothing has this name."""
        return self._models.get(self.default if name is None else name)

    def all(self) -> list[Model]:
        """In the order of the configuration."""
        return [*self._models.values()]

    def put(self, model: Model) -> None:
        """Adds a model, or puts it in the place of the one with its name."""
        self._models[model.name] = model


class Registry:
    """Registered models in an MLflow store."""

    def __init__(self, uri: str):
        self._client: Any = open_client(uri)
        self._uri = uri

    def version(self, source: str) -> str:
        """What `models:/NAME@ALIAS` stands for now. Raises CheckpointError when there is none."""
        from mlflow.exceptions import MlflowException

        found = re.fullmatch(REGISTERED, source)
        assert found is not None
        name, alias, version = found["name"], found["alias"], found["version"]
        try:
            asked = self._client.get_model_version_by_alias(name, alias) if alias else None
            return str(asked.version if asked else self._client.get_model_version(name, version).version)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise CheckpointError(f"checkpoint {source}: the registry knows no such version") from error

    def fetch(self, source: str, version: str, folder: str) -> Path:
        """The files of a version, in the folder."""
        from mlflow.artifacts import download_artifacts

        found = re.fullmatch(REGISTERED, source)
        assert found is not None
        uri = self._client.get_model_version_download_uri(found["name"], version)
        return Path(download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=self._uri))


def load_models(
    sources: Mapping[str, str],
    registry: Registry | None,
    device: str,
    cache_bytes: int,
    people: PeopleConfig | None = None,
) -> Shelf:
    """Loads each source, the first one with its base model; features of references are kept for all together.

    Args:
        people: a DynamicID that all share.

    Raises:
        CheckpointError: a source that cannot be loaded, or not beside the first. UserError: no such face library.
    """
    (name, source), *others = sources.items()
    first = _loaded(name, source, registry, lambda path: load_checkpoint(path, device))
    engine = replace(first.engine, references=ReferenceCache(first.engine.encoders, cache_bytes))
    if people:
        engine = with_people(engine, people.checkpoint, people.faces)
    shelf = Shelf(replace(first, engine=engine))
    for name, source in others:
        shelf.put(_loaded(name, source, registry, partial(load_beside, engine)))
    return shelf


def follow(shelf: Shelf, sources: Mapping[str, str], registry: Registry, seconds: float) -> threading.Thread:
    """A thread that looks, every so many seconds, whether an alias has moved, and then loads what it stands for."""
    thread = threading.Thread(target=_follow, args=(shelf, sources, registry, seconds), name="models", daemon=True)
    thread.start()
    return thread


def refresh(shelf: Shelf, sources: Mapping[str, str], registry: Registry, passed_over: dict[str, str]) -> None:
    """Puts what the aliases stand for now on the shelf.

    Whatever goes wrong is logged, and the model that is there stays. A version that is no checkpoint for this shelf is
    noted in `passed_over`; anything else is tried again the next time.
    """
    for name, source in sources.items():
        kept, version = shelf.get(name), ""
        if kept is None or not kept.version:
            continue
        try:
            version = registry.version(source)
            if version not in (kept.version, passed_over.get(name)):
                shelf.put(_fetched(name, source, version, registry, partial(load_beside, kept.engine)))
        except CheckpointError as error:
            passed_over[name] = version
            log_error(f"version {version} of a model cannot be served; {kept.version} stays", error)
        except Exception as error:  # of whatever kind: what is served must not suffer from it
            log_error("the registry of models was not read", error)


def _follow(shelf: Shelf, sources: Mapping[str, str], registry: Registry, seconds: float) -> None:
    passed_over: dict[str, str] = {}
    while True:
        time.sleep(seconds)
        refresh(shelf, sources, registry, passed_over)


def _loaded(name: str, source: str, registry: Registry | None, load: Callable[[Path], Engine]) -> Model:
    if not source.startswith("models:"):
        return Model(name, load(Path(source)))
    assert registry is not None  # the configuration sees to it
    return _fetched(name, source, registry.version(source), registry, load)


def _fetched(name: str, source: str, version: str, registry: Registry, load: Callable[[Path], Engine]) -> Model:
    with tempfile.TemporaryDirectory(prefix="flexip-model-") as folder:
        model = Model(name, load(registry.fetch(source, version, folder)), version)
    LOGGER.info("model %s: version %s, %s, is loaded", name, version, model.engine.digest[:16])
    return model

"""The HTTP application without Ray or models: pictures of one colour, in as many calls as the request has steps."""

import base64
import hashlib
import threading
import time
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from flexip.calibration import Calibration
from flexip.casting import Casting
from flexip.dynamicid import DynamicID
from flexip.encoders import Encoders
from flexip.engine import Engine
from flexip.faces import Face, FaceLibrary
from flexip.images import Rgb
from flexip.model import FlexIP
from flexip.motion import Motion
from flexip.references import ReferenceCache
from flexip.request import Request
from jobs.receipt import Receipt, read_receipt
from jobs.serving.access import AccessConfig
from jobs.serving.app import Service, build_app
from jobs.serving.batching import Batcher
from jobs.serving.hooks import Hooks
from jobs.serving.metrics import Meters
from jobs.serving.models import Model, Shelf
from jobs.serving.requests import LimitsConfig, Served
from jobs.serving.rows import Job
from jobs.serving.subjects import SubjectStore

GENERATIONS, EDITS, SUBJECTS = "/v1/images/generations", "/v1/images/edits", "/v1/subjects"
KEYS = {"alice": "key of alice", "bob": "key of bob"}
ACCESS = AccessConfig(keys={name: hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()})
SIDE, UNIT = 16, 8  # [px] of the model's own pictures, and what their sides are multiples of
OWN = (SIDE, SIDE)
LIMITS = LimitsConfig(images=4, steps=10, prompt=100, body_mb=0.2, body_seconds=2, image_megapixels=0.1, seconds=20)
NO_HOOKS = Hooks()
CALIBRATION = Calibration([0.0, 1.0], [0.2, 0.8], "dino", 4, "abc")


class Blind(Encoders):
    """Encoders that see nothing in any picture."""

    def __init__(self) -> None:
        """Needs no models."""

    def encode_references(self, images: Sequence[Rgb]) -> tuple[torch.Tensor, torch.Tensor]:
        """Zeros."""
        return torch.zeros(len(images), 2), torch.zeros(len(images), 3, 2)


@dataclass
class Easel:
    """Draws requests whose seed is the colour; keeps what it was asked. A prompt that begins with "boom" fails."""

    references: ReferenceCache
    asked: list[Request]
    pause: float  # [s] that a step takes
    rows: dict[Hashable, Request] = field(default_factory=dict)
    steps: dict[Hashable, int] = field(default_factory=dict)

    def add(self, jobs: Mapping[Any, Job]) -> None:
        """Encodes their references and begins them."""
        for key, row in ((key, job.request) for key, job in jobs.items()):
            if row.prompt.startswith("boom"):
                raise ZeroDivisionError(row.prompt)
            self.asked.append(row)
            self.rows[key], self.steps[key] = row, row.steps - row.calls
            if images := [image for subject in row.subjects for image in subject.references]:
                self.references.encode(images)

    def remove(self, keys: Collection[Hashable]) -> None:
        """Gives them up."""
        for key in keys:
            self.rows.pop(key, None)

    @property
    def unet_calls(self) -> int:
        """One for each size."""
        return len({row.size for row in self.rows.values()})

    def step(self) -> dict[Any, Rgb]:
        """One step of each."""
        time.sleep(self.pause)
        for key in self.rows:
            self.steps[key] += 1
        finished = [key for key, row in self.rows.items() if self.steps[key] == row.steps]
        return {key: self._paint(key, self.rows.pop(key)) for key in finished}

    def preview(self, keys: Collection[Hashable]) -> dict[Any, Rgb]:
        """The same colour with the number of steps in the first channel."""
        return {key: self._paint(key, self.rows[key]) for key in keys}

    def _paint(self, key: Hashable, row: Request) -> Rgb:
        return np.full((*(row.size or OWN), 3), (self.steps[key], row.seed % 256, 0), np.uint8)


@dataclass
class Stand:
    """An application and what stands behind it."""

    app: FastAPI
    store: SubjectStore
    references: ReferenceCache
    asked: list[Request]  # of the sampler


class Weightless(FlexIP):
    """A model without anything in it."""

    def __init__(self) -> None:
        """Needs no UNet."""


class Faceless(DynamicID):
    """The same for people."""

    def __init__(self) -> None:
        """Needs no UNet."""


class Sitters(Casting):
    """Casts anybody. A picture shows as many faces as the red of its first pixel says."""

    def __init__(self) -> None:
        """Needs no models."""
        face = Face((0.0, 0.0, 1.0, 1.0), 1.0, np.zeros((4, 4, 3), np.uint8), np.zeros((3, 2)), np.zeros(2))
        library = FaceLibrary("pocket", "", "", 2, 3, lambda image: [face] * int(image[0, 0, 0]))
        super().__init__(Faceless(), Blind(), library, "5" * 64)

    @property
    def moves(self) -> bool:
        """As after the second stage."""
        return True

    def tokens(self, faces: Sequence[Face]) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(len(faces), 2, 4)

    def moved(self, tokens: torch.Tensor, face: Face, motions: Sequence[Motion]) -> torch.Tensor:
        """Ones."""
        return torch.ones(len(motions), 2, 4)


def model(name: str, digit: str, casting: Casting | None = None) -> Model:
    """One that draws nothing itself; its weights' hash is this digit."""
    return Model(name, Engine(Weightless(), Blind(), None, digit * 64, CALIBRATION, casting=casting))


def stand(
    folder: Path,
    access: AccessConfig | None = None,
    limits: LimitsConfig = LIMITS,
    pause: float = 0,
    hooks: Hooks = NO_HOOKS,
    casting: Casting | None = None,
    **store: Any,
) -> Stand:
    """A fresh one, whose subjects live in the folder and whose models have no weights."""
    references, meters, asked = ReferenceCache(Blind(), 10**6), Meters(), []
    kept = SubjectStore(folder, **({"seconds": 3600.0, "most": 3, "forget": references.forget} | store))
    service = Service(
        batcher=Batcher(lambda: Easel(references, asked, pause), max_rows=2, max_waiting=8, observe=meters.observe),
        served=Served(Shelf(model("flexip", "0", casting), model("other", "1")), OWN, UNIT, limits),
        references=references,
        store=kept,
        access=access or AccessConfig(),
        meters=meters,
        hooks=hooks,
    )
    return Stand(build_app(service), kept, references, asked)


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The application behind real sockets, in a thread of this process; gives its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


def ask(client: TestClient, **fields: Any) -> Any:
    """The answer to a request for a picture in four steps."""
    return client.post(GENERATIONS, json={"prompt": "a creature", "num_inference_steps": 4, "seed": 5} | fields)


def upload(client: TestClient, png: bytes, **more: Any) -> Any:
    """The answer to the upload of a subject."""
    return client.post(SUBJECTS, files={"image": ("who.png", png)}, **more)


def receipt_of(answer: Any) -> Receipt:
    """What the first picture of an answer says of itself."""
    assert answer.status_code == 200, answer.text
    return read_receipt(base64.b64decode(answer.json()["data"][0]["b64_json"]))

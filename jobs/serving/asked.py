"""A request on its way to the sampler: what was asked, the files it brings, and what it is answered with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.serving.requests import ImageRequest, Served, Subject
from jobs.serving.subjects import SubjectStore

Bytes = Callable[[Any, str], bytes]  # (picture as the request names it, path of the field) -> file


@dataclass(frozen=True)
class Asked:
    """A request with what is named in it."""

    request: ImageRequest
    subjects: Sequence[Subject]
    file_of: Bytes
    canvas: tuple[bytes, bytes] | None = None  # its file and its mask's
    strength: float | None = None


@dataclass(frozen=True)
class Context:
    """What a request is answered with, beside what it brings."""

    served: Served
    store: SubjectStore
    owner: str  # the key's name

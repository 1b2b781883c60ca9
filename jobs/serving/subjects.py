"""Subjects that were uploaded once: PNG files in a folder that all replicas share, one folder in it for each key.

A file that is gone, or older than its time to live, is a subject that nobody can use any more: every replica looks at
the folder before each use, and forgets the features of what has gone in `sweep`.
"""

import json
import math
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from pydantic import BaseModel, Field

from flexip.images import Rgb, decode_image, encode_png
from flexip.references import image_digest
from jobs.config import Section
from jobs.serving.errors import RequestError

LINGER = 3600.0  # [s]: longer than any request may take
FACTS = "subject"  # the PNG's text chunk


class SubjectsConfig(Section):
    """Uploaded subjects."""

    folder: Path | None = Field(
        default=None, description="folder that all replicas share; none: a temporary one that ends with the service"
    )
    hours: float = Field(default=24, gt=0, description="time to live of an uploaded subject [hours]")
    most: int = Field(default=100, ge=1, description="most subjects of one key")


class SubjectInfo(BaseModel):
    """What is told of an uploaded subject."""

    id: str = Field(description="to be sent as subject_id")
    object: str = "subject"
    created_at: int = Field(description="Unix time [s]")
    expires_at: int = Field(description="Unix time [s]")
    sha256: str = Field(description="of the uploaded file")
    cut_out: bool = Field(description="whether the subject was cut out of its picture")


@dataclass
class SubjectStore:
    """The subjects of all keys. An `owner` is a key's name from the configuration, an id is one that `add` gave."""

    folder: Path
    seconds: float  # time to live
    most: int  # of one owner
    forget: Callable[[str], None] = lambda digest: None  # told the `image_digest` of a reference that must not stay
    clock: Callable[[], float] = time.time
    _used: dict[Path, tuple[str, float]] = field(default_factory=dict)  # file -> image_digest, and when it was used [s]

    def add(self, owner: str, reference: Rgb, sha256: str, cut_out: bool) -> SubjectInfo:
        """Keeps a reference, as the encoders see it.

        Raises:
            RequestError: the owner has as many as allowed.
        """
        if len(self.all(owner)) >= self.most:
            message = f"image: {self.most} subjects are kept, which is the most of one key; delete one first"
            raise RequestError(message, "image", "too_many_subjects", 403)
        path = self.folder / owner / f"subj_{secrets.token_hex(12)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_bytes(encode_png(reference, text={FACTS: json.dumps({"sha256": sha256, "cut_out": cut_out})}))
        os.utime(draft, (self.clock(), self.clock()))
        draft.replace(path)
        return self.info(owner, path.stem)

    def all(self, owner: str) -> list[SubjectInfo]:
        """The owner's living subjects, the oldest first."""
        found = [self._find(path) for path in (self.folder / owner).glob("subj_*.png")]
        return sorted((info for info in found if info), key=lambda info: (info.created_at, info.id))

    def info(self, owner: str, subject_id: str, param: str = "subject_id") -> SubjectInfo:
        """Raises RequestError, a 404 that names `param`, when the owner has no such living subject."""
        info = self._find(self._path(owner, subject_id))
        if info is None:
            message = f"{param} = {subject_id!r}: no such subject of this key; it was deleted, has expired or never was"
            raise RequestError(message, param, "subject_not_found", 404)
        return info

    def use(self, owner: str, subject_id: str, param: str) -> tuple[SubjectInfo, Rgb]:
        """The subject and its reference. Raises as `info`."""
        path, info = self._path(owner, subject_id), self.info(owner, subject_id, param)
        try:
            reference = decode_image(path.read_bytes())
        except FileNotFoundError:  # deleted a moment ago
            return self.use(owner, subject_id, param)
        self._used[path] = image_digest(reference), self.clock()
        return info, reference

    def remove(self, owner: str, subject_id: str) -> None:
        """Deletes the subject for all replicas. Raises as `info`."""
        self.info(owner, subject_id)
        self._path(owner, subject_id).unlink(missing_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Deletes what has expired, and has this replica forget what any replica deleted."""
        for path in self.folder.glob("*/subj_*"):
            if self._age(path) >= self.seconds:
                path.unlink(missing_ok=True)
        for path, (digest, used) in list(self._used.items()):
            if not path.exists():
                self.forget(digest)  # once more each time: a request on its way may have brought the features back
                if self.clock() - used > LINGER:
                    self._used.pop(path, None)

    def _path(self, owner: str, subject_id: str) -> Path:
        return self.folder / owner / f"{subject_id}.png"

    def _age(self, path: Path) -> float:
        """Seconds since it was written; infinite when it is not there."""
        try:
            return self.clock() - path.stat().st_mtime
        except FileNotFoundError:
            return math.inf

    def _find(self, path: Path) -> SubjectInfo | None:
        """None when it is not there or has expired."""
        age = self._age(path)
        if age >= self.seconds:
            return None
        try:
            with Image.open(path) as image:
                facts = json.loads(image.info[FACTS])
        except FileNotFoundError:
            return None
        created = self.clock() - age
        return SubjectInfo(id=path.stem, created_at=int(created), expires_at=int(created + self.seconds), **facts)

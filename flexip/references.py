"""Features of references, kept: a picture that comes again is not encoded again."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from flexip.encoders import Encoders
from flexip.images import Rgb

Features = tuple[Float[Tensor, " Dc"], Float[Tensor, "N Dd"]]  # [CLS] and patches of one reference


@dataclass
class ReferenceCache:
    """`encode` is `Encoders.encode_references`; the least recently used go when their features exceed `max_bytes`.

    One thread encodes; any other may `forget`.
    """

    encoders: Encoders
    max_bytes: int
    hits: int = 0
    encoded: int = 0
    bytes: int = 0
    _kept: OrderedDict[str, Features] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def encode(self, images: Sequence[Rgb]) -> tuple[Float[Tensor, "B Dc"], Float[Tensor, "B N Dd"]]:
        """[CLS] and patches of each image; those that are not known are encoded together, in one call."""
        digests = [image_digest(image) for image in images]
        with self._lock:
            known = {digest: self._kept[digest] for digest in digests if digest in self._kept}
        missing = {digest: image for digest, image in zip(digests, images, strict=True) if digest not in known}
        self.hits += len(images) - len(missing)
        self.encoded += len(missing)
        if missing:
            cls, patches = self.encoders.encode_references([*missing.values()])
            known |= {digest: (cls[i].clone(), patches[i].clone()) for i, digest in enumerate(missing)}
        found = [known[digest] for digest in digests]
        with self._lock:
            for digest, features in zip(digests, found, strict=True):
                self._keep(digest, features)
        cls, patches = zip(*found, strict=True)
        return torch.stack(cls), torch.stack(patches)

    def forget(self, digest: str) -> None:
        """Drops the features of the image with this `image_digest`, if they are here."""
        with self._lock:
            features = self._kept.pop(digest, None)
            self.bytes -= _size(features) if features else 0

    def _keep(self, digest: str, features: Features) -> None:
        if digest not in self._kept:
            self._kept[digest] = features
            self.bytes += _size(features)
        self._kept.move_to_end(digest)
        while self.bytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= _size(oldest)


def image_digest(image: Rgb) -> str:
    """SHA-256 of an image's pixels and shape, hex."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _size(features: Features) -> int:
    return sum(part.numel() * part.element_size() for part in features)

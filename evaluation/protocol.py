"""What a number depends on, as an id: numbers of different ids are never put into one table.

Backbone, weights, resize and reference policy each move a cosine by more than most methods differ: a score without them
settles nothing.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


class ProtocolError(ValueError):
    """Numbers that were not measured in the same way. The message says in which field they differ."""


@dataclass(frozen=True)
class Protocol:
    """How one metric is measured."""

    metric: str  # e.g. "CLIP-I"
    backbone: str = ""  # what measures it, e.g. "ViT-B-32 openai"; stands in the column's name
    weights: str = ""  # fingerprint of the backbone's weights and preprocessing
    resize: str = ""  # from the picture to the backbone's pixels
    references: str = ""  # which references an answer is compared with; empty where it is with none
    detail: str = ""  # whatever else the number depends on: a rubric's hash, a head's bytes

    @property
    def id(self) -> str:
        """12 hex characters; equal ids mean comparable numbers."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def column(self) -> str:
        """The metric with its backbone, as a table's head has it."""
        return f"{self.metric} ({self.backbone})" if self.backbone else self.metric


def only_protocol(found: Iterable[Protocol]) -> Protocol:
    """The one protocol that all numbers of a column share.

    Raises:
        ProtocolError: several; the message names the first field that differs. ValueError: none.
    """
    different = sorted(set(found), key=lambda protocol: protocol.id)
    if not different:
        raise ValueError("protocols: none given; a column needs a number at least")
    first, *others = different
    for other in others:
        field = next(name for name, value in asdict(first).items() if value != asdict(other)[name])
        raise ProtocolError(
            f"{first.column}: numbers of the protocols {first.id} and {other.id} do not belong in one table; their "
            f"{field} differ: {getattr(first, field)!r} against {getattr(other, field)!r}; score both anew in one way"
        )
    return first

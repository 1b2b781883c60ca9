"""Who is to be in a picture: identity tokens, where, and how much. Checked here, before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 as fractions of the picture

MOST_PEOPLE = 5  # in one picture


@dataclass(frozen=True)
class Person:
    """One person in one picture: an identity, or several that are mixed into one.

    Raises:
        ValueError: a box, shares or a strength out of bounds.
    """

    tokens: Float[Tensor, "m K D"]  # of m identities, each of K tokens of the face encoder
    box: Box | None = None  # where the person is to be; None: wherever the picture has room for them
    shares: tuple[float, ...] = (1.0,)  # of the identities; they are scaled so that their sum is 1
    strength: float = 1.0  # multiplies w

    def __post_init__(self):
        check_box(self.box)
        if len(self.shares) != len(self.tokens):
            raise ValueError(f"shares: {len(self.shares)} for {len(self.tokens)} identities; give one for each")
        if not (all(0 <= share <= 1 for share in self.shares) and sum(self.shares) > 0):
            raise ValueError(f"shares: {list(self.shares)} must be within 0..1, and not all 0")
        if not 0 <= self.strength <= 10:
            raise ValueError(f"strength: {self.strength:g} must be within 0..10; 1 is what the model was trained with")

    @property
    def token_shares(self) -> Float[Tensor, " mK"]:
        """The share of every token: that of its identity."""
        shares = torch.tensor(self.shares, device=self.tokens.device)
        return (shares / shares.sum()).repeat_interleave(self.tokens.shape[1])


def cast_people(tokens: Float[Tensor, "n K D"], boxes: Sequence[Box | None] | None = None) -> tuple[Person, ...]:
    """A person for each identity, in their boxes if there are any.

    Raises:
        ValueError: too many people, a list of boxes of another length, or a box out of bounds.
    """
    check_count(len(tokens))
    if boxes is not None and len(boxes) != len(tokens):
        raise ValueError(f"boxes: {len(boxes)} for {len(tokens)} people; give one for each, null for none")
    placed = boxes or [None] * len(tokens)
    return tuple(Person(one[None], box) for one, box in zip(tokens, placed, strict=True))


def check_count(people: int) -> None:
    """Raises ValueError for more people than one picture may have."""
    if people > MOST_PEOPLE:
        raise ValueError(f"subjects: {people} people in one picture; at most {MOST_PEOPLE}")


def check_box(box: Box | None) -> None:
    """Raises ValueError for a box that is not four fractions of the picture with an area."""
    if box is None:
        return
    if len(box) != 4 or not all(0 <= edge <= 1 for edge in box):
        raise ValueError(f"box: {list(box)} must be x0, y0, x1, y1 within 0..1, as fractions of the picture")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"box: {list(box)} has no area; needs x0 < x1 and y0 < y1")

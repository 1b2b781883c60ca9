"""Sizes of pictures as users and receipts say them, WIDTHxHEIGHT in pixels or auto, and what fits them."""

import re
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

Size = tuple[int, int]  # height and width [px], as inside

AUTO = "auto"  # the model's own size
NUMBERS = "[1-9][0-9]{0,4}x[1-9][0-9]{0,4}"
MOST_DISTORTION = 0.01  # of an aspect, by which a picture may differ from the size that it is fitted to


def _checked(words: str) -> str:
    if words != AUTO and not re.fullmatch(NUMBERS, words):
        raise PydanticCustomError("size", "Input should be auto or WIDTHxHEIGHT in pixels, as 96x64")
    return words


SizeWords = Annotated[
    str, AfterValidator(_checked), WithJsonSchema({"type": "string", "pattern": f"^({AUTO}|{NUMBERS})$"})
]


def size_of(words: str, own: Size) -> Size:
    """What is meant; auto is the model's own."""
    if words == AUTO:
        return own
    width, height = map(int, words.split("x"))
    return height, width


def size_words(size: Size) -> str:
    """WIDTHxHEIGHT."""
    height, width = size
    return f"{width}x{height}"


def check_size(size: Size, unit: int) -> None:
    """Raises ValueError for sides that are not multiples of `unit` [px]: the model cannot draw them."""
    if any(side % unit for side in size):
        height, width = (max(1, round(side / unit)) * unit for side in size)
        near = size_words((height, width))
        raise ValueError(f"size = {size_words(size)}: sides must be multiples of {unit} pixels; {near} would be")


def check_aspect(picture: np.ndarray, size: Size) -> None:
    """Raises ValueError for a canvas or a mask (H, W, ...) that would be distorted when it is fitted to the size."""
    height, width = picture.shape[:2]
    if abs((width * size[0]) / (height * size[1]) - 1) > MOST_DISTORTION:
        drawn = size_words(size)
        raise ValueError(f"{width}x{height} pixels; the picture is {drawn}, and this needs its aspect; crop either")

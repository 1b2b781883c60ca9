"""Pictures out of a request: base64 or an upload to pixels, within the limits. Nothing is fetched from elsewhere."""

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from flexip.images import ImageError, Rgb, decode_image, decode_painted
from jobs.serving.errors import RequestError, shorten
from jobs.sizes import Size, check_aspect
from pipelines.references import prepare_reference

Pixels = TypeVar("Pixels", bound=np.ndarray)


def decode_base64(text: str, param: str) -> bytes:
    """The bytes of base64 text or of a `data:image/...;base64,` URL.

    Raises:
        RequestError: anything else, URLs of other kinds included: the server fetches nothing.
    """
    body = text.strip()
    if body.startswith("data:"):
        head, comma, body = body.partition(",")
        if not comma or not head.endswith(";base64"):
            message = f"{param} = {shorten(text)}: a data URL must look like data:image/png;base64,..."
            raise RequestError(message, param, "invalid_base64")
    elif "://" in body[:12]:
        message = f"{param} = {shorten(text)}: the server fetches no URLs; send the picture itself as base64"
        raise RequestError(message, param, "invalid_base64")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"{param} = {shorten(text)}: not base64 ({error}); send base64 or a data URL"
        raise RequestError(message, param, "invalid_base64") from error


def decode_picture(data: bytes, megapixels: float, param: str) -> Rgb:
    """The picture as RGB.

    Raises:
        RequestError: bytes that are no usable picture, or one that is too large or too small.
    """
    with _told(param):
        return decode_image(data, max_pixels=megapixels * 1e6)


@contextmanager
def _told(param: str) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        status = 413 if error.reason == "too_many_pixels" else 400
        message = f"{param}: {error}; send a PNG, JPEG or WebP picture"
        raise RequestError(message, param, error.reason, status) from error


def decode_paint_mask(data: bytes, megapixels: float, param: str) -> Float[np.ndarray, "H W"]:
    """1 where the canvas is to be painted. Raises as `decode_picture`, and for one that is 0 everywhere."""
    with _told(param):
        painted = decode_painted(data, max_pixels=megapixels * 1e6)
    if not painted.any():
        message = f"{param}: nothing is to be painted; send one that is transparent, or white, where it is"
        raise RequestError(message, param, status=422)
    return painted


def fitted(picture: Pixels, size: Size, param: str) -> Pixels:
    """The same. Raises RequestError for another aspect than that of the image to be drawn."""
    try:
        check_aspect(picture, size)
    except ValueError as error:
        raise RequestError(f"{param}: {error}", param, status=422) from error
    return picture


def decode_reference(data: bytes, megapixels: float, cut_out: bool, param: str) -> Rgb:
    """The picture of a subject as the encoders see it, cut out on white if wanted. Raises as `decode_picture`."""
    image = decode_picture(data, megapixels, param)
    return prepare_reference(image).image if cut_out else image

"""Functions of the operator's own that see each picture before it leaves: a safety checker and an invisible watermark.

Both are named by import path, are off when they are not named, and see previews too. A hook that fails fails the
request: nothing leaves unseen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from flexip.images import Rgb
from jobs.config import Section
from jobs.console import UserError
from jobs.receipt import Receipt
from jobs.serving.errors import RequestError

ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


class HooksConfig(Section):
    """Import paths, as package.module:function, of what sees each picture before it leaves."""

    safety: ImportPath | None = Field(
        default=None,
        description="function of (picture, receipt): a reason to refuse the picture, or an empty text; none: all leave",
    )
    watermark: ImportPath | None = Field(
        default=None, description="function of (picture, receipt): the picture with its mark; none: without"
    )


@dataclass(frozen=True)
class Hooks:
    """What happens to a picture on its way out. A picture is uint8 (H, W, 3)."""

    safety: Callable[[Rgb, Receipt], str | None] | None = None
    watermark: Callable[[Rgb, Receipt], Rgb] | None = None

    def __call__(self, picture: Rgb, receipt: Receipt) -> Rgb:
        """The picture as it may leave.

        Raises:
            RequestError: the safety checker gives a reason against it.
        """
        if self.safety and (reason := self.safety(picture, receipt)):
            message = f"prompt: the picture was refused ({reason}); ask for another one"
            raise RequestError(message, "prompt", "content_policy_violation")
        if self.watermark is None:
            return picture
        marked = self.watermark(picture, receipt)
        if not isinstance(marked, np.ndarray) or (marked.shape, marked.dtype) != (picture.shape, picture.dtype):
            raise TypeError("hooks.watermark: gives no picture of the same size; it must return uint8 (H, W, 3)")
        return marked


def load_hooks(config: HooksConfig) -> Hooks:
    """Imports what the configuration names. Raises UserError for what cannot be imported or called."""
    return Hooks(_imported("safety", config.safety), _imported("watermark", config.watermark))


def _imported(name: str, path: str | None) -> Callable[..., Any] | None:
    if path is None:
        return None
    module, _, attribute = path.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"hooks.{name} = {path}: cannot be imported ({error}); give package.module:function") from error
    if not callable(found):
        raise UserError(f"hooks.{name} = {path}: is no function; give package.module:function")
    return found

"""The sampler: requests with their own prompt, reference, gate, guidance, steps, solver and seed share UNet calls."""

from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flexip.attention import check_processors, cross_attention_layers
from flexip.batch import Batch, admit, advance, join, keep
from flexip.canvas import paste
from flexip.engine import Engine
from flexip.images import Rgb
from flexip.request import Request, check_blocks


def sample(
    engine: Engine,
    requests: Sequence[Request],
    on_steps: Callable[[int], object] | None = None,
    max_rows: int = 64,
) -> list[Rgb]:
    """Draw every request; the picture of each is the same alone and in any company.

    Args:
        on_steps: called after each UNet call with the number of requests that it brought a step further.
        max_rows: most UNet rows in one call (a request with guidance has two).

    Raises:
        ValueError: a request out of bounds. RuntimeError: the pipeline's attention processors were replaced.
    """
    _check(engine, requests)
    waiting, images, drawing = deque(enumerate(requests)), dict[Hashable, Rgb](), Drawing(engine)
    while waiting or len(drawing):
        drawing.add(_fitting(waiting, max_rows - drawing.unet_rows, empty=not len(drawing)))
        if on_steps:
            on_steps(len(drawing))
        images |= drawing.step()
    return [images[i] for i in range(len(requests))]


class Drawing:
    """Pictures on their way: requests are added and removed between steps. All of one size share a UNet call."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._batches: dict[tuple[int, int], Batch] = {}  # by the size of the pictures

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches.values())

    @property
    def unet_calls(self) -> int:
        """UNet calls of the next step: one for each size."""
        return len(self._batches)

    @property
    def unet_rows(self) -> int:
        """Rows of the UNet calls of the next step."""
        return sum(len(batch.rows.request) for batch in self._batches.values())

    @torch.inference_mode()
    def add(self, requests: Mapping[Any, Request], engine: Engine | None = None) -> None:
        """Begins these, or none of them. Raises what `sample` raises.

        Args:
            engine: whose adapters are asked for, on the same frozen models (`load_beside`); none: the drawing's own.
        """
        _check(self._engine, [*requests.values()])
        if engine and engine.casting is not self._engine.casting and any(r.people for r in requests.values()):
            raise ValueError("people: of another casting than the drawing's; engines share one (`load_beside`)")
        sizes: dict[tuple[int, int], dict[Any, Request]] = {}
        for key, request in requests.items():
            sizes.setdefault(self._engine.picture_size(request), {})[key] = request
        coming = {size: admit(engine or self._engine, [*some.values()], [*some]) for size, some in sizes.items()}
        for size, batch in coming.items():
            self._batches[size] = join(self._batches[size], batch) if size in self._batches else batch

    @torch.inference_mode()
    def remove(self, keys: Collection[Hashable]) -> None:
        """Gives up those of these that are on their way."""
        for size, batch in [*self._batches.items()]:
            self._keep(size, [i for i, key in enumerate(batch.keys) if key not in keys])

    @torch.inference_mode()
    def step(self) -> dict[Any, Rgb]:
        """One step of every request; the pictures of those whose last it was."""
        pictures: dict[Any, Rgb] = {}
        for size, batch in [*self._batches.items()]:
            batch = self._batches[size] = advance(self._engine, batch)
            if finished := batch.finished:
                pictures |= self._pictures(batch, batch.latents, finished)
                self._keep(size, [i for i in range(len(batch)) if i not in finished])
        return pictures

    @torch.inference_mode()
    def preview(self, keys: Collection[Hashable]) -> dict[Any, Rgb]:
        """What those of these that are on their way will look like, as far as their last step could tell."""
        pictures: dict[Any, Rgb] = {}
        for batch in self._batches.values():
            if chosen := [i for i, key in enumerate(batch.keys) if key in keys]:
                pictures |= self._pictures(batch, batch.originals, chosen)
        return pictures

    def _pictures(self, batch: Batch, latents: Float[Tensor, "B C h w"], chosen: Sequence[int]) -> dict[Any, Rgb]:
        """Of the chosen requests, each on its canvas."""
        drawn = decode(self._engine, latents[torch.tensor(chosen, device=latents.device)])
        return {
            batch.keys[i]: paste(picture, batch.requests[i].canvas) for i, picture in zip(chosen, drawn, strict=True)
        }

    def _keep(self, size: tuple[int, int], chosen: Sequence[int]) -> None:
        batch = self._batches[size]
        if not chosen:
            del self._batches[size]
        elif len(chosen) < len(batch):
            self._batches[size] = keep(batch, chosen)


def decode(engine: Engine, latents: Float[Tensor, "B C h w"]) -> list[Rgb]:
    """VAE decode to uint8 RGB, a few rows at a time."""
    vae = engine.encoders.vae
    images: list[Rgb] = []
    for part in (latents / vae.config.scaling_factor).split(8):
        pixels = vae.decode(part, return_dict=False)[0].float().clamp(-1, 1)
        images += list(((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    return images


def _check(engine: Engine, requests: Sequence[Request]) -> None:
    check_processors(engine.pipe.unet)
    check_blocks(requests, [name for name, _ in cross_attention_layers(engine.pipe.unet)])


def _fitting(waiting: deque[tuple[int, Request]], room: int, empty: bool) -> dict[Hashable, Request]:
    """Takes from the queue's head what fits into the room; into an empty batch one request always does."""
    taken: dict[Hashable, Request] = {}
    while waiting and (waiting[0][1].unet_rows <= room or (empty and not taken)):
        number, request = waiting.popleft()
        taken[number] = request
        room -= request.unet_rows
    return taken

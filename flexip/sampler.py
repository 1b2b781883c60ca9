"""The sampler: requests with their own prompt, reference, gate, guidance, steps, solver and seed share UNet calls."""

from collections import deque
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flexip.attention import check_processors, cross_attention_layers
from flexip.batch import Batch, admit, advance, join, keep
from flexip.engine import Engine
from flexip.images import Rgb
from flexip.request import Request, check_blocks


@torch.inference_mode()
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
    check_requests(engine, requests)
    waiting, images = deque(range(len(requests))), dict[int, Rgb]()
    batch: Batch | None = None
    while batch or waiting:
        taken = _fitting(requests, waiting, max_rows - (len(batch.rows.request) if batch else 0), batch is None)
        if taken:
            coming = admit(engine, [requests[i] for i in taken], taken)
            batch = join(batch, coming) if batch else coming
        assert batch is not None
        batch = advance(engine, batch)
        if on_steps:
            on_steps(len(batch))
        batch, drawn = take_finished(engine, batch)
        images |= drawn
    return [images[i] for i in range(len(requests))]


def check_requests(engine: Engine, requests: Sequence[Request]) -> None:
    """Raises what `sample` raises, before anything is drawn."""
    check_processors(engine.pipe.unet)
    check_blocks(requests, [name for name, _ in cross_attention_layers(engine.pipe.unet)])


def take_finished(engine: Engine, batch: Batch) -> tuple[Batch | None, dict]:
    """What is left of the batch (None: nothing), and the pictures of the finished requests by their keys."""
    finished = batch.finished
    if not finished:
        return batch, {}
    pictures = decode(engine, batch.latents[torch.tensor(finished, device=batch.latents.device)])
    drawn = dict(zip((batch.keys[i] for i in finished), pictures, strict=True))
    left = [i for i in range(len(batch)) if i not in set(finished)]
    return keep(batch, left) if left else None, drawn


def decode(engine: Engine, latents: Float[Tensor, "B C h w"]) -> list[Rgb]:
    """VAE decode to uint8 RGB, a few rows at a time."""
    vae = engine.encoders.vae
    images: list[Rgb] = []
    for part in (latents / vae.config.scaling_factor).split(8):
        pixels = vae.decode(part, return_dict=False)[0].float().clamp(-1, 1)
        images += list(((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    return images


def _fitting(requests: Sequence[Request], waiting: deque[int], room: int, empty: bool) -> list[int]:
    """Takes from the queue's head what fits into the room; into an empty batch one request always does."""
    taken: list[int] = []
    while waiting and (requests[waiting[0]].unet_rows <= room or (empty and not taken)):
        room -= requests[waiting[0]].unet_rows
        taken.append(waiting.popleft())
    return taken

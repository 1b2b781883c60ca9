"""What one would build instead: two services on the same models, with the same route, fields and answers.

    python -m benchmarks.peers pipeline --checkpoint DIR --port 8001    a diffusers pipeline behind FastAPI, one by one
    python -m benchmarks.peers batch --checkpoint DIR --port 8002       Ray Serve's @serve.batch over equal requests

A pipeline call has one number of steps and one guidance for all its pictures, so the second can put together only the
requests of a batch that are equal in both. Both use our adapters through `FlexIP.condition`, which gives the second a
gate for each picture: more than diffusers' own adapters would.
"""

import argparse
import asyncio
import base64
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from ray import serve

from flexip.checkpoint import load_checkpoint
from flexip.engine import Engine
from flexip.gate import Gate
from flexip.images import Rgb, decode_image, encode_png
from jobs.cluster import ray_session
from jobs.config import RayConfig
from jobs.serving.requests import GenerationRequest

BATCH_WAIT = 0.05  # [s] that a batch waits for more requests


def draw_equal(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Rgb]:
    """One pipeline call for requests that are equal in steps and guidance."""
    first = requests[0]
    references = [decode_image(base64.b64decode(request.subjects[0].image or "")) for request in requests]
    conditioning = engine.model.condition(
        engine.pipe,
        prompt=[request.prompt for request in requests],
        subjects=engine.encoders.encode_references(references),
        gate=Gate.dial([request.subjects[0].gate or 0.0 for request in requests]),
        guidance_scale=first.guidance_scale,
    )
    pictures = engine.pipe(
        **conditioning,
        guidance_scale=first.guidance_scale,
        num_inference_steps=first.num_inference_steps,
        generator=[torch.Generator().manual_seed(request.seed or 0) for request in requests],
        output_type="np",
    ).images
    return [(picture * 255).round().astype(np.uint8) for picture in pictures]


def answer(picture: Rgb) -> dict[str, Any]:
    """In OpenAI's shape."""
    return {"created": int(time.time()), "data": [{"b64_json": base64.b64encode(encode_png(picture)).decode()}]}


def load(checkpoint: Path) -> Engine:
    """An engine whose pipeline is silent."""
    torch.set_num_threads(1)
    engine = load_checkpoint(checkpoint)
    engine.pipe.set_progress_bar_config(disable=True)
    return engine


def pipeline_app(engine: Engine) -> FastAPI:
    """One request at a time: the others wait for the lock."""
    app, turn = FastAPI(), asyncio.Lock()

    @app.post("/v1/images/generations")
    async def generations(request: GenerationRequest) -> dict[str, Any]:
        async with turn:
            pictures = await asyncio.to_thread(draw_equal, engine, [request])
        return answer(pictures[0])

    return app


def batch_app(checkpoint: Path, rows: int) -> serve.Application:
    """Batches of at most so many requests, drawn group by group."""
    app = FastAPI()

    @serve.deployment(max_ongoing_requests=10 * rows, ray_actor_options={"num_cpus": 1})
    @serve.ingress(app)
    class Batching:
        def __init__(self):
            self._engine = load(checkpoint)

        @app.post("/v1/images/generations")
        async def generations(self, request: GenerationRequest) -> dict[str, Any]:
            return answer(await self.draw(request))

        @serve.batch(max_batch_size=rows, batch_wait_timeout_s=BATCH_WAIT)
        async def draw(self, requests: list[GenerationRequest]) -> list[Rgb]:
            return await asyncio.to_thread(draw_groups, self._engine, requests)

    return Batching.bind()


def draw_groups(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Rgb]:
    """One pipeline call for each kind of request; the pictures in the requests' order."""

    def kind(number: int) -> tuple[int, float]:
        return requests[number].num_inference_steps, requests[number].guidance_scale

    pictures: dict[int, Rgb] = {}
    for _, group in groupby(sorted(range(len(requests)), key=kind), kind):
        numbers = [*group]
        drawn = draw_equal(engine, [requests[number] for number in numbers])
        pictures |= dict(zip(numbers, drawn, strict=True))
    return [pictures[number] for number in range(len(requests))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("pipeline", "batch"))
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--rows", type=int, default=8, help="most requests of a batch")
    options = parser.parse_args()
    if options.peer == "pipeline":
        uvicorn.run(pipeline_app(load(options.checkpoint)), port=options.port, log_level="warning")
        return
    with ray_session(RayConfig(num_cpus=2)):
        serve.start(http_options={"host": "127.0.0.1", "port": options.port})
        serve.run(batch_app(options.checkpoint.resolve(), options.rows), blocking=True)


if __name__ == "__main__":
    main()

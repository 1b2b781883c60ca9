"""An image with previews as server-sent events, in the shapes of OpenAI's image streams."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.concurrency import run_in_threadpool

from flexip.images import Rgb
from flexip.request import Request
from jobs.receipt import RECEIPT, FileFormat, picture_file
from jobs.serving.batching import Batcher, Watch
from jobs.serving.errors import failed_body, late_body
from jobs.serving.logs import log_error
from jobs.serving.rows import Job

Kind = Literal["image_generation", "image_edit"]


def preview_calls(steps: int, previews: int) -> set[int]:
    """The calls after which previews are shown: evenly spread, never the last one."""
    return {steps * (i + 1) // (previews + 1) for i in range(previews)} - {0, steps}


@dataclass(frozen=True)
class Coming:
    """An image on its way, and its previews; None ends them."""

    image: "asyncio.Future[Rgb]"
    previews: "asyncio.Queue[Rgb | None]"


def enter(batcher: Batcher[Request, Rgb], job: Job, previews: int, seconds: float) -> Coming:
    """The image enters the queue before any event is sent. Raises Overloaded."""
    shown: asyncio.Queue[Rgb | None] = asyncio.Queue()
    watch: Watch[Rgb] = Watch(preview_calls(job.receipt.steps, previews), shown.put_nowait)
    (future,) = batcher.enter([job.request], seconds, watch)
    future.add_done_callback(lambda _: shown.put_nowait(None))
    return Coming(future, shown)


async def events(coming: Coming, job: Job, kind: Kind, file_format: FileFormat) -> AsyncIterator[str]:
    """Partial images and the completed one, or an error; the image is given up when nobody listens any more."""
    try:
        number = 0
        while (preview := await coming.previews.get()) is not None:
            file = await run_in_threadpool(picture_file, preview, None, file_format)
            yield _image_event(f"{kind}.partial_image", file, preview, file_format, {"partial_image_index": number})
            number += 1
        image = coming.image.result()
        file = await run_in_threadpool(picture_file, image, job.receipt, file_format)
        receipt = {"seed": job.receipt.seed, "receipt": RECEIPT.dump_python(job.receipt, mode="json")}
        yield _image_event(f"{kind}.completed", file, image, file_format, receipt)
    except TimeoutError:
        yield _event("error", late_body())
    except Exception as error:  # the answer has begun: what went wrong can only be told as an event
        log_error("a streamed image failed", error)
        yield _event("error", failed_body())
    finally:
        coming.image.cancel()


def _image_event(name: str, file: bytes, image: Rgb, file_format: FileFormat, more: Mapping[str, Any]) -> str:
    height, width = image.shape[:2]
    common = {
        "type": name,
        "b64_json": base64.b64encode(file).decode(),
        "created_at": int(time.time()),
        "size": f"{width}x{height}",
        "quality": "auto",
        "background": "opaque",
        "output_format": file_format,
    }
    return _event(name, {**common, **more})


def _event(name: str, data: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"

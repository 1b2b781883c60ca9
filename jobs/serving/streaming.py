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
from jobs.receipt import RECEIPT, FileFormat, Receipt, picture_file
from jobs.serving.batching import Batcher, Watch
from jobs.serving.errors import RequestError, error_body, failed_body, late_body
from jobs.serving.hooks import Hooks
from jobs.serving.logs import log_error
from jobs.serving.rows import Job

Kind = Literal["image_generation", "image_edit"]


def preview_calls(calls: int, previews: int) -> set[int]:
    """The calls after which previews are shown: evenly spread, never the last one."""
    return {calls * (i + 1) // (previews + 1) for i in range(previews)} - {0, calls}


@dataclass(frozen=True)
class Coming:
    """An image on its way, and its previews; None ends them."""

    image: "asyncio.Future[Rgb]"
    previews: "asyncio.Queue[Rgb | None]"


def enter(batcher: Batcher[Job, Rgb], job: Job, previews: int, seconds: float) -> Coming:
    """The image enters the queue before any event is sent. Raises Overloaded."""
    shown: asyncio.Queue[Rgb | None] = asyncio.Queue()
    watch: Watch[Rgb] = Watch(preview_calls(job.request.calls, previews), shown.put_nowait)
    (future,) = batcher.enter([job], seconds, watch)
    future.add_done_callback(lambda _: shown.put_nowait(None))
    return Coming(future, shown)


async def events(
    coming: Coming, receipt: Receipt, kind: Kind, file_format: FileFormat, hooks: Hooks
) -> AsyncIterator[str]:
    """Partial images and the completed one, or an error; the image is given up when nobody listens any more."""

    def file_of(image: Rgb, inside: Receipt | None) -> bytes:
        return picture_file(hooks(image, receipt), inside, file_format)

    try:
        number = 0
        while (preview := await coming.previews.get()) is not None:
            file = await run_in_threadpool(file_of, preview, None)
            yield _image_event(f"{kind}.partial_image", file, preview, file_format, {"partial_image_index": number})
            number += 1
        image = coming.image.result()
        file = await run_in_threadpool(file_of, image, receipt)
        told = {"seed": receipt.seed, "receipt": RECEIPT.dump_python(receipt, mode="json")}
        yield _image_event(f"{kind}.completed", file, image, file_format, told)
    except RequestError as error:
        yield _event("error", error_body(str(error), error.param, error.code))
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

"""The HTTP face of the service: OpenAI's image routes over a batcher. Knows no Ray."""

import asyncio
import base64
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from flexip.images import Rgb, encode_jpeg, encode_png
from flexip.references import ReferenceCache
from flexip.request import Request
from jobs.serving import errors
from jobs.serving.batching import Batcher
from jobs.serving.body_limit import BodyLimit
from jobs.serving.requests import (
    EditRequest,
    GenerationRequest,
    ImageData,
    ImageRequest,
    ImagesResponse,
    Served,
    decode_base64,
    decode_reference,
    to_rows,
)

MULTIPART = "multipart/form-data"
FILES = ("image", "image[]")  # the official client sends the second name when it is given a list
FIELDS = [*GenerationRequest.model_fields]


def build_app(batcher: Batcher[Request, Rgb], served: Served, references: ReferenceCache) -> FastAPI:
    """The application: two routes that draw, two that tell."""
    app = FastAPI(title="FlexIP", description="Subject-driven images whose identity-against-edit balance is a dial.")
    errors.install(app, FIELDS)
    app.add_middleware(BodyLimit, max_bytes=int(served.limits.body_mb * 1e6))
    started = int(time.time())

    @app.post("/v1/images/generations")
    async def generations(request: GenerationRequest) -> ImagesResponse:
        """Draw images from a prompt, and from a reference when `image` is given."""
        reference = None
        if request.image is not None:
            data = decode_base64(request.image)
            reference = await run_in_threadpool(decode_reference, data, served.limits, request.cut_out)
        return await _draw(batcher, request, reference, served)

    @app.post("/v1/images/edits", openapi_extra={"requestBody": _edit_body()})
    async def edits(http: HttpRequest) -> ImagesResponse:
        """Draw the subject of the uploaded `image` as the prompt says."""
        request, data = await _read_form(http)
        reference = await run_in_threadpool(decode_reference, data, served.limits, request.cut_out)
        return await _draw(batcher, request, reference, served)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        model = {"id": served.name, "object": "model", "created": started, "owned_by": "flexip"}
        return {"object": "list", "data": [model]}

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """Says that this replica lives, and what it has done."""
        counters = asdict(batcher.counters) | {"encoded": references.encoded, "not_encoded_again": references.hits}
        return {"status": "ok", "process": os.getpid(), "waiting": batcher.waiting, **counters}

    return app


async def _draw(
    batcher: Batcher[Request, Rgb], request: ImageRequest, reference: Rgb | None, served: Served
) -> ImagesResponse:
    rows = to_rows(request, reference, served)
    images = await batcher.submit(rows)
    encode: Any = encode_png if request.output_format == "png" else encode_jpeg
    files = await asyncio.gather(*(run_in_threadpool(encode, image) for image in images))
    data = [
        ImageData(b64_json=base64.b64encode(file).decode(), seed=row.seed)
        for file, row in zip(files, rows, strict=True)
    ]
    return ImagesResponse(created=int(time.time()), data=data)


async def _read_form(http: HttpRequest) -> tuple[EditRequest, bytes]:
    """The checked fields and the bytes of the one uploaded picture."""
    content_type = http.headers.get("content-type", "")
    if not content_type.startswith(MULTIPART):
        message = f"content-type = {errors.shorten(content_type)}: this route takes {MULTIPART}"
        raise errors.RequestError(message, "content-type", "unsupported_media_type", 415)
    async with http.form(max_files=len(FILES), max_fields=len(EditRequest.model_fields) + 1) as form:
        fields, data = _fields(form), await _picture(form)
    try:
        return EditRequest.model_validate(fields), data
    except ValidationError as error:
        raise errors.validation_error(error.errors(), [*EditRequest.model_fields, "image"]) from error


def _fields(form: FormData) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if name in FILES:
            continue
        if isinstance(value, UploadFile):
            message = f"{name}: unexpected file; the picture of the subject goes into the field image"
            raise errors.RequestError(message, name, "unknown_field", 422)
        if name in fields:
            raise errors.RequestError(f"{name}: given twice; send it once", name, "duplicate_field", 422)
        fields[name] = value
    return fields


async def _picture(form: FormData) -> bytes:
    pictures = [value for name in FILES for value in form.getlist(name)]
    if not pictures:
        message = "image: missing; upload the picture of the subject as a file field named image"
        raise errors.RequestError(message, "image", "missing_field", 422)
    if len(pictures) > 1:
        message = f"image: {len(pictures)} pictures; this model takes one subject"
        raise errors.RequestError(message, "image", status=422)
    if not isinstance(pictures[0], UploadFile):
        message = "image: a text field; send the picture as a file, e.g. curl -F image=@picture.png"
        raise errors.RequestError(message, "image", status=422)
    return await pictures[0].read()


def _edit_body() -> dict[str, Any]:
    """OpenAPI's description of the multipart body, which FastAPI does not see."""
    schema = EditRequest.model_json_schema()
    schema["properties"]["image"] = {
        "type": "string",
        "format": "binary",
        "description": "picture of the subject: PNG, JPEG or WebP",
    }
    schema["required"] = ["image", *schema.get("required", [])]
    return {"required": True, "content": {MULTIPART: {"schema": schema}}}

"""The HTTP face of the service: OpenAI's image routes and subjects, over a batcher. Knows no Ray."""

import asyncio
import base64
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, Path, UploadFile
from fastapi import Request as HttpRequest
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from flexip.images import Rgb
from flexip.references import ReferenceCache
from jobs.receipt import picture_file, sha256
from jobs.serving import errors
from jobs.serving.abilities import abilities
from jobs.serving.access import Access, AccessConfig, Rate
from jobs.serving.asked import Asked, Context
from jobs.serving.batching import Batcher
from jobs.serving.body_limit import BodyLimit
from jobs.serving.forms import Edit, form_description, read_edit
from jobs.serving.hooks import Hooks
from jobs.serving.metrics import Counted, Meters
from jobs.serving.pictures import decode_base64, decode_reference
from jobs.serving.playground import add_playground
from jobs.serving.requests import (
    SUBJECT_ID,
    GenerationRequest,
    ImageData,
    ImageRequest,
    ImagesResponse,
    Served,
    Subject,
)
from jobs.serving.rows import Job, to_jobs
from jobs.serving.streaming import Kind, enter, events
from jobs.serving.subjects import SubjectInfo, SubjectStore

FIELDS = [*dict.fromkeys([*GenerationRequest.model_fields, *Subject.model_fields])]  # whose nearest is proposed
SubjectId = Annotated[str, Path(pattern=SUBJECT_ID, description="as POST /v1/subjects gave it")]


@dataclass(frozen=True)
class Service:
    """What stands behind the routes."""

    batcher: Batcher[Job, Rgb]
    served: Served
    references: ReferenceCache
    store: SubjectStore
    access: AccessConfig
    meters: Meters
    hooks: Hooks = field(default_factory=Hooks)


def build_app(service: Service) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="FlexIP",
        description="Subject-driven images whose identity-against-edit balance is a dial.",
        dependencies=[Depends(HTTPBearer(auto_error=False))],  # for /docs: the check itself is `Access`
        responses={"4XX": {"model": errors.ErrorBody, "description": "what is wrong, and what would be right"}},
    )
    errors.install(app, FIELDS)
    limits, access = service.served.limits, service.access
    app.add_middleware(BodyLimit, max_bytes=int(limits.body_mb * 1e6), seconds=limits.body_seconds)
    app.add_middleware(Access, keys=access.keys, rate=Rate(access.per_minute))
    app.add_middleware(errors.Guard)
    service.meters.registry.register(Counted(service.batcher, service.references))
    _add_image_routes(app, service)
    _add_subject_routes(app, service)
    _add_telling_routes(app, service)
    add_playground(app, service.served, keys=bool(access.keys))
    return app


def _add_image_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/images/generations", response_model=ImagesResponse)
    async def generations(request: GenerationRequest, http: HttpRequest) -> Any:
        """Draw images from a prompt, and of a subject when there is one."""
        jobs = await _jobs(service, Asked(request, request.subjects, decode_base64), http)
        return await _answer(service, request, jobs, "image_generation")

    @app.post("/v1/images/edits", response_model=ImagesResponse, openapi_extra={"requestBody": form_description()})
    async def edits(http: HttpRequest) -> Any:
        """Draw the subjects of the uploaded images as the prompt says; with `mask`, into the first of them."""
        edit: Edit = await read_edit(http)
        asked = Asked(edit.request, edit.subjects, edit.file, edit.canvas, edit.request.strength)
        return await _answer(service, edit.request, await _jobs(service, asked, http), "image_edit")


def _add_subject_routes(app: FastAPI, service: Service) -> None:
    store, limits = service.store, service.served.limits

    @app.post("/v1/subjects")
    def upload(
        http: HttpRequest,
        image: Annotated[UploadFile, File(description="picture of the subject: PNG, JPEG or WebP")],
        cut_out: Annotated[bool, Form(description="cut the subject out of its picture, as in training")] = True,
    ) -> SubjectInfo:
        """Keep a subject's picture, to be used by its id until it expires."""
        data = image.file.read()
        reference = decode_reference(data, limits.image_megapixels, cut_out, "image")
        return store.add(_owner(http), reference, sha256(data), cut_out)

    @app.get("/v1/subjects")
    def subjects(http: HttpRequest) -> dict[str, Any]:
        """The subjects of this key."""
        return {"object": "list", "data": store.all(_owner(http))}

    @app.get("/v1/subjects/{subject_id}")
    def subject(subject_id: SubjectId, http: HttpRequest) -> SubjectInfo:
        """One subject of this key."""
        return store.info(_owner(http), subject_id)

    @app.delete("/v1/subjects/{subject_id}")
    def delete(subject_id: SubjectId, http: HttpRequest) -> dict[str, Any]:
        """Forget a subject, in all replicas."""
        store.remove(_owner(http), subject_id)
        return {"id": subject_id, "object": "subject.deleted", "deleted": True}


def _add_telling_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that are served: version in the registry, SHA-256 of the weights, sizes, and whether people."""
        models = [
            {
                "id": model.name,
                "object": "model",
                "created": model.since,
                "owned_by": "flexip",
                "version": model.version,
                "weights": model.engine.digest,
                **abilities(model, service.served),
            }
            for model in service.served.models.all()
        ]
        return {"object": "list", "data": models}

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """Says that this replica lives, and what it has done."""
        references = {"encoded": service.references.encoded, "not_encoded_again": service.references.hits}
        counters = asdict(service.batcher.counters) | references
        batcher = service.batcher
        now = {"waiting": batcher.waiting, "drawing": batcher.running}
        return {"status": "ok", "process": os.getpid(), **now, **counters}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Numbers for Prometheus, of the replica that answers."""
        return Response(service.meters.text(), media_type="text/plain; version=0.0.4")


def _owner(http: HttpRequest) -> str:
    return http.state.owner


async def _jobs(service: Service, asked: Asked, http: HttpRequest) -> list[Job]:
    context = Context(service.served, service.store, _owner(http))
    with service.meters.time("decode"):
        return await run_in_threadpool(to_jobs, asked, context)


async def _answer(service: Service, request: ImageRequest, jobs: Sequence[Job], kind: Kind) -> Any:
    """The images, or a stream of events on the way to the one image."""
    seconds, file_format = service.served.limits.seconds, request.output_format
    if request.stream:
        coming = enter(service.batcher, jobs[0], request.partial_images, seconds)
        shown = events(coming, jobs[0].receipt, kind, file_format, service.hooks)
        return StreamingResponse(shown, media_type="text/event-stream")
    images = await service.batcher.submit(jobs, seconds)

    def file_of(image: Rgb, job: Job) -> bytes:
        return picture_file(service.hooks(image, job.receipt), job.receipt, file_format)

    with service.meters.time("encode"):
        drawn = zip(images, jobs, strict=True)
        files = await asyncio.gather(*(run_in_threadpool(file_of, image, job) for image, job in drawn))
    data = [
        ImageData(b64_json=base64.b64encode(file).decode(), seed=job.receipt.seed, receipt=job.receipt)
        for file, job in zip(files, jobs, strict=True)
    ]
    size = jobs[0].receipt.size
    return ImagesResponse(created=int(time.time()), data=data, size=size, output_format=file_format)

"""The multipart body of an edit: checked fields, and the files beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from jobs.serving.errors import RequestError, shorten, validation_error
from jobs.serving.requests import EditRequest, Subject

MULTIPART = "multipart/form-data"
FILES = ("image", "image[]")  # the official client sends the second name when it is given a list
MOST_FILES = 32


@dataclass(frozen=True)
class Edit:
    """What came in one form."""

    request: EditRequest
    files: list[bytes]
    mask: bytes | None = None  # says where files[0], the canvas, is painted

    @property
    def canvas(self) -> tuple[bytes, bytes] | None:
        """What is painted into, and its mask."""
        return None if self.mask is None else (self.files[0], self.mask)

    @property
    def subjects(self) -> list[Subject[int]]:
        """Those that were described, or one for each file that is not the canvas."""
        if self.request.subjects is not None:
            return self.request.subjects
        first = 0 if self.mask is None else 1
        return [Subject[int].model_validate({"image": number}) for number in range(first, len(self.files))]

    def file(self, number: int, param: str) -> bytes:
        """The upload that a field counts to. Raises RequestError when there is none."""
        if not 0 <= number < len(self.files):
            message = f"{param} = {number}: {len(self.files)} pictures were uploaded; count them from 0"
            raise RequestError(message, param, status=422)
        return self.files[number]


async def read_edit(http: Request) -> Edit:
    """The form.

    Raises:
        RequestError: another content type, unknown or wrong fields, files where none belong.
    """
    content_type = http.headers.get("content-type", "")
    if not content_type.startswith(MULTIPART):
        message = f"content-type = {shorten(content_type)}: this route takes {MULTIPART}"
        raise RequestError(message, "content-type", "unsupported_media_type", 415)
    async with http.form(max_files=MOST_FILES, max_fields=len(EditRequest.model_fields) + 1) as form:
        fields, files, mask = _fields(form), await _files(form), await _mask(form)
    try:
        request = EditRequest.model_validate(fields)
    except ValidationError as error:
        names = [*EditRequest.model_fields, *Subject.model_fields]
        raise validation_error(error.errors(), names) from error
    _check_files(request, files, mask)
    return Edit(request, files, mask)


def _check_files(request: EditRequest, files: list[bytes], mask: bytes | None) -> None:
    """Raises RequestError for files that are missing, or that nothing names."""
    if not files and (mask is not None or request.subjects is None):
        wanted = "the picture of the subject" if mask is None else "the canvas, whose mask is here,"
        message = f"image: missing; upload {wanted} as a file field named image"
        raise RequestError(message, "image", "missing_field", 422)
    if request.strength is not None and mask is None:
        message = f"strength = {request.strength:g}: there is no canvas; send a mask, or leave strength out"
        raise RequestError(message, "strength", status=422)
    edit = Edit(request, files, mask)
    named = {number for subject in edit.subjects for number in (subject.image, subject.mask)}
    for number in range(0 if mask is None else 1, len(files)):
        if number not in named:
            message = f"image[{number}]: no subject names this upload; name it in subjects, or leave it out"
            raise RequestError(message, f"image[{number}]", status=422)


def _fields(form: FormData) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if name in (*FILES, "mask"):
            continue
        if isinstance(value, UploadFile):
            message = f"{name}: unexpected file; pictures go into the field image"
            raise RequestError(message, name, "unknown_field", 422)
        if name in fields:
            raise RequestError(f"{name}: given twice; send it once", name, "duplicate_field", 422)
        fields[name] = value
    return fields


async def _files(form: FormData) -> list[bytes]:
    return [await _upload(name, value) for name, value in form.multi_items() if name in FILES]


async def _mask(form: FormData) -> bytes | None:
    masks = [await _upload(name, value) for name, value in form.multi_items() if name == "mask"]
    if len(masks) > 1:
        raise RequestError("mask: given twice; send it once", "mask", "duplicate_field", 422)
    return masks[0] if masks else None


async def _upload(name: str, value: UploadFile | str) -> bytes:
    if isinstance(value, UploadFile):
        return await value.read()
    field = name.removesuffix("[]")
    message = f"{field}: a text field; send the picture as a file, e.g. curl -F {field}=@picture.png"
    raise RequestError(message, field, status=422)


def form_description() -> dict[str, Any]:
    """OpenAPI's description of the body, which FastAPI does not see."""
    schema = EditRequest.model_json_schema()
    schema.pop("$defs")  # of the fields that hold JSON, whose inside is described at generations
    for name in ("schedule", "subjects"):
        schema["properties"][name] = {"type": "string", "description": schema["properties"][name]["description"]}
    binary = {"type": "string", "format": "binary"}
    schema["properties"]["image"] = binary | {"description": "picture of a subject, with mask the canvas"}
    schema["properties"]["image[]"] = {"type": "array", "items": binary, "description": "instead of image: several"}
    told = "of the canvas, which the first image then is: transparent, or white, where it is painted"
    schema["properties"]["mask"] = binary | {"description": told}
    return {"required": True, "content": {MULTIPART: {"schema": schema}}}

"""What a client is told when something is wrong: OpenAI's error shape, one line naming field, value and remedy."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.serving.batching import Overloaded
from jobs.serving.logs import log_error

HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 408: "body_too_slow", 413: "body_too_large"}
PLACES = ("body", "path", "query", "header")  # where FastAPI found a field, in front of its name
NOT_SERVED = {  # OpenAI's fields that mean nothing here -> what would be right
    "style": "say it in the prompt",
    "input_fidelity": "send gate, which says how much of the subject is kept",
    "moderation": "leave it out; the operator decides",
    "output_compression": "leave it out; choose output_format",
}
LONGEST_VALUE = 60  # characters of a refused value that are repeated; a picture as base64 is millions long


class RequestError(Exception):
    """A request that cannot be served as it is. The message is for people, `param` and `code` are for programs."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value", status: int = 400):
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class ErrorFacts(BaseModel):
    """One error."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    error: ErrorFacts


def shorten(value: object) -> str:
    """The value as Python writes it, cut to a length that fits into one line."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def error_body(message: str, param: str | None, code: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def validation_error(problems: Sequence[Any], fields: Sequence[str]) -> RequestError:
    """All problems that pydantic found as one error; `param` is the first field. `fields` are the valid names."""
    first = problems[0]
    if first["type"] == "json_invalid" and first["loc"][0] == "body":  # elsewhere it is a field that holds JSON
        detail = first.get("ctx", {}).get("error", "")
        return RequestError(f"body: not JSON ({detail}); send one JSON object", None, "invalid_json", 400)
    message = "; ".join(_describe(problem, fields) for problem in problems)
    code = {"extra_forbidden": "unknown_field", "missing": "missing_field"}.get(first["type"], "invalid_value")
    return RequestError(message, _param(first), code, 422)


def _param(problem: Mapping[str, Any]) -> str | None:
    """The path of a field, as subjects[0].gate."""
    path = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"] if part not in PLACES
    )
    return path.lstrip(".") or None


def _describe(problem: Mapping[str, Any], fields: Sequence[str]) -> str:
    param = _param(problem) or "body"
    if problem["type"] == "extra_forbidden":
        if param in NOT_SERVED:
            return f"{param}: not served here; {NOT_SERVED[param]}"
        nearest = difflib.get_close_matches(param.rpartition(".")[2], fields, n=1)
        known = "leave it out" if "." in param else f"known: {', '.join(fields)}"
        hint = f"did you mean {nearest[0]}?" if nearest else known
        return f"{param}: unknown field; {hint}"
    if problem["type"] == "missing":
        return f"{param}: missing; this field is required"
    expected = problem["msg"]
    return f"{param} = {shorten(problem['input'])}: {expected[:1].lower()}{expected[1:]}"


def failed_body() -> dict[str, Any]:
    """Of a request that met a fault of the server."""
    message = "the server failed to answer this request; the cause is in its log"
    return error_body(message, None, "internal_error", "server_error")


def late_body() -> dict[str, Any]:
    """Of a request whose deadline passed: it was given up."""
    return error_body("the images were not ready in time; ask for fewer steps", None, "deadline_passed", "server_error")


class Guard:
    """ASGI middleware: what no handler expected is answered in the one shape, and logged without what a client sent."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:  # of whatever kind: it would be logged with its message further out
            log_error("a request failed", error)
            if not begun and scope["type"] == "http":
                await JSONResponse(failed_body(), 500)(scope, receive, send)


def install(app: FastAPI, fields: Sequence[str]) -> None:
    """Every error of the application, expected or not, leaves in the one shape."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestError)
        return JSONResponse(error_body(str(error), error.param, error.code), error.status)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return await refused(request, validation_error(error.errors(), fields))

    async def overloaded(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Overloaded)
        seconds = max(1, math.ceil(error.retry_after))
        message = f"the queue is full ({error.waiting} images waiting); try again in {seconds} s"
        body = error_body(message, None, "rate_limit_exceeded", "rate_limit_error")
        return JSONResponse(body, 429, headers={"Retry-After": str(seconds)})

    async def late(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse(late_body(), 504)

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = HTTP_CODES.get(error.status_code, "invalid_request")
        return JSONResponse(error_body(str(error.detail), None, code), error.status_code, headers=error.headers)

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Overloaded, overloaded)
    app.add_exception_handler(TimeoutError, late)
    app.add_exception_handler(HTTPException, http)

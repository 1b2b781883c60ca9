"""Refuses bodies that are too large, by their announced length or as soon as the bytes received say so."""

from fastapi import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.serving.errors import error_body


class BodyLimit:
    """ASGI middleware: a body of more than `max_bytes` is answered with 413 and not read to its end."""

    def __init__(self, app: ASGIApp, max_bytes: int):
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        message = f"body: more than {self._max_bytes / 1e6:g} MB; send a smaller picture"
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await JSONResponse(error_body(message, None, "body_too_large"), 413)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > self._max_bytes:
                # FastAPI lets this exception pass through its parsing and hands it to the application's error handler.
                raise HTTPException(413, message)
            return part

        await self._app(scope, counted, send)

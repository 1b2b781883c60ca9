"""Refuses bodies that are too large, by announced length or by bytes received, and those that come too slowly."""

import asyncio

from fastapi import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.serving.errors import error_body


class BodyLimit:
    """ASGI middleware: a body of more than `max_bytes` is answered with 413, one that takes over `seconds` with 408."""

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float):
        self._app, self._max_bytes, self._seconds = app, max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        message = f"body: more than {self._max_bytes / 1e6:g} MB; send a smaller picture"
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await JSONResponse(error_body(message, None, "body_too_large"), 413)(scope, receive, send)
            return
        received, whole, deadline = 0, False, asyncio.get_running_loop().time() + self._seconds

        async def counted() -> Message:
            # FastAPI lets HTTPException pass through its parsing and hands it to the application's error handler.
            nonlocal received, whole
            try:
                async with asyncio.timeout_at(None if whole else deadline):
                    part = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"body: not here after {self._seconds:g} s; send it faster") from error
            received, whole = received + len(part.get("body", b"")), not part.get("more_body", False)
            if received > self._max_bytes:
                raise HTTPException(413, message)
            return part

        await self._app(scope, counted, send)

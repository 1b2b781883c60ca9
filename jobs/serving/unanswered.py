"""In Serve's proxy: a request whose replica died before it answered gets a clean 503, and may be sent again.

Serve reads RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, which `jobs.serve` sets where it starts Ray itself.
"""

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.serving.errors import error_body

CALLBACK = "jobs.serving.unanswered:middlewares"
SECONDS_TO_RETRY = 2


def middlewares() -> list[Middleware]:
    """What Serve's proxy puts around every application."""
    return [Middleware(Unanswered)]


class Unanswered:
    """ASGI middleware: what comes back without an answer is answered with 503. Nothing is sent twice by it."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        await self._app(scope, receive, noted)
        if scope["type"] == "http" and not begun:
            message = f"the replica that drew this ended before its answer; try again in {SECONDS_TO_RETRY} s"
            body = error_body(message, None, "replica_ended", "server_error")
            await JSONResponse(body, 503, headers={"Retry-After": str(SECONDS_TO_RETRY)})(scope, receive, send)

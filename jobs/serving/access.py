"""Who may ask, and how often: bearer keys of which only hashes are configured, and a rate for each of them."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from jobs.config import Section
from jobs.serving.errors import error_body
from jobs.serving.playground import FOLDER

ANYONE = "anyone"  # whom everything belongs to when there are no keys
OPEN = ("/", "/healthz", "/docs", "/openapi.json")  # paths that need no key

KeyName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")]
KeyHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class AccessConfig(Section):
    """Keys and their rate."""

    keys: dict[KeyName, KeyHash] = Field(
        default={}, description="name -> SHA-256 (hex) of a bearer key; none: open to all, on a loopback host only"
    )
    per_minute: float = Field(
        default=60, gt=0, description="requests of one key that a replica takes in a minute; as many may come at once"
    )


@dataclass
class Rate:
    """A bucket of `per_minute` tokens for each key, which fills again within a minute."""

    per_minute: float
    clock: Callable[[], float] = time.monotonic
    _levels: dict[str, tuple[float, float]] = field(default_factory=dict)  # key -> tokens left, and when [s]

    def wait(self, key: str) -> float:
        """0 when the key may ask now, which takes a token; else the seconds until it may."""
        now = self.clock()
        level, then = self._levels.get(key, (self.per_minute, now))
        level = min(self.per_minute, level + (now - then) * self.per_minute / 60)
        allowed = level >= 1 or level == self.per_minute  # a rate below one a minute has no whole token
        self._levels[key] = (level - 1 if allowed else level), now
        return 0.0 if allowed else (1 - level) * 60 / self.per_minute


class Access:
    """ASGI middleware: answers 401 and 429 before a body is read; puts the key's name into the scope as its owner."""

    def __init__(self, app: ASGIApp, keys: Mapping[str, str], rate: Rate):
        self._app, self._rate = app, rate
        self._names = {digest: name for name, digest in keys.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        owner = ANYONE
        if self._names and scope["path"] not in OPEN and not scope["path"].startswith(FOLDER):
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            found = self._names.get(hashlib.sha256(key.strip().encode()).hexdigest())
            if scheme.lower() != "bearer" or found is None:
                return _unauthorized("unknown key" if key else "missing")
            owner = found
        scope.setdefault("state", {})["owner"] = owner
        if scope["method"] == "POST" and self._names and (seconds := self._rate.wait(owner)):
            return _too_often(math.ceil(seconds))
        return None


def _unauthorized(problem: str) -> JSONResponse:
    message = f"authorization: {problem}; send the header Authorization: Bearer KEY with a key of this service"
    body = error_body(message, "authorization", "invalid_api_key")
    return JSONResponse(body, 401, headers={"WWW-Authenticate": "Bearer"})


def _too_often(seconds: int) -> JSONResponse:
    message = f"this key asks too often; try again in {seconds} s"
    body = error_body(message, None, "rate_limit_exceeded", "rate_limit_error")
    return JSONResponse(body, 429, headers={"Retry-After": str(seconds)})

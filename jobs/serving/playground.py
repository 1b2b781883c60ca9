"""The playground at `/`: a page that draws through the public HTTP routes alone, and so is their first client too.

A plain page and not Gradio, for these reasons. Gradio keeps its queue and its sessions in one process, so it would have
to be a deployment of one replica, a second way to the model with protection of its own; this page is files, which every
replica serves, and what it asks for meets the same keys, rates and limits as any other request. Gradio has no
two-dimensional pad, and comes with some forty packages; here is nothing to install. And under its
Content-Security-Policy the page can load and call nothing but this service, with which it works offline.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from flexip.images import encode_png
from flexip.pocket.identity import Identity, identity
from flexip.pocket.world import Picture, Placement, render
from jobs.serving.abilities import abilities
from jobs.serving.requests import ImageRequest, Served

PAGE = Path(__file__).parent / "page"
FOLDER = "/playground/"  # of all that the page loads
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a newer page comes with a newer service
}
CREATURES = ((28, "meadow"), (20, "snow"), (3, "desert"), (17, "forest"))  # identities that no training sees, at home
CREATURE_SIDE = 256  # [px]


def add_playground(app: FastAPI, served: Served, keys: bool) -> None:
    """Adds the page and what it loads. None of it needs a key; `keys`: whether drawing does."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=HEADERS)

    @app.get(FOLDER + "service.json", include_in_schema=False)
    def service() -> Response:
        return JSONResponse(facts(served, keys), headers={"Cache-Control": "no-cache"})

    @app.get(FOLDER + "creatures/{number}.png", include_in_schema=False)
    def creature(number: int) -> Response:
        if not 0 <= number < len(CREATURES):
            raise HTTPException(404, f"{number}: creatures are counted from 0 to {len(CREATURES) - 1}")
        return Response(creature_png(number), media_type="image/png", headers={"Cache-Control": "max-age=86400"})

    app.mount(FOLDER, StaticFiles(directory=PAGE))


def facts(served: Served, keys: bool) -> dict[str, Any]:
    """What the page has to know of the service before anybody has given a key."""
    fields = ImageRequest.model_fields
    return {
        "models": {model.name: abilities(model, served) for model in served.models.all()},
        "keys": keys,
        "limits": served.limits.model_dump(include={"steps", "body_mb", "image_megapixels"}),
        "defaults": {name: fields[name].default for name in ("num_inference_steps", "guidance_scale")},
        "subjects": [
            {
                "name": _name(identity("test", who)),
                "url": f"playground/creatures/{number}.png",
                "sha256": hashlib.sha256(creature_png(number)).hexdigest(),
            }
            for number, (who, _) in enumerate(CREATURES)
        ],
    }


@functools.cache
def creature_png(number: int) -> bytes:
    """The file of a subject for those who have none at hand."""
    who, scene = CREATURES[number]
    placed = Placement(identity("test", who), expression="happy", size=0.62)
    return encode_png(render(Picture((placed,), scene=scene), CREATURE_SIDE).image)


def _name(who: Identity) -> str:
    return f"{who.colour} {who.shape} creature with {who.top}"

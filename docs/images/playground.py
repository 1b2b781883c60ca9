"""Makes docs/images/playground.jpg: the playground over the models themselves, after a sweep over the dial.

python docs/images/playground.py                                   with adapters before any training
python docs/images/playground.py --checkpoint run/checkpoint --people runs/pocket/people/checkpoint --guidance 2
"""

import argparse
import io
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

from flexip.checkpoint import save_checkpoint
from flexip.encoders import load_encoders, load_unet
from flexip.model import FlexIP, adapter_config
from jobs.serving.access import AccessConfig
from jobs.serving.deployment import Capacity, ImageService, Settings
from jobs.serving.hooks import HooksConfig
from jobs.serving.models import PeopleConfig, RegistryConfig
from jobs.serving.requests import LimitsConfig
from jobs.serving.subjects import SubjectsConfig

PICTURE = Path(__file__).with_name("playground.jpg")
SIZE = {"width": 1280, "height": 1000}
QUALITY = 86  # for a file of about 150 KB
PATIENCE = 600_000  # [ms]


def untrained(folder: Path) -> Path:
    """A checkpoint of adapters with their initial weights on the pocket models."""
    torch.manual_seed(0)
    encoders, unet = load_encoders(), load_unet()
    model = FlexIP(unet, adapter_config(unet, encoders.shapes))
    return save_checkpoint(folder, model, names=encoders.names, fingerprints=encoders.fingerprints)


def screenshot(chromium: str, url: str, steps: int, guidance: float, seed: int) -> bytes:
    """PNG of the page with a picture, its neighbours on the pad, and the sweep."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, reduced_motion="reduce")  # type: ignore[arg-type]
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        for field, value in (("steps", steps), ("guidance", guidance), ("seed", seed)):
            page.fill(f"#{field}", str(value))
        page.click("#sweep")
        page.locator("#history li").nth(4).wait_for()
        page.locator("#strip button").nth(3).click()
        page.mouse.move(0, 0)
        page.evaluate("scrollTo(0, 0)")
        picture = page.screenshot()
        browser.close()
    return picture


@contextmanager
def listening(checkpoint: Path, people: Path | None, subjects: Path) -> Iterator[str]:
    """The service's application, in a thread and without Ray; gives its URL."""
    settings = Settings(
        sources={"flexip": str(checkpoint)},
        registry=RegistryConfig(),
        limits=LimitsConfig(),
        access=AccessConfig(),
        subjects=SubjectsConfig(folder=subjects),
        hooks=HooksConfig(),
        people=PeopleConfig(checkpoint=people),
    )
    service = ImageService(settings, Capacity(batch_rows=8, queue_rows=32, cache_mb=256))
    server = uvicorn.Server(uvicorn.Config(service.__serve_build_asgi_app__(), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.1)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="of the adapters; none: they have their initial weights")
    parser.add_argument("--people", type=Path, help="DynamicID checkpoint; none: no inputs for people")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or sys.exit("chromium is missing; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = options.checkpoint or untrained(Path(folder) / "checkpoint")
        with listening(checkpoint, options.people, Path(folder)) as url:
            picture = screenshot(chromium, url, options.steps, options.guidance, options.seed)
    Image.open(io.BytesIO(picture)).convert("RGB").save(PICTURE, quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()

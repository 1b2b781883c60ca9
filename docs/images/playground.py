"""Makes docs/images/playground.jpg: the playground of a running service, after a sweep over the dial.

python -m jobs.serve --checkpoint run/checkpoint --port 8000 &
python docs/images/playground.py --url http://127.0.0.1:8000 --guidance 2
"""

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_name("playground.jpg")
SIZE = {"width": 1280, "height": 860}
QUALITY = 86  # for a file of about 100 KB
PATIENCE = 600_000  # [ms]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or sys.exit("chromium is missing; on Debian: apt-get install chromium")
    picture = screenshot(chromium, options.url, options.steps, options.guidance, options.seed)
    Image.open(io.BytesIO(picture)).convert("RGB").save(PICTURE, quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()

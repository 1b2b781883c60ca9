"""The playground's page in a test: opening it, and reading off what it says."""

import shutil
from pathlib import Path
from typing import Any

from service import LIMITS

from jobs.receipt import Receipt, read_receipt

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
ROOM = LIMITS.model_copy(update={"steps": 30, "body_mb": 1})


def go(page: Any, url: str) -> None:
    """Opens the page and waits until it can be used."""
    page.goto(url)
    page.wait_for_selector("html[data-ready]")


def drawn(page: Any, count: int) -> None:
    """Returns when so many pictures lie in the history and nothing is being drawn."""
    page.locator("#history li").nth(count - 1).wait_for()
    page.locator("#stop").wait_for(state="hidden")
    assert page.locator("#history li").count() == count


def receipt(page: Any) -> dict[str, str]:
    """What stands beside the picture."""
    names, values = (page.locator(f"#receipt {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def downloaded(page: Any) -> Receipt:
    """What the file of the picture itself says."""
    with page.expect_download() as download:
        page.click("#download")
    return read_receipt(Path(download.value.path()).read_bytes())


def drag(page: Any, element: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Presses the mouse at a place of an element, in fractions of its size, and lets go at another."""
    page.locator(element).scroll_into_view_if_needed()
    box = page.locator(element).bounding_box()
    at = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=4)
    page.mouse.up()

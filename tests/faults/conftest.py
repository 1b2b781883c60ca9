"""A browser, and the playground opened in it over the service's application and real sockets."""

from collections.abc import Iterator
from typing import Any

import pytest
from page import CHROMIUM, ROOM, go
from service import Stand, listening, stand


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def service(tmp_path) -> Iterator[tuple[Stand, str]]:
    service = stand(tmp_path / "subjects", limits=ROOM, pause=0.005)
    with listening(service.app) as url:
        yield service, url


@pytest.fixture
def opened(browser, service) -> Iterator[Any]:
    """The page, which must load nothing from elsewhere and throw no error."""
    context, wrong = browser.new_context(viewport={"width": 1280, "height": 860}), []
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    page.on("request", lambda it: None if it.url.startswith((service[1], "blob:")) else wrong.append(it.url))
    go(page, service[1])
    yield page
    context.close()
    assert wrong == []

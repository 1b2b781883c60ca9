"""The playground in a real browser: a user's whole path, over the service's application and real sockets."""

import hashlib
import re
from typing import Any

import httpx
import numpy as np
import pytest
from page import ROOM, downloaded, drawn, go, receipt
from service import listening, stand

from flexip.images import encode_png
from jobs.receipt import sha256
from jobs.serving.access import AccessConfig

KEY = "key of alice"
ACCESS = AccessConfig(keys={"alice": hashlib.sha256(KEY.encode()).hexdigest()})


def _drag(page: Any, personalization: float, preservation: float) -> None:
    page.hover("#handle")
    box = page.locator("#plane").bounding_box()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * personalization, box["y"] + box["height"] * (1 - preservation), steps=3)
    page.mouse.up()


def test_a_first_visitor_sees_a_picture_after_one_click(opened, service):
    opened.click("#draw")
    drawn(opened, 1)
    said, (kept,) = receipt(opened), service[0].store.all("anyone")
    assert said["Prompt"] == opened.input_value("#prompt") == opened.get_attribute("#picture", "alt")
    assert (said["Preservation"], said["Personalization"]) == ("0.50", "0.50")
    assert said["Subject"] == kept.sha256[:12]


def test_a_users_whole_path(opened, service, reference):
    png = encode_png(reference)
    opened.set_input_files("#upload", {"name": "disc.png", "mimeType": "image/png", "buffer": png})
    opened.locator("[title='disc.png'] input:checked").wait_for()
    opened.fill("#prompt", "a disc on a beach")
    _drag(opened, 0.25, 0.75)
    assert service[0].asked == []  # letting go draws only after a first picture was asked for
    opened.click("#draw")
    drawn(opened, 1)
    said = receipt(opened)
    assert (said["Prompt"], said["Seed"]) == ("a disc on a beach", "1")
    assert abs(float(said["Preservation"]) - 0.75) < 0.02
    assert abs(float(said["Personalization"]) - 0.25) < 0.02
    (shown,) = downloaded(opened).subjects
    assert shown.sha256 == sha256(png)

    opened.click("#sweep")
    drawn(opened, 6)
    assert opened.locator("#marks button").count() == 6
    for place, gate in enumerate(("0.00", "0.25", "0.50", "0.75", "1.00")):
        opened.locator("#strip button").nth(place).click()
        assert receipt(opened)["Preservation"] == opened.inner_text("#preservation-is") == gate
        assert receipt(opened)["Seed"] == "1"

    _drag(opened, 0.9, 0.9)
    drawn(opened, 7)
    opened.reload()
    opened.wait_for_selector("html[data-ready]")
    drawn(opened, 7)
    opened.locator("#history button").last.click()
    assert receipt(opened) == said
    opened.click("#again")
    assert opened.input_value("#prompt") == "a disc on a beach"
    assert opened.locator("[title='disc.png'] input").is_checked()
    assert service[0].references.encoded == 1


def test_nothing_moves_while_pictures_come(opened):
    opened.evaluate(
        "() => { window.shift = 0; const seen = (list) => list.getEntries().forEach((it) => shift += it.value);"
        " new PerformanceObserver(seen).observe({ type: 'layout-shift', buffered: true }) }"
    )
    opened.click("#draw")
    drawn(opened, 1)
    opened.click("#sweep")
    drawn(opened, 6)
    assert opened.evaluate("shift") < 0.02  # what moves is the history, whose newest picture comes first


WRONG = [
    ("steps", "99", "numbers", "Steps should be less than or equal to 30."),
    ("steps", "", "numbers", "Steps should be a number."),
    ("guidance", "0.5", "numbers", "Guidance should be greater than or equal to 1."),
    ("seed", "-1", "numbers", "Seed should be greater than or equal to 0."),
    ("prompt", "  ", "prompt", "Should say what to draw."),
    ("prompt", "x" * 101, "prompt", "101 characters; at most 100 are accepted."),
]


def test_what_is_wrong_is_said_beside_the_field(opened):
    for count, (field, value, line, said) in enumerate(WRONG, start=1):
        opened.fill(f"#{field}", value)
        opened.click("#draw")
        opened.locator(f"#{line}-says.wrong").wait_for()
        assert opened.inner_text(f"#{line}-says") == said
        assert opened.get_attribute(f"#{field}", "aria-invalid") == "true"
        assert opened.evaluate("document.activeElement.id") == field
        opened.fill(f"#{field}", "5" if field != "prompt" else "a disc")
        opened.click("#draw")
        drawn(opened, count)
        assert opened.locator(".wrong").count() == 0


def test_an_upload_that_is_no_picture_is_refused_beside_the_subjects(opened):
    for data, said in ((b"some text", "Not an image"), (encode_png(np.zeros((400, 400, 3), np.uint8)), "too large")):
        opened.set_input_files("#upload", {"name": "x.png", "mimeType": "image/png", "buffer": data})
        opened.locator("#subject-says.wrong", has_text=re.compile(said)).wait_for()


def test_a_subject_that_has_expired_is_sent_again(opened, service):
    opened.click("#draw")
    drawn(opened, 1)
    (kept,) = service[0].store.all("anyone")
    service[0].store.remove("anyone", kept.id)
    opened.click("#draw")
    drawn(opened, 2)
    assert len(service[0].store.all("anyone")) == 1


def test_the_pad_and_the_dial_are_turned_from_the_keyboard(opened):
    opened.focus("#handle")
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft", "Shift+ArrowRight"):
        opened.keyboard.press(key)
    assert opened.get_attribute("#handle", "aria-valuetext") == "preservation 0.60, personalization 0.46"
    opened.check("[name=way][value=dial]", force=True)
    assert opened.get_attribute("#handle", "aria-valuetext") == "preservation 0.57, personalization 0.43"
    opened.focus("#personalization")
    opened.keyboard.press("Home")
    assert opened.get_attribute("#handle", "aria-valuetext") == "preservation 1.00, personalization 0.00"
    opened.keyboard.press("Control+Enter")
    drawn(opened, 1)


def test_stopping_gives_the_picture_up(browser, tmp_path):
    with listening(stand(tmp_path, limits=ROOM, pause=0.1).app) as url:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        go(page, url)
        page.click("#draw")
        page.get_by_alt_text("Preview").wait_for()
        page.click("#stop")
        page.locator("#stage.drawing").wait_for(state="detached")
        assert page.locator("#history li").count() == 0
        page.wait_for_timeout(1000)
        assert httpx.get(f"{url}/healthz").json()["abandoned"] == 1
        page.close()


def test_a_service_with_keys_asks_for_one_and_the_page_itself_needs_none(browser, tmp_path):
    with listening(stand(tmp_path, ACCESS, limits=ROOM).app) as url:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        go(page, url)
        page.click("#draw")
        page.locator("#key-says", has_text="Give a key first.").wait_for()
        for key, said in (("wrong", "The service does not know this key."), (KEY, "Stays in this tab")):
            page.fill("#key", key)
            page.press("#key", "Enter")
            page.locator("#key-says", has_text=said).wait_for()
        page.click("#draw")
        drawn(page, 1)
        page.close()
        assert httpx.get(f"{url}/v1/subjects").status_code == 401


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_the_page_fits_a_phone_and_the_night(browser, service, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 780}, color_scheme=scheme)
    page = context.new_page()
    go(page, service[1])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 150) == (scheme == "dark")
    context.close()

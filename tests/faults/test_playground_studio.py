"""Several subjects, the gate over the steps and the canvas, in a real browser, by mouse and by keyboard."""

import numpy as np
import pytest
from page import downloaded, drag, drawn, go, receipt

from flexip.images import encode_png

SECOND = 3  # input of the second creature, after the upload, nobody and the first
NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, summary, [tabindex='0']")]
  .filter((it) => it.checkVisibility())
  .filter((it) => !(it.ariaLabel || it.title || it.labels?.length || it.textContent.trim()))
  .map((it) => it.outerHTML)"""


def test_two_subjects_have_weights_and_boxes_of_their_own(opened, service):
    opened.click("#more-subjects")
    opened.locator("#subjects input").nth(SECOND).check(force=True)
    opened.focus("#preservation")
    opened.keyboard.press("Home")
    opened.locator("#boxes .box").nth(1).focus()
    for key in ("ArrowLeft", "Shift+ArrowUp"):
        opened.keyboard.press(key)
    opened.click("#draw")
    drawn(opened, 1)
    first, second = downloaded(opened).subjects
    assert first.sha256 != second.sha256
    assert (first.preservation, first.personalization, first.box) == (0.5, 0.5, (0, 0, 0.5, 1))
    assert (second.preservation, second.personalization) == (0, 0.5)
    assert second.box == pytest.approx((0.48, 0, 0.98, 0.98))
    assert receipt(opened)["Subject 2"].endswith("0.00 / 0.50, box 48 0 98 98 %")
    left, right = (subject.mask for subject in service[0].asked[0].subjects)
    assert (left[:, :6].min(), left[:, 10:].max()) == (1, 0)
    assert (right[:14, 9:14].min(), right[:, :6].max()) == (1, 0)

    drag(opened, "#boxes", (0.955, 0.955), (0.755, 0.455))  # the corner of the second
    drawn(opened, 2)  # when let go
    assert "48 %, 0 %, 78 %, 48 %" in opened.locator("#boxes .box").nth(1).get_attribute("aria-label")
    opened.get_by_label("Leave subject 1 out").click()
    assert opened.locator(".slot, .box").count() == 0
    opened.click("#draw")
    drawn(opened, 3)
    (alone,) = downloaded(opened).subjects
    assert (alone.sha256, alone.box, alone.preservation) == (second.sha256, None, 0)


def test_up_to_five_subjects_come(opened, service):
    for _ in range(4):
        opened.click("#more-subjects")
    assert opened.is_disabled("#more-subjects")
    opened.click("#draw")
    drawn(opened, 1)
    widths = [box[2] - box[0] for subject in downloaded(opened).subjects if (box := subject.box)]
    assert widths == pytest.approx([0.2] * 5)
    assert service[0].references.encoded == 1


def test_the_gate_goes_over_the_steps(opened, service):
    opened.uncheck("#eager")
    opened.select_option("#schedule", "linear")
    opened.focus("#last")
    opened.keyboard.press("Home")
    assert opened.is_disabled("#preservation")
    opened.click("#draw")
    drawn(opened, 1)
    opened.select_option("#schedule", "window")
    opened.focus("#start")
    opened.keyboard.press("ArrowRight")
    opened.click("#draw")
    drawn(opened, 2)
    ramp, part = (np.array(request.subjects[0].preservation) for request in service[0].asked)
    np.testing.assert_allclose(ramp, np.linspace(1, 0, 25))
    assert (part[0], part[5], part[12], part[-1]) == (0, 0, 0.5, 0)
    assert "values over the steps" in receipt(opened)["Preservation"]
    opened.click("#sweep")
    drawn(opened, 7)
    assert {max(request.subjects[0].preservation) for request in service[0].asked[2:]} == {0, 0.25, 0.5, 0.75, 1}


def test_a_canvas_is_painted_and_comes_back(opened, service):
    wide = np.full((20, 40, 3), 200, np.uint8)
    wide[:, 10:30] = (10, 90, 30)
    file = {"name": "canvas.png", "mimeType": "image/png", "buffer": encode_png(wide)}
    opened.locator("#canvas summary").click()
    opened.set_input_files("#canvas-file", file)
    opened.locator("#paint").wait_for()
    opened.click("#draw")
    opened.locator("#canvas-says.wrong", has_text="Paint where it may change").wait_for()
    opened.check("[name=shown][value=mask]", force=True)
    drag(opened, "#paint", (0.1, 0.28), (0.9, 0.28))
    opened.focus("#strength")
    opened.keyboard.press("ArrowLeft")
    opened.click("#draw")
    drawn(opened, 1)
    canvas = service[0].asked[0].canvas
    assert (canvas.image == (10, 90, 30)).all()  # the middle square
    assert canvas.mask[4, 2:14].min() > 0.5
    assert canvas.mask[9:].max() == 0
    assert canvas.strength == pytest.approx(0.95)
    assert receipt(opened)["Canvas"].endswith("strength 0.95")

    opened.check("[name=shown][value=mask]", force=True)
    opened.focus("#paint")
    for key in ("Control+z", "ArrowDown", "ArrowDown", " "):
        opened.keyboard.press(key)
    opened.click("#draw")
    drawn(opened, 2)
    dab = service[0].asked[1].canvas.mask
    assert 0 < dab.sum() < canvas.mask.sum()

    opened.reload()
    opened.wait_for_selector("html[data-ready]")
    opened.locator("#history button").last.click()
    opened.click("#again")
    opened.locator("#canvas-tools").wait_for()
    opened.click("#draw")
    drawn(opened, 3)
    np.testing.assert_array_equal(service[0].asked[2].canvas.mask, canvas.mask)


def test_a_canvas_that_is_no_picture_is_refused_beside_it(opened):
    opened.locator("#canvas summary").click()
    opened.set_input_files("#canvas-file", {"name": "x.png", "mimeType": "image/png", "buffer": b"some text"})
    opened.locator("#canvas-says.wrong", has_text="no picture").wait_for()
    assert opened.locator("#canvas-tools").is_hidden()


def test_all_of_it_fits_a_phone_and_has_a_name(browser, service):
    context = browser.new_context(viewport={"width": 360, "height": 780}, color_scheme="dark")
    page = context.new_page()
    go(page, service[1])
    for _ in range(4):
        page.click("#more-subjects")
    page.select_option("#schedule", "window")
    page.locator("#canvas summary").click()
    file = {"name": "c.png", "mimeType": "image/png", "buffer": encode_png(np.zeros((16, 16, 3), np.uint8))}
    page.set_input_files("#canvas-file", file)
    page.locator("#paint").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(NAMELESS) == []
    context.close()

"""Several subjects, people, the gate over the steps, sizes and the canvas, in a real browser, by mouse and keys."""

import numpy as np
import pytest
from page import ROOM, downloaded, drag, drawn, go, receipt
from service import Sitters, listening, stand

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


def test_pictures_have_other_shapes(opened, service):
    options = opened.locator("#size option").all_inner_texts()
    assert options == ["Square, 16 × 16", "Wide, 24 × 16", "Tall, 16 × 24", "Other"]
    opened.select_option("#size", "24x16")
    opened.check("#boxed")
    opened.click("#draw")
    drawn(opened, 1)
    assert (service[0].asked[0].size, receipt(opened)["Size"]) == ((16, 24), "24 × 16 px")
    sheet, boxes, stage = (opened.locator(name).bounding_box() for name in ("#sheet", "#boxes", "#stage"))
    assert boxes == sheet
    assert sheet["width"] / sheet["height"] == pytest.approx(1.5, abs=0.01)
    assert stage["width"] == pytest.approx(stage["height"], abs=1)

    opened.select_option("#size", "")
    wrong = ("12", "Sides must be multiples of 8 pixels; 16x16 would be."), ("", "should be whole numbers")
    for width, said in wrong:
        opened.fill("#width", width)
        opened.click("#draw")
        opened.locator("#numbers-says.wrong", has_text=said).wait_for()
        assert opened.evaluate("document.activeElement.id") == "width"
    for name, side in (("width", "32"), ("height", "8")):
        opened.fill(f"#{name}", side)
    opened.click("#draw")
    drawn(opened, 2)
    assert service[0].asked[1].size == (8, 32)
    opened.locator("#history button").last.click()
    opened.click("#again")
    assert opened.input_value("#size") == "24x16"


def test_a_canvas_is_cut_to_the_shape_of_the_picture(opened, service):
    stripes = np.full((48, 48, 3), 200, np.uint8)
    stripes[16:32] = (0, 90, 30)
    file = {"name": "canvas.png", "mimeType": "image/png", "buffer": encode_png(stripes)}
    opened.locator("#canvas summary").click()
    opened.set_input_files("#canvas-file", file)
    opened.click("#canvas-all")
    opened.select_option("#size", "")
    for name, side in (("width", "24"), ("height", "8")):
        opened.fill(f"#{name}", side)
        opened.press(f"#{name}", "Tab")
    opened.click("#draw")
    drawn(opened, 1)
    (asked,) = service[0].asked
    assert asked.size == asked.canvas.mask.shape == (8, 24)
    assert asked.canvas.mask.all()
    assert (asked.canvas.image == (0, 90, 30)).all()  # the middle third


def test_a_subject_that_is_a_person_has_an_expression_and_a_pose(browser, tmp_path):
    face, nobody = np.full((2, 32, 32, 3), 255, np.uint8)
    face[0, 0, 0], nobody[0, 0, 0] = 1, 0  # so many faces it shows
    with listening(stand(tmp_path, limits=ROOM, casting=Sitters()).app) as url:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        go(page, url)
        page.get_by_text("More", exact=True).click()
        page.uncheck("#cut")
        for name, picture in (("nobody", nobody), ("face", face)):
            file = {"name": f"{name}.png", "mimeType": "image/png", "buffer": encode_png(picture)}
            page.set_input_files("#upload", file)
            page.locator(f"[title='{name}.png'] input:checked").wait_for()
            page.check("#is-person")
            if name == "nobody":
                page.click("#draw")
                page.locator("#subject-says.wrong", has_text="No face found").wait_for()
        page.select_option("#expression", "sad")
        page.select_option("#pose", "left")
        page.click("#draw")
        drawn(page, 1)
        (subject,) = downloaded(page).subjects
        assert (subject.person, subject.expression, subject.pose) == (True, "sad", "left")
        assert receipt(page)["Person"] == "sad, looking left"
        page.select_option("#model", "other")
        assert page.locator("#person").is_hidden()
        page.click("#draw")
        drawn(page, 2)
        assert not downloaded(page).subjects[0].person
        page.locator("#history button").last.click()
        page.click("#again")
        assert [page.input_value(field) for field in ("#model", "#expression", "#pose")] == ["flexip", "sad", "left"]
        page.close()


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
    page.select_option("#size", "")
    page.locator("#canvas summary").click()
    file = {"name": "c.png", "mimeType": "image/png", "buffer": encode_png(np.zeros((16, 16, 3), np.uint8))}
    page.set_input_files("#canvas-file", file)
    page.locator("#paint").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(NAMELESS) == []
    context.close()

"""Web page in Chromium: grading an image, error messages, accessibility.

Requires what tests/report/test_report_browser.py requires.
"""

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.evaluation.predictions import read_predictions
from fof_jax.inference import exported
from fof_jax.inference.serve import app, results, uploads
from tests.support import pages
from tests.support.slide_files import on_glass, write_slide

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright",
    reason="the extra `browser` is not installed",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(small_run):
    return fof_jax.load(small_run)


@pytest.fixture(scope="module")
def port(model):
    with pages.served(model) as port:
        yield port


def shown_grade(page, port, file):
    page.goto(f"http://127.0.0.1:{port}/")
    page.set_input_files("#file", file)
    page.wait_for_selector("#result:not([hidden])", timeout=120_000)


def test_an_exported_file_shows_a_note_instead_of_the_map(
    browser, small_run, small_pictures, tmp_path
):
    exported.write(tmp_path / "model.fof", fof_jax.load(small_run), card="# Card\n")
    Image.fromarray(next(iter(small_pictures.values()))).save(tmp_path / "a.png")
    page = browser.new_page()
    with pages.served(fof_jax.load(tmp_path / "model.fof")) as port:
        shown_grade(page, port, tmp_path / "a.png")
        assert page.locator("#rows tr").count() == 3
        assert page.is_visible("#no-map")
        assert not page.is_visible("#target")
        assert not page.is_visible("#overlay")
        page.close()


def test_retry_on_503_and_size_limit(
    browser, port, model, small_pictures, tmp_path, monkeypatch
):
    """The first response is 503; the retry gets the grade."""
    real, calls = results.grade_image, []

    def busy_once(*words):
        calls.append(words)
        if len(calls) == 1:
            raise uploads.RequestError(503, "busy")
        return real(*words)

    monkeypatch.setattr(results, "grade_image", busy_once)
    Image.fromarray(next(iter(small_pictures.values()))).save(tmp_path / "a.png")
    page = browser.new_page()
    shown_grade(page, port, tmp_path / "a.png")
    assert len(calls) == 2
    large = f"new File([new Uint8Array({app.MAX_BYTES + 1})], 'b.tif')"
    page.evaluate(f"gradeFiles([{large}])")
    assert "choose a smaller file" in page.text_content("#status")
    assert not page.is_visible("#result")
    assert len(calls) == 2
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_an_image_is_graded(
    browser, port, model, small_pictures, tmp_path, width, scheme
):
    """Tolerance 1e-5 between page and model."""
    pixels = next(iter(small_pictures.values()))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    messages, urls = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: urls.append(request.url))
    shown_grade(page, port, tmp_path / "a.png")
    shown = page.eval_on_selector_all(
        "#rows td[data-value]", "cells => cells.map(cell => Number(cell.dataset.value))"
    )
    grades = model.predict([pixels])
    np.testing.assert_allclose(shown, grades.prob[0], atol=1e-5)
    assert grades.pred[0] in page.text_content("#grade")
    assert page.is_visible("#synthetic")
    p = np.sort(grades.prob[0])
    assert page.is_visible("#uncertain") == bool(p[-1] - p[-2] < results.MIN_MARGIN)
    assert "Eq." not in page.inner_text("main")
    boxes = {i: page.locator(f"#{i}").bounding_box() for i in ("original", "overlay")}
    bar = page.locator(".gradient").bounding_box()
    beside = boxes["overlay"]["x"] + boxes["overlay"]["width"]
    assert 0 <= bar["x"] - beside < 40
    if width == 1280:
        assert boxes["original"]["y"] == pytest.approx(boxes["overlay"]["y"], abs=2)
    assert messages == []
    ours = (f"http://127.0.0.1:{port}/", "data:")
    assert [url for url in urls if not url.startswith(ours)] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    violations = axe.Axe().run(page).response["violations"]
    assert [f["id"] for f in violations if f["impact"] in ("serious", "critical")] == []
    (tmp_path / "bad.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "bad.png")
    page.wait_for_selector("#status.error")
    assert "bad.png" in page.text_content("#status")
    page.close()


@pytest.mark.parametrize("width", [1280, 400])
def test_several_files_a_slide_and_downloads(
    browser, model, small_pictures, tmp_path, width
):
    """With a token; tolerance 1e-5 between the saved table and the model."""
    (tmp_path / "slides").mkdir()
    pictures = list(small_pictures.values())[:3]
    write_slide(tmp_path / "slides/case.tif", on_glass(pictures))
    files = [tmp_path / f"{k}, region.png" for k in range(3)]
    for file, pixels in zip(files, pictures, strict=True):
        Image.fromarray(pixels).save(file)
    files[1].write_text("no image")
    page = browser.new_page(viewport={"width": width, "height": 900})
    with pages.served(model, slides=tmp_path / "slides", token="s3cret") as port:
        page.goto(f"http://127.0.0.1:{port}/")
        page.fill("#token", "wrong")
        page.click("#access button")
        page.wait_for_selector("#status:not(:empty)")
        assert not page.is_visible("#drop")
        page.fill("#token", "s3cret")
        page.click("#access button")
        page.wait_for_selector("#slides:not([hidden])")
        page.set_input_files("#file", files)
        page.get_by_text("2 of 3 files graded").wait_for(timeout=120_000)
        assert page.locator("#files tr").count() == 3
        assert "0, region" in page.text_content("#grade")
        page.get_by_role("button", name="2, region.png").click()
        assert "2, region" in page.text_content("#grade")
        with page.expect_download() as saved:
            page.click("#csv")
        table = read_predictions(saved.value.path())
        assert table.image == tuple(file.name for file in files)
        grades = model.predict([pictures[0], pictures[2]])
        np.testing.assert_allclose(table.prob[[0, 2]], grades.prob, atol=1e-5)
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save the map (PNG)").click()
        assert saved.value.suggested_filename == "2, region_map.png"
        with Image.open(saved.value.path()) as picture:
            assert picture.size == (64, 64)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        violations = axe.Axe().run(page).response["violations"]
        serious = [
            f["id"] for f in violations if f["impact"] in ("serious", "critical")
        ]
        assert serious == []
        page.click("#slides button")
        page.wait_for_selector("#of-slide:not([hidden])", timeout=120_000)
        assert "case.tif" in page.text_content("#grade")
        assert not page.is_visible("#original")
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save the polygons").click()
        assert saved.value.suggested_filename == "case.geojson"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()

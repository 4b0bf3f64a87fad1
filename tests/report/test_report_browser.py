"""Reports in Chromium: layout, console messages, accessibility.

Requires Chromium (CHROMIUM, or chromium on the path) and the extra `browser`; .ci/run
installs both if possible.
"""

import pytest

from fof_jax.data.errors import MissingDataError
from fof_jax.report import build
from fof_jax.report.comparison import build as comparison_build
from fof_jax.report.comparison import runs as comparison_runs
from tests.support.run_files import write_focus_scores, write_run

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright",
    reason="the extra `browser` is not installed",
)
pytestmark = pytest.mark.slow

LONG = (
    "Astrocytoma, IDH-mutant, CNS WHO grade 2",
    "Oligodendroglioma, IDH-mutant and 1p/19q-codeleted, CNS WHO grade 3",
    "Glioblastoma, IDH-wildtype, CNS WHO grade 4",
)
# Text of a plot that is cut off or overlaps other text.
CUT = """() => [...document.querySelectorAll('svg.plot')].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map(
    text => [text.textContent, text.getBoundingClientRect()]);
  const out = texts.filter(([_, at]) => at.left < box.left - 1 ||
    at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1);
  const over = texts.filter(([name, a], i) => texts.slice(i + 1).some(([_, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 3 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4));
  const title = svg.getAttribute('aria-label');
  return [...out, ...over].map(([name]) => title + ': ' + name);
})"""
# Elements wider than the page that cannot be scrolled.
WIDE = """() => [...document.querySelectorAll('main *, header *')].filter(element =>
  !element.closest('.scroll') && !element.closest('svg') &&
  element.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def no_store(config):
        raise MissingDataError("There is no store")

    runs = {
        "paper": write_run(folder / "paper", paper_row="FoF", folds=5, finished=4),
        "long": write_run(folder / "long", classes=LONG, biomarkers=()),
    }
    write_focus_scores(runs["paper"], ("II", "III", "IV"))
    write_focus_scores(runs["long"], LONG)
    versus = write_run(folder / "versus", paper_row="Baseline", seed=1)
    made = {
        name: build.report(
            run, open_data=no_store, versus=versus if name == "paper" else None
        )
        for name, run in runs.items()
    }
    several = [write_run(folder / f"run-{k}", seed=k) for k in range(6)]
    compared = comparison_runs.compare(several, replicates=50)
    comparison_build.write(folder / "compared", compared)
    return made | {"comparison": folder / "compared/comparison.html"}


# Widths change the layout and schemes the colors, which have nothing to do with each
# other.
@pytest.mark.parametrize("name", ["paper", "long", "comparison"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_report_in_a_browser(browser, pages, name, scheme, width):
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    messages, urls = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: urls.append(request.url))
    page.goto(pages[name].as_uri())
    assert messages == []
    assert [url for url in urls if not url.startswith("data:")] == [page.url]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(WIDE) == []
    assert page.evaluate(CUT) == []
    card = page.evaluate(
        "getComputedStyle(document.querySelector('section')).backgroundColor"
    )
    dark = sum(map(int, card.removeprefix("rgb(").removesuffix(")").split(", "))) < 384
    assert dark == (scheme == "dark")
    found = axe.Axe().run(page).response
    serious = [
        (one["id"], one["nodes"][0]["html"][:200])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(found["passes"]) > 10
    page.close()


def test_a_violation_is_detected(browser):
    page = browser.new_page()
    page.set_content("<html><body><img src='data:,'></body></html>")
    found = axe.Axe().run(page).response["violations"]
    assert "image-alt" in {one["id"] for one in found}
    page.close()

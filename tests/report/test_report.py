"""Report: structure of the page, and its numbers against independent computations."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fof_jax.cli.main import main
from fof_jax.data.errors import MissingDataError
from fof_jax.report import (
    build,
    gallery,
    localization_plots,
    prediction_plots,
    style,
    tables,
    training_plots,
)
from fof_jax.report.run import read_run
from tests.support.run_files import write_focus_scores, write_run

LONG = (
    'Astrocytoma, IDH-mutant, CNS WHO grade 2 <b>&"quoted"</b>',
    "Oligodendroglioma, IDH-mutant and 1p/19q-codeleted, CNS WHO grade 3",
)


def no_store(config):
    raise MissingDataError("There is no store")


def make(workdir, **options):
    options = {"replicates": 200, "log": lambda _: None} | options
    return Page(build.report(workdir, open_data=no_store, **options).read_text())


class Page(HTMLParser):
    """Parses tables to lists of rows, and collects ids, links and tags."""

    def __init__(self, source):
        super().__init__()
        self.source = source
        self.tables, self.ids, self.links, self.tags = [], [], [], []
        self.cell = None
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[k] for k in ("href", "src", "xlink:href") if k in found]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self.cell)
            self.cell = None

    def rows(self, first):
        """Rows of the first table with a row of this name."""
        for table in self.tables:
            found = {row[0]: row[1:] for row in table}
            if first in found:
                return found
        raise AssertionError(first)

    def section(self, anchor):
        return self.source.split(f'<section id="{anchor}"')[1].split("</section>")[0]


@pytest.fixture
def without_pdf(monkeypatch):
    """Skips PDFs, whose fonts take half of the rendering time."""
    render = style._render
    monkeypatch.setattr(
        style, "_render", lambda *a: b"%PDF" if a[1] == "pdf" else render(*a)
    )


def read_rows(workdir, fold):
    with (workdir / f"fold_{fold}/predictions.csv").open() as file:
        return list(csv.DictReader(file))


def accuracy(rows):
    correct = [
        max(range(3), key=lambda k: float(row[f"p_{k}"])) == int(row["y"])
        for row in rows
    ]
    return 100 * sum(correct) / len(correct)


def auc_by_pairs(truth, score):
    pairs = [(p > n) + 0.5 * (p == n) for p in score[truth] for n in score[~truth]]
    return sum(pairs) / len(pairs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = write_run(tmp_path_factory.mktemp("runs") / "whole", paper_row="FoF")
    return workdir, make(workdir, replicates=4000)


def test_the_page_is_self_contained(whole):
    _, page = whole
    assert not {"script", "link", "iframe"} & set(page.tags)
    for link in page.links:
        assert link.startswith(("#", "data:")), link
    assert "default-src 'none'" in page.source
    # XML namespaces are URLs that are not loaded.
    loaded = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page.source)
    assert "http" not in loaded.replace("http-equiv", "")
    assert page.source.count("Research use only; not for diagnosis.") == 2
    assert len(page.ids) == len(set(page.ids))
    for anchor in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page.source):
        assert "".join(anchor) in page.ids


def test_every_plot_is_in_the_page_and_on_disk(whole):
    workdir, page = whole
    plots = re.findall(r"<svg.*?</svg>", page.source, re.S)
    assert len(plots) >= 8 + 5
    for svg in plots:
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert len(root.get("aria-label")) > 3
        assert not re.findall(r"#[0-9a-f]{6}\b", svg)  # only CSS variables
        texts = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]
        assert len(texts) > 4  # text is text, not outlines
    names = re.findall(r'<figure id="([^"]+)"', page.source)
    assert len(names) == len(plots)
    for name in names:
        assert (workdir / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
        file = (workdir / f"figures/{name}.svg").read_text()
        assert "var(" not in file
        assert style.INK in file
    left = [p.name for p in workdir.rglob("*") if p.name.endswith(".tmp")]
    assert left == []


def test_page_and_plots_have_the_same_colors():
    css = (Path(style.__file__).parent / "page.css").read_text()
    light, dark = css.split("prefers-color-scheme: dark")[:2]
    for role, color in style.ROLES.items():
        assert f"--{role}: {color};" in light
        assert f"--{role}: " in dark.split("@media")[0]
    assert len(set(style.ROLES.values())) == len(style.ROLES)


def test_results_agree_with_plain_loops(whole):
    workdir, page = whole
    folds = [read_rows(workdir, k) for k in range(3)]
    each = [accuracy(rows) for rows in folds]
    pooled = []
    for rows in folds:
        prob = np.array([[float(r[f"p_{k}"]) for k in range(3)] for r in rows])
        truth = np.array([[int(r["y"]) == k for k in range(3)] for r in rows])
        pooled.append(100 * auc_by_pairs(truth.ravel(), prob.ravel()))
    shown = page.rows("AUC")
    assert shown["%"] == [
        "this run, mean ± std",
        "95% interval",
        "FoF (paper, Table I)",
    ]
    for name, values in (("Accuracy", each), ("AUC", pooled)):
        expected = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
        assert shown[name][0] == expected
    assert shown["AUC"][2] == "94.17 ± 0.68"
    assert shown["F1"][2] == ""  # not in the paper
    # The interval, by resampling patients in a loop.
    rng = np.random.default_rng(3)
    means = []
    for _ in range(3000):
        resampled = []
        for rows in folds:
            of = {}
            for row in rows:
                of.setdefault(row["patient"], []).append(row)
            names = rng.choice(list(of), len(of))
            resampled.append(accuracy([row for name in names for row in of[name]]))
        means.append(np.mean(resampled))
    low, high = map(float, shown["Accuracy"][1].split(" to "))
    # One region is 3.3% of a fold; the bounds differ by less.
    np.testing.assert_allclose([low, high], np.percentile(means, [2.5, 97.5]), atol=1.2)
    by_fold = page.rows("fold 1")["fold 1"]
    assert by_fold[:2] == ["finished", "30"]
    assert by_fold[4] == f"{each[1]:.2f}"


def test_metrics_of_classes_agree_with_counts(whole):
    workdir, page = whole
    rows = [row for k in range(3) for row in read_rows(workdir, k)]
    truth = [row for row in rows if row["y"] == "1"]
    predicted = [row for row in rows if row["pred"] == "1"]
    correct = sum(row["pred"] == "1" for row in truth)
    shown = page.rows("III")["III"]
    assert shown[1:] == [
        f"{100 * correct / len(truth):.2f}",
        f"{100 * correct / len(predicted):.2f}",
        str(len(truth)),
    ]
    svg = page.section("classes").split('id="confusion_region"')[1].split("</svg>")[0]
    assert re.search(rf">\s*{correct}\s*<", svg)


def test_roc_and_pr_by_hand():
    # Scores 0.9+ 0.8- 0.7+ 0.4-: TPR 1/2 from FPR 0, 1 from FPR 1/2.
    truth = np.array([True, False, True, False])
    line, area = prediction_plots.roc_curve(truth, np.array([0.9, 0.8, 0.7, 0.4]))
    at = dict(zip(prediction_plots.GRID_POINTS.round(3), line, strict=True))
    assert (at[0.0], at[0.25], at[0.75], at[1.0]) == (0, 0.5, 1, 1)
    assert area == pytest.approx(3 / 4)
    # Precision 1 up to recall 1/2, then 2/3: AP = 1/2 + 1/2 * 2/3.
    line, area = prediction_plots.pr_curve(truth, np.array([0.9, 0.8, 0.7, 0.4]))
    at = dict(zip(prediction_plots.GRID_POINTS.round(3), line, strict=True))
    assert (at[0.0], at[0.5], at[0.505], at[1.0]) == (1, 1, 2 / 3, 2 / 3)
    assert area == pytest.approx(5 / 6)
    assert np.trapezoid(line, prediction_plots.GRID_POINTS) == pytest.approx(
        area, abs=0.005
    )
    assert prediction_plots.roc_curve(np.ones(2, bool), np.zeros(2)) is None
    assert prediction_plots.pr_curve(np.zeros(2, bool), np.zeros(2)) is None


def test_the_pr_curve_starts_at_the_first_positive_recall():
    line, _ = prediction_plots.pr_curve(np.array([False, True]), np.array([0.9, 0.1]))
    assert line[0] == 0.5


def test_training_curves_average_long_histories():
    history = tuple(
        {"step": t, "epoch": (t - 1) / 10, "total": float(t)} for t in range(1, 1001)
    )
    epochs, values = training_plots.series(history, "total", points=100)
    assert len(epochs) == 100
    np.testing.assert_allclose(values[:2], [5.5, 15.5])
    np.testing.assert_allclose(epochs[0], 0.55)
    assert len(training_plots.series(history, "frl")[0]) == 0


@pytest.mark.usefixtures("without_plots")
def test_unfinished_folds_are_reported(tmp_path):
    page = make(write_run(tmp_path / "run", folds=4, finished=2))
    warnings = page.section("warnings")
    assert "2 of 4 folds are finished" in warnings
    assert "fold 2 at step 20 of 40; fold 3 not started" in warnings
    assert "uncommitted changes" in warnings
    assert page.rows("fold 3")["fold 3"] == ["not started", *[""] * 7]
    assert page.rows("fold 2")["fold 2"][0] == "at step 20 of 40"


@pytest.mark.usefixtures("without_plots")
def test_a_run_without_finished_folds(tmp_path):
    printed: list[str] = []
    run = write_run(tmp_path / "run", finished=0, history=False)
    page = make(run, log=printed.append)
    assert "No fold is finished" in page.section("results")
    assert "no curves" in page.section("training")
    assert "Omitted: no fold is finished." in page.section("regions")
    # What is left out is printed, not only on the page.
    for title in ("Features", "Regions", "Model card"):
        start = f"report: warning: {title}"
        assert any(line.startswith(start) and "Omitted" in line for line in printed)
    assert page.rows("fold 0")["fold 0"][0] == "not started"


@pytest.mark.usefixtures("without_plots")
def test_without_store_patients_and_masks(tmp_path):
    page = make(write_run(tmp_path / "run", patients=False))
    assert "no row has a patient" in page.section("warnings")
    assert "Per patient" not in page.source
    assert "has no checkpoints" in page.section("regions")
    assert "has no checkpoints" in page.section("features")
    assert "no localization metrics" in page.section("focus")


@pytest.mark.usefixtures("without_plots")
def test_scores_of_explainers_by_grade(tmp_path):
    run = write_run(tmp_path / "run", finished=1, history=False)
    rows = write_focus_scores(run, ("II", "III"))
    page = make(run)
    tables = [table for table in page.tables if "darkest patch (blind)" in str(table)]
    assert len(tables) == 3
    for grades, table in zip((("II", "III"), ("II",), ("III",)), tables, strict=True):
        inside = [
            row.figures["inside"]
            for row in rows
            if row.grade in grades and row.explainer == "eq1"
        ]
        shown = dict(zip(table[0], table[1], strict=True))
        assert shown[""] == "Eq. (1), block 3"
        expected = f"{100 * sum(inside) / len(inside):.1f}"
        assert shown["inside (%)"].split()[0] == expected
    assert "Grade III: 4 maps of 2 patients." in page.section("explainers")


@pytest.mark.parametrize("classes", [LONG, ("a", "b", "c", "d", "e")])
@pytest.mark.usefixtures("without_pdf")
def test_other_classes(tmp_path, classes):
    workdir = write_run(tmp_path / "run", classes=classes, biomarkers=(), history=False)
    page = make(workdir)
    assert "<b>" not in page.source
    assert set(classes) <= set(page.rows(classes[1]))
    for svg in re.findall(r"<svg.*?</svg>", page.source, re.S):
        ElementTree.fromstring(svg)


@pytest.mark.usefixtures("without_plots")
def test_a_split_over_regions_is_reported(tmp_path):
    page = make(write_run(tmp_path / "run", scheme="roi", paper_row="FoF"))
    assert "69% of the test regions" in page.section("warnings")
    assert "patients are in both training and test" in page.section("results")


@pytest.mark.usefixtures("without_plots")
def test_a_second_run_is_compared(tmp_path):
    first = write_run(tmp_path / "first", paper_row="FoF")
    second = write_run(tmp_path / "second", paper_row="Baseline", seed=1)
    page = make(first, versus=second)
    shown = page.rows("AUC")
    assert len(shown["AUC"]) == 6
    assert (shown["AUC"][2], shown["AUC"][5]) == ("94.17 ± 0.68", "90.37 ± 0.82")
    each = [accuracy(read_rows(second, k)) for k in range(3)]
    assert shown["Accuracy"][3].startswith(f"{np.mean(each):.2f} ±")


@pytest.mark.usefixtures("without_plots")
def test_localization_metrics_are_those_of_the_results(tmp_path):
    workdir = write_run(tmp_path / "run")
    one = {"pointing": 0.5, "inside": 0.25, "iou": None}
    metrics = {
        "regions": 12,
        "folds": {"0": one},
        "mean": one,
        "std": {"pointing": 0.1, "inside": None, "iou": None},
        "classes": {"III": one | {"regions": 5}, "IV": one | {"regions": 7}},
    }
    (workdir / "results.json").write_text(json.dumps({"focus": metrics}))
    page = make(workdir)
    rows = page.rows("pointing game")
    assert rows["pointing game"] == ["50.00 ± 10.00", "50.00", "50.00"]
    assert rows["fraction of A inside"][0] == "25.00"
    assert rows["IoU of M"] == ["none"] * 3
    assert rows["regions"] == ["12", "5", "7"]
    assert (workdir / "figures/focus.pdf").exists()
    assert localization_plots.MEANING.split(".")[0] in page.section("focus")


@pytest.mark.usefixtures("without_plots")
def test_a_model_card_is_escaped(tmp_path):
    workdir = write_run(tmp_path / "run")
    (workdir / "model_card.md").write_text("# Card\n\n<script>alert(1)</script>\n")
    page = make(workdir)
    assert "script" not in page.tags
    assert "&lt;script&gt;" in page.section("card")


def test_bad_input_is_rejected_and_nothing_is_written(tmp_path, capsys):
    assert main(["report", f"--workdir={tmp_path}"]) == 2
    assert "holds no config.json" in capsys.readouterr().err
    run = write_run(tmp_path / "run")
    assert main(["report", f"--workdir={run}", "--fold=9"]) == 2
    assert "has folds 0-2" in capsys.readouterr().err
    assert main(["report", f"--workdir={run}", f"--out={tmp_path}"]) == 2
    assert "is a folder" in capsys.readouterr().err
    (run / "splits.json").write_text("{")
    assert main(["report", f"--workdir={run}"]) == 2
    assert "splits.json cannot be read" in capsys.readouterr().err
    assert not (run / "report.html").exists()
    assert not (run / "figures").exists()


@pytest.mark.usefixtures("without_plots")
def test_the_command_writes_to_the_given_path(tmp_path, capsys):
    run = write_run(tmp_path / "run", each=12)
    out = tmp_path / "elsewhere" / "page.html"
    assert main(["report", f"--workdir={run}", f"--out={out}"]) == 0
    assert f"report: {out}" in capsys.readouterr().out
    assert "not for diagnosis" in out.read_text()
    assert (out.parent / "figures/roc_region.pdf").exists()


@pytest.mark.usefixtures("without_pdf")
def test_equal_runs_give_equal_pages(whole, tmp_path):
    workdir, page = whole
    again = make(write_run(tmp_path / "whole", paper_row="FoF"), replicates=4000)
    old, new = str(workdir), str(tmp_path / "whole")
    assert page.source.replace(old, new) == again.source


def test_choice_of_regions():
    run = [(0, 0.9), (0, 0.8), (0, 0.6), (1, 0.7), (1, 0.2)]  # y, p_0
    rows = prediction_plots.Predictions(
        patient=("",) * 6,
        image=tuple("abcdef"),
        fold=np.zeros(6, int),
        y=np.array([*(y for y, _ in run), 0]),
        prob=np.array([*((p, 1 - p) for _, p in run), (np.nan, np.nan)]),
        error=("",) * 5 + ("broken",),
    )
    # Most confident correct rows: a of class 0, e of class 1; only d is incorrect.
    assert gallery.choose(rows) == ([0, 4], [3])
    assert gallery.choose(rows, max_cases=1) == ([0], [3])


def test_interval_of_nothing_is_none():
    assert tables._interval(None) == "none"


def test_reading_an_unfinished_run(tmp_path):
    run = read_run(write_run(tmp_path / "run", finished=1))
    assert [fold.state for fold in run.folds] == [
        "finished",
        "at step 20 of 40",
        "not started",
    ]
    assert run.results["folds"] == ["0"]

"""The planted confounder: marks, planted cohorts, and maps that cannot show a cause.

The model is made by hand: its only class-2 evidence is the yellow of a patch, so that
the cause is known. Maps that read it have to lie on the mark; edges have to fail. The
control reads no pixel.
"""

import csv
import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from fof_jax.cli.main import main
from fof_jax.data import marks
from fof_jax.data.cohort import read_cohort
from fof_jax.evaluation.focus_table import Row
from fof_jax.explainers import registry
from fof_jax.inference import focus_confounder
from fof_jax.inference.focus_cases import Case
from tests.support.yellow_detector import YellowDetector, trained

GRADE = 2


@pytest.fixture(scope="module")
def model():
    return trained(YellowDetector())


@pytest.fixture(scope="module")
def control(model):
    """The model without its only evidence."""
    params = model.method.params()
    params["embedding"] = jax.tree.map(lambda a: 0 * a, params["embedding"])
    return trained(model.method, params)


def marked_pair(kind):
    """Gray noise with a texture at the bottom right, and the same with a mark."""
    rng = np.random.default_rng(0)
    clean, marked = [], []
    for i in range(12):
        gray = rng.integers(120, 130, (32, 32, 1))
        gray[16:, 16:] = rng.integers(0, 256, (16, 16, 1))
        pixels = np.repeat(gray, 3, axis=2).astype(np.uint8)
        painted, mask = marks.add_mark(pixels, kind, f"{i}.png")
        for found, shown in ((clean, pixels), (marked, painted)):
            found.append(Case(f"{i}.png", 0, f"p{i}", i % 3, shown, mask, ("fold_0",)))
    return clean, marked


@pytest.fixture(scope="module")
def cases():
    return marked_pair("tint")


def test_accuracy_falls_when_the_mark_is_removed(model, cases):
    """The hand-made model says II for gray and IV for tinted images."""
    found = focus_confounder.accuracy(model, *cases, GRADE)
    assert found == (pytest.approx(2 / 3), pytest.approx(1 / 3), 1.0)


def test_an_image_of_several_tiles_is_one_prediction(model, cases):
    """One of two tiles has the mark: by hand, p(IV) is (0.92 + 0.17) / 2."""
    clean, marked = cases
    second = [dataclasses.replace(case, tile=1) for case in clean]
    found = focus_confounder.accuracy(model, clean + second, marked + second, GRADE)
    assert found == (pytest.approx(2 / 3), pytest.approx(1 / 3), 1.0)


def test_maps_of_the_model_lie_on_the_mark_and_edges_fail(model, control, cases):
    names = ["eq1", "integrated_gradients", "occlusion", "edges", "random", "center"]
    chosen = registry.choose(names, depth=2, cam_block=-1)
    rows, of_control = (
        focus_confounder.on_mark(one, cases[1], chosen, grade=GRADE)
        for one in (model, control)
    )
    for without_mark in (None, of_control):
        maps = focus_confounder.summarize(rows, without_mark)
        found = {one.explainer: one for one in maps}
        for name in names[:3]:
            assert found[name].shows, name
            assert found[name].inside.mean > 3 * found[name].area
        for name in names[3:]:
            assert not found[name].shows, name
    text = focus_confounder.format_report(
        "tint",
        "IV",
        (focus_confounder.Accuracy(0.9, 0.6, None), maps),
        (
            focus_confounder.Accuracy(0.6, 0.6, None),
            focus_confounder.summarize(of_control),
        ),
    )
    planted, of_control = text.split("\n\n")
    assert "fall 30.0" in planted
    assert "more than control" in planted
    edges = next(line for line in planted.splitlines() if "most edges" in line)
    assert "0.0 [0.0, 0.0] | fails" in " ".join(edges.split())
    assert planted.count("fails") == 3
    assert "shows it" not in of_control

    # A model that is no worse without the mark has not learned it.
    for fall in (0.0, -0.1):
        planted = focus_confounder.Accuracy(0.6 + fall, 0.6, None)
        text = focus_confounder.format_report("tint", "IV", (planted, maps))
        table, verdict = text.split("\n\n")
        assert table.count("no cause") == len(names)
        assert "not fall when the mark is removed. No map has anything" in verdict


@pytest.mark.parametrize("kind", marks.KINDS)
def test_no_blind_rule_shows_a_mark(model, control, kind):
    """Also where its map lies on the mark, as edges on a checkered stamp."""
    chosen = registry.choose(["blind"], depth=2, cam_block=-1)
    marked = marked_pair(kind)[1]
    rows, of_control = (
        focus_confounder.on_mark(one, marked, chosen, grade=GRADE)
        for one in (model, control)
    )
    for without_mark in (None, of_control):
        maps = focus_confounder.summarize(rows, without_mark)
        assert len(maps) == 5
        assert not any(one.shows for one in maps)
    if kind == "stamp":
        above = {one.explainer: one.above for one in maps}
        assert above["edges"].low > 0


def test_a_map_that_is_mostly_empty_shows_nothing():
    """5 of 100 images have a map, half of it on a mark of 3%: 0.025 less 0.03."""
    rows = [
        Row(
            image=f"{i}",
            tile=0,
            patient=f"p{i}",
            fold="fold_0",
            grade="IV",
            explainer="eq1",
            title="Eq. (1)",
            blind=False,
            figures={"inside": 0.5 if i < 5 else np.nan, "area": 0.03},
        )
        for i in range(100)
    ]
    (found,) = focus_confounder.summarize(rows)
    assert found.inside.mean == pytest.approx(0.025)
    assert found.above.mean == pytest.approx(-0.005)
    assert found.inside.images == 100
    assert not found.shows


def test_a_control_of_other_folds_is_refused(cases):
    mine = focus_confounder.image_folds(cases[0])
    focus_confounder.check_pair(mine, set(mine))
    other = {(image, 1) for image, _ in mine}
    with pytest.raises(
        ValueError, match=r"12 images by folds 0, .*12 images by folds 1"
    ):
        focus_confounder.check_pair(mine, other)


@pytest.mark.parametrize("kind", marks.KINDS)
def test_a_mark_changes_its_mask_and_nothing_else(kind):
    pixels = np.full((48, 64, 3), 200, np.uint8)
    painted, mask = marks.add_mark(pixels, kind, "a.png")
    changed = (painted != pixels).any(axis=2)
    assert (changed <= mask).all()
    assert changed[mask].mean() > 0.9
    assert 0.005 < mask.mean() < 0.1
    again = marks.add_mark(pixels, kind, "a.png")[1]
    np.testing.assert_array_equal(mask, again)
    if kind in ("dot", "line"):
        assert (marks.add_mark(pixels, kind, "b.png")[1] != mask).any()


@pytest.fixture
def table(tmp_path):
    lines = ["image,patient,grade,idh"]
    for i in range(6):
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        pixels = np.full((32, 32, 3), 100 + i, np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(f"images/{i}.png,p{i},{['II', 'IV'][i % 2]},{i % 2}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "table.csv"


def test_a_planted_cohort_by_the_command(table, tmp_path, capsys):
    out = tmp_path / "marked"
    words = ["focus", "--mark=dot", f"--table={table}", "--mark_class=IV"]
    words += ["--classes=II,IV", "--mark_fraction=0.67", f"--out={out}"]
    assert main(words) == 0
    assert "dot on 2 of 6 images" in capsys.readouterr().out
    cohort = read_cohort(out / "table.csv", classes=("II", "IV"), biomarkers=("idh",))
    marked = [row for row in cohort.rows if row.mask is not None]
    assert [row.grade for row in marked] == [1, 1]
    with table.open() as one, (out / "table.csv").open() as two:
        before, after = list(csv.DictReader(one)), list(csv.DictReader(two))
    assert [{k: v for k, v in r.items() if k != "mask"} for r in after] == before
    for row in cohort.rows:
        with Image.open(row.image) as image:
            pixels = np.asarray(image)
        assert (np.ptp(pixels[..., 2]) > 0) == (row.mask is not None)
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mark=spot"], "expected one of dot, stamp, tint, line"),
        (["--mark_class=V"], "mark_class: got 'V', expected one of II, IV"),
        (["--mark_fraction=0"], "mark_fraction: got 0.0"),
        (["--classes="], "requires --out=FOLDER and --classes"),
    ],
)
def test_errors_of_marks(table, tmp_path, capsys, flags, message):
    words = ["focus", "--mark=dot", f"--table={table}", "--mark_class=IV"]
    words += ["--classes=II,IV", f"--out={tmp_path / 'new'}"]
    assert main([*words, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()

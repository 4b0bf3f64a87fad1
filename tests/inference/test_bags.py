"""A run on HDF5 files of patch features, from the table to predictions and scores.

ABMIL and FoF, whose programs take long to compile. Percentages of the page are compared
to half of their last digit.
"""

import csv
import errno
import json
import re
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.inference import bags, components, tile_files
from fof_jax.training import weights
from tests.support import bag_files, qupath

pytestmark = pytest.mark.slow
HALF = 0.00501  # of the last of two digits, and float32 of the mean
COUNTS = [5, 9, 14, 3, 8, 17, 6, 4, 12, 7, 10, 1]
WORDS = [
    "--config.data.classes=('0', '1', '2')",
    "--config.data.biomarkers=()",
    "--config.encoder=nano/features",
    "--config.folds=2",
    "--config.fold=0",
    "--config.batch_size=2",
    "--config.epochs=2",
    "--config.save_every=2",
    "--config.data.max_tokens=8",
    "--config.log_every=1",
]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Twelve slides of six patients; the first patches decide."""
    folder = tmp_path_factory.mktemp("slides")
    table = bag_files.write_cohort(folder, COUNTS)
    for path in folder.glob("*.h5"):
        with h5py.File(path, "a") as file:
            count = len(file["features"])
            file["mask"] = (np.arange(count) < max(1, count // 4)).astype(np.uint8)
    words = [*WORDS, f"--config.data.table={table}", f"--config.data.dir={folder}/data"]
    assert main(["data", "build", "--config=slides", *words]) == 0
    return folder, words


@pytest.fixture(scope="module", params=["abmil", "fof"])
def row(request):
    """Name of the method."""
    return request.param


@pytest.fixture(scope="module")
def command(cohort, row):
    """Words of a run."""
    name = "slides" if row == "fof" else f"slides:{row}"
    return [f"--config={name}", *cohort[1]]


@pytest.fixture(scope="module")
def run(cohort, row, command):
    """Folder of a finished run."""
    folder = cohort[0] / row
    assert main([*command, f"--workdir={folder}"]) == 0
    return folder


def test_a_run_resumes_bit_by_bit(command, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "run")
    fold = other / "fold_0"
    for name in ("predictions.csv", "focus.csv"):
        (fold / name).unlink()
    steps = sorted(int(p.name) for p in (fold / "checkpoints").iterdir())
    shutil.rmtree(fold / f"checkpoints/{steps[-1]}")
    assert main([*command, f"--workdir={other}"]) == 0
    a, b = (weights.read(one / "fold_0").params for one in (run, other))
    np.testing.assert_equal(a, b)
    for name in ("predictions.csv", "focus.csv"):
        assert (fold / name).read_bytes() == (run / "fold_0" / name).read_bytes()


def test_the_run_scores_its_maps_against_the_deciding_patches(run):
    found = rows(run / "fold_0/focus.csv")
    tested = rows(run / "fold_0/predictions.csv")
    assert [one["image"] for one in found] == [one["image"] for one in tested]
    for one in found:
        count = COUNTS[int(one["image"][6:9])]
        assert float(one["area"]) == pytest.approx(max(1, count // 4) / count)
        assert one["deletion"] == ""


def test_predict_gives_what_training_did(cohort, run, row, tmp_path):
    folder, _ = cohort
    out = tmp_path / "out"
    flags = [f"--checkpoint={run}", f"--images={folder}/table.csv", f"--out={out}"]
    assert main(["predict", *flags]) == 0
    graded = {one["image"]: one for one in rows(out / "predictions.csv")}
    assert len(graded) == len(COUNTS)
    for one in rows(run / "fold_0/predictions.csv"):
        for k in range(3):
            p = float(graded[one["image"]][f"p_{k}"])
            assert p == pytest.approx(float(one[f"p_{k}"]), abs=1e-5)
    patches = rows(out / "tiles/slide_005.csv")
    assert len(patches) == COUNTS[5]
    np.testing.assert_array_equal(
        [[float(one["x"]), float(one["y"])] for one in patches],
        bag_files.grid(COUNTS[5], 512),
    )
    of_bag = graded["slide_005.h5"]
    for one in patches:
        assert float(one["width"]) == 512
        assert (one["mpp"], one["pred"]) == ("", of_bag["pred"])
        for k in range(3):
            assert float(one[f"p_{k}"]) == pytest.approx(
                float(of_bag[f"p_{k}"]), abs=2e-6
            )
    A = np.array([float(one["map_mean"]) for one in patches])
    assert A.min() >= 0
    assert A.max() <= 1
    if row == "fof":
        kept = [float(one["kept"]) for one in patches]
        np.testing.assert_array_equal(kept, A > 0.5)
    else:
        assert {one["kept"] for one in patches} == {""}
    shapes = json.loads((out / "tiles/slide_005.geojson").read_text())["features"]
    assert len(shapes) == COUNTS[5]
    for shape, a in zip(shapes, A, strict=True):
        qupath.require(shape)
        properties = shape["properties"]
        assert properties["objectType"] == "tile"
        assert properties["classification"]["name"] == of_bag["pred"]
        measured = properties["measurements"]
        assert measured["map_mean"] == pytest.approx(a)
        assert measured.get("kept") == (float(a > 0.5) if row == "fof" else None)
        assert sum(measured[f"p_{k}"] for k in range(3)) == pytest.approx(1, abs=1e-5)
    ring = np.array(shapes[0]["geometry"]["coordinates"][0])
    assert ring.min(axis=0).tolist() == bag_files.grid(1, 512)[0].tolist()
    assert np.ptp(ring, axis=0).tolist() == [512, 512]
    assert (out / "focus/slide_005.png").stat().st_size > 5000


def test_a_full_disk_stops_predict_and_explain(
    cohort, run, tmp_path, monkeypatch, capsys
):
    """It is no error of a bag: the same command grades all of them later."""
    folder, _ = cohort

    def full(stem, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(stem))

    flags = [f"--checkpoint={run}", f"--images={folder}/slide_005.h5"]
    with monkeypatch.context() as patched:
        patched.setattr(tile_files, "write_texts", full)
        for verb in ("predict", "explain"):
            assert main([verb, *flags, f"--out={tmp_path / verb}"]) == 2
            err = capsys.readouterr().err
            assert "No space left on device" in err
            assert "run the same command again, which resumes" in err
            assert not (tmp_path / verb / "predictions.csv").exists()
    assert main(["predict", *flags, f"--out={tmp_path / 'predict'}"]) == 0
    assert rows(tmp_path / "predict/predictions.csv")[0]["error"] == ""


def test_explain_writes_one_value_per_patch(cohort, run, tmp_path):
    folder, _ = cohort
    out = tmp_path / "maps"
    flags = [f"--checkpoint={run}", f"--images={folder}/slide_002.h5", f"--out={out}"]
    assert main(["explain", *flags, "--target=1"]) == 0
    A = np.load(out / "slide_002.npy")
    shapes = json.loads((out / "slide_002.geojson").read_text())["features"]
    assert shapes[0]["properties"]["classification"]["name"] == "1"
    assert {one["x"] for one in rows(out / "slide_002.csv")} >= {"1536.00"}
    assert A.shape == (COUNTS[2],)
    model = fof_jax.load(run)
    found = bags.BagPredictor(model).predict(folder / "slide_002.h5", target="1")
    np.testing.assert_allclose(A, found.A, atol=1e-6)


def test_a_map_lies_over_the_slide_that_a_table_names(cohort, run, tmp_path):
    """Pictures of two panels; a slide that is too small is reported."""
    folder, _ = cohort
    corner = bag_files.grid(COUNTS[2], 512).max(axis=0) + 512
    for name, size in (("a.png", corner), ("b.png", (40, 30))):
        pixels = np.full((int(size[1]), int(size[0]), 3), 230, np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    lines = [
        {"image": f"{folder}/slide_002.h5", "slide": "a.png", "mpp": "0.25"},
        {"image": f"{folder}/slide_003.h5", "slide": "b.png", "mpp": ""},
    ]
    table = bag_files.write_table(tmp_path, lines)
    out = tmp_path / "out"
    flags = [f"--checkpoint={run}", f"--images={table}", f"--out={out}"]
    assert main(["predict", *flags]) == 0
    good, lost = rows(out / "predictions.csv")
    assert good["warning"] == ""
    assert "slide b.png has 40 x 30 pixels" in lost["warning"]
    widths = []
    for plot in sorted((out / "focus").rglob("*.png")):
        with Image.open(plot) as image:
            widths.append(image.width / image.height)
    assert widths[0] > 1.3 * widths[1]
    (tiles,) = (out / "tiles").rglob("*2.csv")
    assert {one["mpp"] for one in rows(tiles)} == {"0.25"}


def test_the_report_shows_bags_and_scores_their_maps(
    cohort, run, row, tmp_path, without_plots
):
    """Scores of the table by NumPy, from the map of the fold for the true class."""
    folder, _ = cohort
    page = tmp_path / "report.html"
    assert main(["report", f"--workdir={run}", f"--out={page}"]) == 0
    text = page.read_text(encoding="utf-8")
    assert "bags of patch features, at most 8 in training" in text
    assert "Omitted for this run" not in text  # features v of the bags
    section = text[text.index('<section id="regions"') :]
    section = section[: section.index("</section>")]
    labels = {"abmil": ("attention",), "fof": ("A of ", "patches kept for ")}[row]
    for label in ("patches", *labels, "deciding patches"):
        assert f"<span>{label}" in section
    assert ("of patches kept" in section) == (row == "fof")
    predictor = bags.BagPredictor(fof_jax.load(run / "fold_0"))
    tested = {one["image"]: one for one in rows(run / "fold_0/predictions.csv")}
    table = section[section.index("<tbody>") : section.index("</tbody>")]
    lines = [re.findall(r"<t[hd][^>]*>([^<]*)<", line) for line in table.split("<tr>")]
    lines = [line for line in lines if line]
    assert 2 <= len(lines) == section.count("<figcaption>")
    for image, pointing, _, inside, area, iou in lines:
        truth = tested[image]["y"]
        found = predictor.predict(folder / image, target=truth)
        with h5py.File(folder / image) as file:
            mask = file["mask"][()].astype(bool)
        at = mask[found.A == found.A.max()].mean() if found.A.any() else 0
        assert float(pointing) == pytest.approx(100 * at, abs=HALF)
        share = found.A[mask].sum() / found.A.sum() if found.A.any() else np.nan
        if np.isfinite(share):
            assert float(inside) == pytest.approx(100 * share, abs=HALF)
        assert float(area) == pytest.approx(100 * mask.mean(), abs=HALF)
        assert (iou == "none") == (row == "abmil")


def test_focus_scores_the_map_and_a_random_one(run, row, tmp_path, capsys):
    own = {"fof": "eq1", "abmil": "attention"}[row]
    out = tmp_path / "scores"
    assert main(["focus", f"--checkpoint={run}", f"--out={out}"]) == 0
    assert "random" in capsys.readouterr().out
    found = rows(out / "scores.csv")
    tested = rows(run / "fold_0/predictions.csv")
    assert {one["explainer"] for one in found} == {own, "random"}
    assert len(found) == 2 * len(tested)
    trained = {one["image"]: one for one in rows(run / "fold_0/focus.csv")}
    for one in found:
        if one["explainer"] == own:
            again = trained[one["image"]]["pointing"]
            assert float(one["pointing"]) == pytest.approx(float(again))


def test_what_does_not_fit_is_refused(cohort, run, tmp_path):
    folder, _ = cohort
    model = fof_jax.load(run)
    wide = bag_files.write_trident(tmp_path / "w.h5", bag_files.features(0, 4, 9))
    with pytest.raises(ValueError, match="features of length 9, and the model was"):
        bags.BagPredictor(model).predict(wide)
    with pytest.raises(ValueError, match="trained on patch features"):
        model.predict([np.zeros((32, 32, 3), np.uint8)])
    with pytest.raises(ValueError, match="reads patch features, and other libraries"):
        components.read(run / "fold_0")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="is or holds no HDF5 file"):
        bags.find(empty)
    out = tmp_path / "out"
    (tmp_path / "mixed").mkdir()
    shutil.copy(folder / "slide_001.h5", tmp_path / "mixed/a.h5")
    (tmp_path / "mixed/b.h5").write_bytes(b"no HDF5")
    flags = [f"--checkpoint={run}", f"--images={tmp_path}/mixed", f"--out={out}"]
    assert main(["predict", *flags, "--no_pictures"]) == 0
    good, bad = rows(out / "predictions.csv")
    assert good["error"] == ""
    assert "cannot be read as HDF5" in bad["error"]

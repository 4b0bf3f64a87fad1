"""`data build`, `check`, `split`, and the store that training asks for."""

import csv
import io
import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fof_jax.cli.data import act
from fof_jax.data.datasets import gbmlgg
from fof_jax.data.errors import CohortError, MissingDataError
from fof_jax.data.prepare import prepare
from fof_jax.data.progress import progress_to
from tests.support.cohort_files import (
    BIOMARKERS,
    CLASSES,
    SHARED,
    pixels,
    write_cohort_files,
)
from tests.support.data_verb import call, config_for
from tests.support.distribution import distribution


def test_build_then_split(tmp_path):
    write_cohort_files(tmp_path, 24)
    config = config_for(tmp_path)
    output = call("build", config)
    assert "24 images of 12 patients: II 8, III 8, IV 8" in output
    assert "idh: known for 20 of 24" in output
    assert "stored 24/24 images" in output
    assert prepare(config).grades.tolist() == [i // 2 % 3 for i in range(24)]
    output = call("split", config)
    assert "scheme patient: 0.0% of test regions" in output
    document = json.loads((tmp_path / "data/cohort/splits.json").read_text())
    assert len(document["folds"]) == 3
    config.validation = 0.4
    output = call("split", config)
    document = json.loads((tmp_path / "data/cohort/splits.json").read_text())
    counts = [fold["validation"]["regions"] for fold in document["folds"]]
    assert [f"validation {n} (" in output for n in counts] == [True] * 3
    config.data.scheme, config.validation = "roi", 0.0
    assert "scheme roi: 0.0%" not in call("split", config)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal():
    out = Terminal()
    report_progress = progress_to("stored", out)
    for done in range(1, 11):
        report_progress(done, 10)
    text = out.getvalue()
    assert text.startswith("\rstored:")
    assert all(part in text for part in ("100%", "10/10", "images/s"))
    assert text.endswith("\n")
    assert text.count("\n") == 1


def test_progress_is_lines_elsewhere(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    out = io.StringIO()
    report_progress = progress_to("stored", out)
    for done in range(1, 11):
        report_progress(done, 10)
    assert out.getvalue().splitlines() == [
        "stored 5/10 images, 1/s, 00:05 left",
        "stored 10/10 images, 1/s",
    ]


def test_progress_has_no_rate_before_the_first(monkeypatch):
    """A caller may report 0 long after the beginning: no line and no division."""
    clock = iter((0.0, 100.0, 200.0, 300.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    report_progress = progress_to("scored", out, "maps")
    report_progress(0, 10)
    assert out.getvalue() == ""
    report_progress(5, 10)
    assert out.getvalue().startswith("scored 5/10 maps, ")
    report_progress(0, 0)
    assert out.getvalue().endswith("scored 0/0 maps, 0/s\n")


def test_errors_write_nothing(tmp_path):
    write_cohort_files(tmp_path, 4)
    (tmp_path / "img/001.png").unlink()
    for action in ("build", "check"):
        with pytest.raises(CohortError, match="missing file"):
            act(action, config_for(tmp_path), out=io.StringIO())
    assert not (tmp_path / "data").exists()


def test_warnings_are_lines(tmp_path):
    write_cohort_files(tmp_path, 4, side=10)
    output = call("build", config_for(tmp_path))
    assert "warning: all images are 10 px, smaller than image_size=20: pass " in output
    assert "--config.data.image_size=10. They are enlarged" in output
    assert "000.png" not in output


def test_the_rule_for_small_images_is_the_configs(tmp_path):
    write_cohort_files(tmp_path, 4, side=10)
    call("build", config_for(tmp_path, image_size=10))
    out = io.StringIO()
    store = prepare(config_for(tmp_path, small="pad"), out=out)
    assert "all images are 10 px, smaller" in out.getvalue()
    assert (store.read(0, 20)[:5] == 255).all()
    out = io.StringIO()
    prepare(config_for(tmp_path, image_size=10), out=out)
    assert out.getvalue() == ""
    for ask in (prepare, lambda c: call("check", c)):
        with pytest.raises(ValueError, match="data.small='error' forbids"):
            ask(config_for(tmp_path, small="error"))


def test_the_float_markers_are_those_of_the_config(tmp_path):
    write_cohort_files(tmp_path, 4)
    table = tmp_path / "table.csv"
    lines = table.read_text().splitlines()
    rows = [f"{line},{k}.5,-{k}" for k, line in enumerate(lines[1:])]
    table.write_text("\n".join([lines[0] + ",7p,10q", *rows]))
    call("build", config_for(tmp_path, float_markers=("7p", "10q")))
    whole = prepare(config_for(tmp_path, float_markers=("7p", "10q")))
    one = prepare(config_for(tmp_path, float_markers=("10q",)))
    assert one.floats.tolist() == [[0.0], [-1.0], [-2.0], [-3.0]]
    assert one.table_hash == whole.table_hash  # the same splits fit
    assert prepare(config_for(tmp_path)).floats.shape == (4, 0)
    with pytest.raises(ValueError, match="data.float_markers is .*7q"):
        prepare(config_for(tmp_path, float_markers=("7q",)))


def test_bad_actions(tmp_path):
    with pytest.raises(ValueError, match="expected one of build, check, split"):
        act("bild", config_for(tmp_path))


def test_what_is_not_set_or_not_there(tmp_path):
    with pytest.raises(ValueError, match="data.table is not set"):
        act("build", config_for(tmp_path, table=""), out=io.StringIO())
    for name in ("", "../mine", "a b", ".hidden"):
        with pytest.raises(ValueError, match="data.name is .*; expected letters"):
            act("build", config_for(tmp_path, name=name), out=io.StringIO())
    with pytest.raises(MissingDataError, match="data build --config=…, with the same"):
        prepare(config_for(tmp_path))
    config = config_for(tmp_path, name="gbmlgg")
    for call_it in (lambda: prepare(config), lambda: act("build", config)):
        with pytest.raises(MissingDataError) as caught:
            call_it()
        assert "all_st/" in str(caught.value)
        assert str(tmp_path / "data/gbmlgg") in str(caught.value)


def test_a_store_of_other_classes_is_refused(tmp_path):
    write_cohort_files(tmp_path, 4)
    call("build", config_for(tmp_path))
    with pytest.raises(ValueError, match="data.biomarkers is .*the store"):
        prepare(config_for(tmp_path, biomarkers=("EGFR",)))
    with pytest.raises(ValueError, match="data.classes is"):
        prepare(config_for(tmp_path, classes=("II", "III")))


def test_gbmlgg_from_distribution_to_folds(tmp_path):
    grades = {f"TCGA-AA-{k:04d}": (str(2 + k % 3), "1", 2) for k in range(9)}
    raw = tmp_path / "data/gbmlgg"
    raw.mkdir(parents=True)
    distribution(raw, {**grades, "TCGA-ZZ-0001": ("4", "NA", 1)})
    config = config_for(
        tmp_path, name="gbmlgg", biomarkers=tuple(gbmlgg.BIOMARKERS), image_size=4
    )
    output = call("build", config)
    assert "18 images of 9 patients: II 6, III 6, IV 6" in output
    assert "warning: subset 'molecular': expected" in output
    assert "CARD11: known for 0 of 18" in output
    assert prepare(config).images[0] == "TCGA-AA-0000-01Z-00-DX1.abc_0.png"
    assert "scheme patient: 0.0%" in call("split", config)
    config.data.subset = "graded"
    with pytest.raises(ValueError, match="was built as 'subset molecular'"):
        prepare(config)
    assert "19 images of 10 patients" in call("build", config)


def stand_in_phantom(tmp_path, monkeypatch):
    """A phantom of noise that counts how often it is generated."""
    calls: list[dict] = []

    def write_cohort(directory, *, regions, image_size, seed, progress, **options):
        assert options == {"omics": False, "cores": 2}  # data.threads
        calls.append({"regions": regions, "image_size": image_size, "seed": seed})
        (directory / "img").mkdir()
        table = Path(directory) / "cohort.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "patient", "grade", *BIOMARKERS, "mask"])
            for i in range(regions):
                image = pixels(1000 * seed + i, image_size, image_size)
                Image.fromarray(image).save(directory / f"img/{i}.png")
                mask = Image.fromarray(np.full(image.shape[:2], 255, np.uint8))
                mask.save(directory / f"img/{i}_mask.png")
                cells = [f"img/{i}.png", f"P{i}", CLASSES[i % 3], i % 2, -1]
                writer.writerow([*cells, f"img/{i}_mask.png"])
                progress(i + 1, regions)
        return table

    module = types.ModuleType("fof_jax.data.datasets.phantom.writer")
    module.__file__ = str(tmp_path / "phantom.py")
    Path(module.__file__).write_text("version 1")
    module.write_cohort = write_cohort
    monkeypatch.setitem(sys.modules, "fof_jax.data.datasets.phantom.writer", module)
    return calls


def test_the_phantom_is_generated_when_its_parameters_change(tmp_path, monkeypatch):
    calls = stand_in_phantom(tmp_path, monkeypatch)
    config = config_for(tmp_path, name="phantom")
    out = io.StringIO()
    store = prepare(config, out=out)
    assert "generated 12/12 images" in out.getvalue()
    assert calls == [{"regions": 12, "image_size": 20, "seed": 42}]
    assert store.read_mask(3, 20).all()
    assert prepare(config, out=out).folder == store.folder
    assert len(calls) == 1
    config.data.regions = 9
    assert len(prepare(config, out=out)) == 9
    config.seed = 1
    again = prepare(config, out=out)
    np.testing.assert_array_equal(again.read(2, 20), pixels(1002))
    assert len(calls) == 3
    (tmp_path / "phantom.py").write_text("version 2")  # other generator code
    prepare(config, out=out)
    assert len(calls) == 4
    assert not list((tmp_path / "data/phantom").glob(".drawing-*"))
    assert "12 images" in call("build", config_for(tmp_path, name="phantom"))


def test_five_real_regions_to_two_folds(tmp_path):
    folder = SHARED / "data/tcga_glioma_roi"
    if not folder.exists():
        pytest.skip(f"no real regions in {folder}")
    text = (folder / "labels.csv").read_text(encoding="utf-8-sig")
    labels = list(csv.DictReader(text.splitlines()))
    markers = {"idh": "idh_mutation", "codeletion": "codeletion_1p19q"}
    markers |= {g: f"{g}_cnv" for g in ("PTEN", "EGFR", "CARD11", "FGFR2")}
    grades = {"2": "II", "3": "III", "4": "IV"}
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient", "grade", *markers])
        for row in labels:
            status = [row[column] for column in markers.values()]
            writer.writerow(
                [row["file"], row["patient"], grades[row["who_grade"]], *status]
            )
    config = config_for(
        tmp_path, raw_dir=str(folder), biomarkers=tuple(markers), image_size=1024
    )
    config.folds = 2
    output = call("build", config)
    assert "warning: 2 of 5 images are smaller than image_size=1024" in output
    assert "5 images of 5 patients: II 0, III 3, IV 2" in output
    output = call("split", config)
    assert "scheme patient: 0.0% of test regions" in output
    document = json.loads((tmp_path / "data/cohort/splits.json").read_text())
    tested = [name for fold in document["folds"] for name in fold["test"]["images"]]
    assert sorted(tested) == sorted(row["file"] for row in labels)
    assert len(document["folds"]) == 2
    store = prepare(config, out=io.StringIO())
    for i, row in enumerate(labels):
        assert store.read(i, 1024).shape == (1024, 1024, 3)
        assert CLASSES[store.grades[i]] == grades[row["who_grade"]]
        status = store.biomarker_values[i].tolist()
        assert status == [int(row[column]) for column in markers.values()]


def test_real_lung_tiles(tmp_path):
    folder = SHARED / "data/lc25000_lung224"
    if not folder.exists():
        pytest.skip(f"no real tiles in {folder}")
    names = {"lung_n": "benign", "lung_aca": "adenocarcinoma",
             "lung_scc": "squamous"}  # fmt: skip
    text = (folder / "labels.csv").read_text(encoding="utf-8-sig")
    labels = list(csv.DictReader(text.splitlines()))
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient", "grade", "malignant", "squamous"])
        for row in labels:
            kind = row["class"]
            markers = [int(kind != "lung_n"), int(kind == "lung_scc")]
            writer.writerow([row["file"], row["tile_cluster"], names[kind], *markers])
    config = config_for(
        tmp_path,
        raw_dir=str(folder),
        classes=tuple(names.values()),
        biomarkers=("malignant", "squamous"),
        image_size=224,
    )
    output = call("build", config)
    n = len(labels)
    assert f"{n} images of " in output
    assert "warning" not in output
    store = prepare(config)
    with Image.open(folder / labels[500]["file"]) as image:
        np.testing.assert_array_equal(store.read(500, 224), np.asarray(image))
    assert "0.0% of test regions" in call("split", config)

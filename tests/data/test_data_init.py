"""`data init`: a config of a table, which builds and trains without another flag."""

import numpy as np
import pytest
from PIL import Image

from fof_jax.cli import config as config_flag
from fof_jax.cli.main import main
from fof_jax.data import table_layout, words
from fof_jax.data.errors import CohortError
from fof_jax.data.store import open_store


@pytest.fixture
def table(tmp_path, monkeypatch):
    """24 images of 12 patients under unusual column names; the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = ["Path,Case_ID,WHO_Grade,idh,codel,batch,age,note"]
    for i in range(24):
        size = (50 + i % 3, 40)
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        patient = i // 2
        grade = ("G III", "G II", "G IV")[patient % 3]
        idh = patient % 2 if patient else "NA"
        lines.append(f"{i}.png,P{patient},{grade},{idh},1,{i},{i / 7},text")
    path = tmp_path / "My table.csv"
    path.write_text("\n".join(lines))
    return path


def test_columns_classes_and_biomarkers_are_recognized(table):
    layout = table_layout.describe(table, {})
    assert layout.columns == {
        "image": "Path",
        "patient": "Case_ID",
        "grade": "WHO_Grade",
    }
    assert layout.classes == ("G II", "G III", "G IV")
    assert (layout.biomarkers, layout.biomarkers_per) == (("idh",), "patient")
    assert set(layout.others) == {"codel", "batch", "age", "note"}
    assert layout.others["codel"] == "one value only"
    assert layout.image_size == 32  # 40 is no multiple of the patch
    assert (layout.folds, layout.regions, layout.patients) == (4, 24, 12)


def test_the_config_builds_without_another_flag(table, capsys):
    assert main(["data", "init", str(table)]) == 0
    assert "python launch.py data build --config=my_table.py" in capsys.readouterr().out
    config = config_flag.load(["--config=my_table.py"])
    assert config.data.columns.image == "Path"
    assert config.folds == 4
    assert main(["data", "check", "--config=my_table.py"]) == 0
    assert main(["data", "build", "--config=my_table.py"]) == 0
    store = open_store(config.data.dir, "cohort")
    assert store.images[3] == "3.png"
    assert store.patients[3] == "P1"
    assert store.classes[store.grades[0]] == "G III"
    np.testing.assert_array_equal(store.known[:3, 0], [False, False, True])


def test_an_existing_config_is_kept(table, capsys):
    assert main(["data", "init", str(table), "--out=mine.py"]) == 0
    text = (table.parent / "mine.py").read_text()
    assert main(["data", "init", str(table), "--out=mine.py"]) == 2
    assert "mine.py exists already" in capsys.readouterr().err
    assert (table.parent / "mine.py").read_text() == text


def test_columns_may_be_named(table):
    layout = table_layout.describe(table, {"grade": "idh"})
    assert layout.columns["grade"] == "idh"
    with pytest.raises(CohortError, match="--column=grade=idx: expected one of image"):
        table_layout.describe(table, {"grade": "idx"})


def test_values_that_differ_within_a_patient_are_per_region(table):
    lines = table.read_text().splitlines()
    lines[5] = lines[5].replace(",0,1,", ",1,1,")
    table.write_text("\n".join(lines))
    assert table_layout.describe(table, {}).biomarkers_per == "region"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Case_ID", "Who", "no column for patient among Path, Who.*--column=patient="),
        ("G II,", "G III,", "patients per class|distinct labels"),
        ("WHO_Grade", "Path", "'Path' occurs twice"),
    ],
)
def test_tables_without_a_layout_are_refused(table, old, new, message):
    text = table.read_text().replace(old, new)
    if old == "G II,":
        text = text.replace("G IV,", "G III,")
    table.write_text(text)
    with pytest.raises(CohortError, match=message):
        table_layout.describe(table, {})


def test_a_copy_of_the_label_is_no_biomarker(table):
    header, *lines = table.read_text().splitlines()
    rows = [f"{line},{line.count('I')}" for line in lines]  # G II, G III, G IV
    rows += [row.replace(",P", ",Q") for row in rows]
    table.write_text("\n".join([f"{header},stage", *rows]))
    layout = table_layout.describe(table, {})
    assert layout.biomarkers == ("idh",)
    assert (
        layout.others["stage"]
        == "each value has one grade, as a copy of the label would"
    )


def test_a_name_in_data_columns_that_the_table_lacks(table, capsys):
    assert main(["data", "init", str(table)]) == 0
    flags = ["--config=my_table.py", "--config.data.columns.patient=Donor"]
    assert main(["data", "check", *flags]) == 2
    assert "'Donor' (data.columns.patient) is missing" in capsys.readouterr().err


@pytest.fixture
def lab_table(table):
    """The same images as a laboratory writes its table: words, semicolons, blanks."""
    lines = ["Case ID;Image file;WHO Grade;IDH1 R132H;1p/19q;ATRX;Comment"]
    for i in range(24):
        patient = i // 2
        grade = ("Low grade", "Normal", "High grade")[patient % 3]
        idh = ("Yes", "no", "n.d.")[patient % 3]
        codel = ("1", "unknown", "0")[patient // 3 % 3]
        atrx = ("lost", "kept")[patient % 2]
        lines.append(f"C-{patient};{i}.png;{grade};{idh};{codel};{atrx};re-cut {i}")
    lines[-1] = lines[-1].replace("High grade", "Unknown")
    path = table.parent / "Cases & images (final).csv"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


def test_the_table_of_a_laboratory_builds_without_another_flag(lab_table, capsys):
    """Words are integers, grades are ordered, a row without a grade is left out."""
    assert main(["data", "init", lab_table.name]) == 0
    shown = capsys.readouterr().out
    assert "config: cases_images_final.py" in shown
    assert "not used: ATRX (text: kept, lost; data.words can give" in shown
    assert "not used: Comment (text)" in shown
    assert "rows without a grade, left out: 1" in shown
    flag = "--config=cases_images_final.py"
    config = config_flag.load([flag])
    assert tuple(config.data.classes) == ("Normal", "Low grade", "High grade")
    assert main(["data", "build", flag]) == 0
    assert "1 row without a grade left out" in capsys.readouterr().out
    store = open_store(config.data.dir, "cohort")
    assert store.biomarkers == ("IDH1 R132H", "1p/19q")
    assert len(store) == 23
    values = np.where(store.known, store.biomarker_values, -1)
    np.testing.assert_array_equal(values[[0, 2, 4, 6]], [[1, 1], [0, 1], [-1, 1],
                                                         [1, -1]])  # fmt: skip


def test_words_of_a_column_by_hand(lab_table):
    main(["data", "init", lab_table.name, "--out=mine.py"])
    flags = ["--config=mine.py", "--config.data.biomarkers=('ATRX',)"]
    assert main(["data", "check", *flags]) == 2
    words = "--config.data.words=('Lost=1','kept=0','unknown=')"
    assert main(["data", "check", *flags, words]) == 0


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (("lost",), "expected WORD=INTEGER"),
        (("lost=yes",), "expected WORD=INTEGER"),
        (("=1",), "expected WORD=INTEGER"),
        (("lost=1", "Lost = 0"), "two meanings"),
    ],
)
def test_words_of_another_form_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        words.parse(entries)


def test_grades_in_two_spellings_and_missing_images_are_named(lab_table):
    text = lab_table.read_text("utf-8-sig")
    lab_table.write_text(text.replace("High grade", "high  grade", 1))
    with pytest.raises(CohortError, match=r"'high  grade' \(1 rows\) beside 'High gr"):
        table_layout.describe(lab_table, {})
    lab_table.write_text(text.replace("3.png", "images\\3.png").replace("5.png", "x"))
    with pytest.raises(CohortError) as error:
        table_layout.describe(lab_table, {})
    assert "row 5: " in str(error.value)
    assert "write / for \\" in str(error.value)
    assert "row 7: " in str(error.value)


def test_tabs_separate_columns_too(lab_table):
    commas = table_layout.describe(lab_table, {})
    lab_table.write_text(lab_table.read_text("utf-8-sig").replace(";", "\t"))
    assert table_layout.describe(lab_table, {}) == commas


def test_a_column_with_an_infinite_number_is_no_biomarker(table):
    header, *lines = table.read_text().splitlines()
    ratios = ("1", "inf", "0")  # a spreadsheet's division by zero
    rows = [f"{line},{ratios[i % 3]}" for i, line in enumerate(lines)]
    table.write_text("\n".join([f"{header},ratio", *rows]))
    layout = table_layout.describe(table, {})
    assert layout.others["ratio"].startswith("real numbers")
    assert layout.biomarkers == ("idh",)


def test_rows_without_an_image_are_named(table):
    header, *lines = table.read_text().splitlines()
    empty = [line[line.index(",") :] for line in lines]
    table.write_text("\n".join([header, *empty]))
    with pytest.raises(CohortError, match=r"empty cell \(24\):\n  row 2: no image"):
        table_layout.describe(table, {})

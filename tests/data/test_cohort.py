"""Cohort tables: valid ones are read exactly, all errors of others are reported."""

import numpy as np
import pytest
from PIL import Image

from fof_jax.data.cohort import CohortError, check_images, read_cohort, write_cohort
from tests.support.bad_images import BAD_IMAGES
from tests.support.cohort_files import BIOMARKERS, CLASSES, pixels, rows_of, write_table
from tests.support.cohort_files import write_cohort_files as files


def read(table, **kwargs):
    return read_cohort(
        table, **{"classes": CLASSES, "biomarkers": BIOMARKERS, **kwargs}
    )


def kinds(error: CohortError) -> dict[str, list[int | None]]:
    found: dict[str, list[int | None]] = {}
    for row_error in error.errors:
        found.setdefault(row_error.kind, []).append(row_error.row)
    return found


def errors_of(table, **kwargs) -> tuple[dict[str, list[int | None]], str]:
    with pytest.raises(CohortError) as caught:
        read(table, **kwargs)
    return kinds(caught.value), str(caught.value)


def test_a_sound_table_is_read_in_order(tmp_path):
    cohort = read(files(tmp_path, 12))
    assert [r.patient for r in cohort.rows[:3]] == ["P000", "P000", "P001"]
    assert [r.grade for r in cohort.rows[:6]] == [0, 0, 1, 1, 2, 2]
    assert cohort.rows[8].biomarkers == (None, -1)  # patient 4: idh NA, EGFR -1
    assert cohort.rows[2].biomarkers == (1, 0)
    assert cohort.rows[0].image == tmp_path / "img/000.png"
    assert cohort.rows[0].fold is None
    assert cohort.name_of(cohort.rows[3]) == "img/003.png"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_encodings_delimiters_and_line_ends(tmp_path, encoding, newline, delimiter):
    table = files(tmp_path, 4)
    text = table.read_text().replace(",", delimiter).replace("P000", "Pé")
    table.write_bytes(text.replace("\n", newline).encode(encoding))
    cohort = read(table)
    assert [r.patient for r in cohort.rows] == ["Pé", "Pé", "P001", "P001"]


def test_floats_folds_masks_and_integers_written_as_floats(tmp_path):
    files(tmp_path, 2)
    mask = Image.fromarray(np.full((20, 20), 255, np.uint8))
    mask.save(tmp_path / "m.png")
    rows = [
        {**row, "idh": "1.0", "7p": cell, "fold": str(i), "mask": m}
        for i, (row, cell, m) in enumerate(
            zip(rows_of(2), ["-0.25", "NA"], ["m.png", ""], strict=True)
        )
    ]
    cohort = read(write_table(tmp_path, rows), float_markers=("7p",))
    assert [r.floats for r in cohort.rows] == [(-0.25,), (None,)]
    assert [r.fold for r in cohort.rows] == [0, 1]
    assert [r.mask for r in cohort.rows] == [tmp_path / "m.png", None]
    assert cohort.rows[0].biomarkers == (1, -1)


def test_what_is_written_reads_back(tmp_path):
    cohort = read(files(tmp_path, 10))
    write_cohort(tmp_path / "again.csv", cohort)
    again = read(tmp_path / "again.csv")
    assert again.rows == cohort.rows
    assert again.classes == cohort.classes


def test_no_biomarkers_and_other_classes(tmp_path):
    rows = [{**row, "grade": "2"} for row in rows_of(2)]
    files(tmp_path, 2)
    cohort = read(write_table(tmp_path, rows), classes=("1", "2"), biomarkers=())
    assert [r.grade for r in cohort.rows] == [1, 1]
    assert cohort.rows[0].biomarkers == ()


def test_all_errors_come_at_once_with_rows_and_counts(tmp_path):
    files(tmp_path, 40)
    rows = rows_of(40)
    for row in rows[:12]:
        row["grade"] = "iii"
    rows[13]["EGFR"] = "1.5"
    rows[20]["image"] = "img/gone.png"
    rows[22]["image"] = rows[21]["image"]
    rows[31]["EGFR"] = "9"
    rows[35]["patient"] = ""
    (tmp_path / "img/039.png").write_bytes(b"not an image")
    found, text = errors_of(write_table(tmp_path, rows))
    assert found["unknown grade"] == list(range(2, 14))
    assert found["biomarker not an integer"] == [15]
    assert found["missing file"] == [22]
    assert found["same image twice"] == [24]
    # Rows 14/15 differ as well: 1.5 counts as unknown.
    assert 33 in found["patient with two sets of biomarkers"]
    assert found["empty cell"] == [37]
    assert found["unreadable image"] == [41]
    assert "unknown grade (12)" in text
    assert "and 2 more" in text
    assert "close: 'III'" in text
    assert "classes are II, III, IV" in text


def test_biomarkers_of_each_image(tmp_path):
    files(tmp_path, 4)
    rows = rows_of(4)
    rows[1]["EGFR"], rows[3]["image"] = "2", rows[2]["image"]
    table = write_table(tmp_path, rows)
    found, text = errors_of(table)
    assert found["patient with two sets of biomarkers"] == [3]
    assert "pass --config.data.biomarkers_per=region" in text
    with pytest.raises(CohortError, match="same image twice") as caught:
        read(table, biomarkers_per="region")
    assert "two sets" not in str(caught.value)
    rows[3]["image"] = "img/003.png"
    cohort = read(write_table(tmp_path, rows), biomarkers_per="region")
    assert [row.biomarkers[1] for row in cohort.rows[:2]] == [-1, 2]
    with pytest.raises(ValueError, match="expected one of patient, region"):
        read(table, biomarkers_per="slide")


def test_missing_columns_and_missing_table(tmp_path):
    rows = [{k: v for k, v in r.items() if k != "idh"} for r in rows_of(2)]
    files(tmp_path, 2)
    rows = [{("Grade" if k == "grade" else k): v for k, v in r.items()} for r in rows]
    found, text = errors_of(write_table(tmp_path, rows))
    assert found == {"column": [1, 1]}
    assert "'grade' is missing" in text
    assert "close: 'Grade'" in text
    assert "'idh' is missing" in text
    assert errors_of(tmp_path / "none.csv")[0] == {"table": [None]}
    (tmp_path / "empty.csv").write_text("")
    assert errors_of(tmp_path / "empty.csv")[0] == {"table": [None]}
    (tmp_path / "utf16.csv").write_text("image,patient,grade", encoding="utf-16")
    assert errors_of(tmp_path / "utf16.csv")[0] == {"table": [None]}


def test_rows_of_another_length_and_columns_there_twice(tmp_path):
    table = files(tmp_path, 4)
    lines = table.read_text().splitlines()
    lines[2] += ",extra"
    table.write_text("\n".join(lines))
    assert errors_of(table)[0] == {"number of cells": [3]}
    table.write_text("\n".join(line + ",0" for line in lines[:2]).replace(
        "EGFR,0", "EGFR,EGFR"))  # fmt: skip
    assert errors_of(table)[0]["column"] == [1]


@pytest.mark.parametrize("fold", ["-1", "a", "", "1.5"])
def test_bad_folds(tmp_path, fold):
    files(tmp_path, 2)
    rows = [{**r, "fold": f} for r, f in zip(rows_of(2), ["0", fold], strict=True)]
    assert errors_of(write_table(tmp_path, rows))[0] == {"bad fold": [3]}


def test_empty_cells_are_told_once(tmp_path):
    files(tmp_path, 4)
    rows = rows_of(4)
    rows[0]["image"] = rows[1]["image"] = rows[2]["grade"] = ""
    found, _ = errors_of(write_table(tmp_path, rows))
    assert found == {"empty cell": [2, 3], "unknown grade": [4]}


def test_bad_floats(tmp_path):
    files(tmp_path, 2)
    rows = [{**r, "7p": f} for r, f in zip(rows_of(2), ["inf", "x"], strict=True)]
    found, _ = errors_of(write_table(tmp_path, rows), float_markers=("7p",))
    assert found == {"float marker not a number": [2, 3]}


@pytest.mark.parametrize("name", list(BAD_IMAGES))
def test_images_that_cannot_be_used(tmp_path, name):
    table = files(tmp_path, 4)
    spoil, kind = BAD_IMAGES[name]
    (tmp_path / "img/002.png").unlink()
    spoil(tmp_path / "img/002.png")
    found, text = errors_of(table)
    assert found == {kind: [4]}
    assert "002.png" in text


def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch):
    table = files(tmp_path, 2)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # ours have 400
    assert errors_of(table)[0] == {"image too large": [2, 3]}


@pytest.mark.parametrize(
    ("mode", "form"),
    [(m, f) for m in ("RGB", "RGBA", "L") for f in ("PNG", "TIFF")]
    + [("RGB", "JPEG"), ("L", "JPEG")],
)
def test_images_that_can_be_used(tmp_path, mode, form):
    table = files(tmp_path, 2)
    Image.fromarray(pixels(0)).convert(mode).save(tmp_path / "img/000.png", form)
    assert len(read(table).rows) == 2


def test_masks_are_checked(tmp_path):
    files(tmp_path, 2)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "m.png")
    rows = [
        {**r, "mask": m} for r, m in zip(rows_of(2), ["m.png", "no.png"], strict=True)
    ]
    found, _ = errors_of(write_table(tmp_path, rows))
    assert found == {"mask of another size": [2], "missing file": [3]}


def test_check_images_tells_progress(tmp_path):
    cohort = read(files(tmp_path, 5))
    calls = []
    assert check_images(cohort, progress=lambda *call: calls.append(call)) == []
    assert calls == [(k, 5) for k in range(1, 6)]

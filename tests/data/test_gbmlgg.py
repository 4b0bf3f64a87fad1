"""Pathomic Fusion's distribution, on the real rows that are at hand and a stand-in."""

import csv
import warnings

import numpy as np
import pytest
from PIL import Image

from fof_jax.data.datasets.gbmlgg import BIOMARKERS, EXPECTED, OMICS, make_cohort
from fof_jax.data.errors import CohortError, DataWarning, MissingDataError
from tests.support.cohort_files import SHARED, pixels
from tests.support.distribution import distribution

TABLES = SHARED / "data/tcga_glioma_tables"


def test_columns_by_name_and_unknown_stays_unknown(tmp_path):
    distribution(tmp_path, {
        "TCGA-AA-0001": ("2", "1", 2), "TCGA-AA-0002": ("4", "NA", 1),
        "TCGA-AA-0003": ("NA", "0", 1), "TCGA-AA-0004": ("3", "0", 1),
    })  # fmt: skip
    with pytest.warns(DataWarning, match="expected .patients, regions"):
        cohort = make_cohort(tmp_path)
    assert cohort.classes == ("II", "III", "IV")
    assert cohort.biomarkers == (
        "idh", "codeletion", "PTEN", "EGFR", "CARD11", "FGFR2"
    )  # fmt: skip
    assert [(r.patient, r.grade) for r in cohort.rows] == [
        ("TCGA-AA-0001", 0), ("TCGA-AA-0001", 0), ("TCGA-AA-0004", 1)
    ]  # fmt: skip
    assert cohort.rows[0].biomarkers == (1, 1, -1, 2, None, 0)
    assert cohort.float_markers == ("10q", "10p", "7p", "7q")
    assert cohort.rows[0].floats == (1.0, -0.25, 0.5, None)
    assert cohort.omics == OMICS
    vector = dict(zip(cohort.omics, cohort.rows[0].omics, strict=True))
    assert (vector["PTEN"], vector["EGFR"], vector["7p"]) == (-1.0, 2.0, 0.5)
    assert (vector["CARD11"], vector["7q"], vector["22q"]) == (None, None, 0.0)
    with pytest.warns(DataWarning):
        graded = make_cohort(tmp_path, subset="graded")
    assert [r.biomarkers[:2] for r in graded.rows if r.grade == 2] == [(None, None)]


def counts_of_true_size():
    """769 patients with the published counts of regions a class and subset."""
    patients, number = {}, 0

    def add(n_patients, n_regions, grade, idh):
        nonlocal number
        extra = n_regions - n_patients
        for k in range(n_patients):
            count = 1 + extra // n_patients + (k < extra % n_patients)
            patients[f"TCGA-{number // 10000:02d}-{number % 10000:04d}"] = (
                grade, idh, count)  # fmt: skip
            number += 1

    add(200, 393, "2", "1")
    add(200, 408, "3", "0")
    add(264, 524, "4", "0")
    add(2, 3, "2", "NA")
    add(70, 130, "4", "NA")
    add(33, 47, "NA", "1")
    return patients


def test_a_distribution_of_the_true_size_has_the_published_counts(tmp_path):
    patients = counts_of_true_size()
    assert len(patients) == 769
    assert sum(count for *_, count in patients.values()) == 1505
    distribution(tmp_path, patients)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to report
        for subset, (n_patients, n_regions, by_class) in EXPECTED.items():
            rows = make_cohort(tmp_path, subset=subset).rows
            assert len({r.patient for r in rows}) == n_patients
            assert len(rows) == n_regions
            grades = np.bincount([r.grade for r in rows])
            assert tuple(grades.tolist()) == by_class
    next((tmp_path / "all_st").glob("TCGA-00-0007*")).unlink()
    with pytest.warns(DataWarning, match=r"TCGA-00-0007 \(2, 1 here\)"):
        make_cohort(tmp_path)


def test_strangers_are_listed(tmp_path):
    distribution(tmp_path, {"TCGA-AA-0001": ("2", "1", 1),
                            "TCGA-AA-0002": ("2", "1", 0)})  # fmt: skip
    Image.fromarray(pixels(1, 4, 4)).save(tmp_path / "all_st/TCGA-ZZ-9999-1_1.png")
    with pytest.warns(DataWarning) as caught:
        make_cohort(tmp_path)
    output = " ".join(str(w.message) for w in caught)
    assert "in no table, left out: TCGA-ZZ-9999" in output
    assert "no image in all_st/: TCGA-AA-0002" in output


def test_what_is_missing_is_said_with_the_remedy(tmp_path):
    with pytest.raises(MissingDataError) as caught:
        make_cohort(tmp_path / "gbmlgg")
    for part in ("all_st/", "all_dataset.csv", "grade_data.csv", "Pathomic Fusion",
                 str(tmp_path / "gbmlgg"),
                 "python launch.py data build --config=configs/gbmlgg.py"):  # fmt: skip
        assert part in str(caught.value)


def test_cells_that_are_no_statuses(tmp_path):
    distribution(tmp_path, {"TCGA-AA-0001": ("2", "0.61", 1),
                            "TCGA-AA-0002": ("5", "1", 1)})  # fmt: skip
    with pytest.raises(CohortError, match="(?s)z-scores.*unknown grade"):
        make_cohort(tmp_path)
    with pytest.raises(ValueError, match="molecular or graded"):
        make_cohort(tmp_path, subset="all")


def test_the_molecular_vector_has_its_columns_where_they_are_known_to_be():
    # Positions in Pathomic Fusion's vector, as others' code indexes it.
    at = {"codeletion": 0, "idh mutation": 1, "EGFR": 2, "FGFR2": 18, "CARD11": 39}
    at |= {"PTEN": 42, "1q": 43, "7p": 54, "7q": 55, "10p": 60, "10q": 61, "22q": 79}
    assert {name: OMICS.index(name) for name in at} == at
    assert len(set(OMICS)) == len(OMICS) == 80
    if TABLES.exists():
        text = (TABLES / "all_dataset.excerpt74.csv").read_text(encoding="utf-8-sig")
        header = text.splitlines()[0].split(",")[4:]
        assert tuple(header) == OMICS[: len(header)]


@pytest.mark.skipif(not TABLES.exists(), reason=f"no real tables in {TABLES}")
def test_the_real_rows_parse_to_the_joined_table(tmp_path):
    for name in ("all_dataset", "grade_data"):
        source = TABLES / f"{name}.excerpt74.csv"
        (tmp_path / f"{name}.csv").write_bytes(source.read_bytes())
    text = (TABLES / "fof_biomarkers_74.csv").read_text(encoding="utf-8-sig")
    joined = list(csv.DictReader(text.splitlines()))
    (tmp_path / "all_st").mkdir()
    for row in joined:
        name = f"{row['TCGA ID']}-01Z-00-DX1.abc_1.png"
        Image.fromarray(pixels(0, 4, 4)).save(tmp_path / "all_st" / name)
    with pytest.warns(DataWarning) as caught:
        rows = make_cohort(tmp_path, subset="graded").rows
    # The excerpt ends at PTEN: the arms are listed and unknown, the rest verbatim.
    output = " ".join(str(w.message) for w in caught)
    assert "lacks 37 of 80 columns, set to unknown: 1q, 2p, 2q" in output
    cells = {
        line["TCGA ID"]: line
        for line in csv.DictReader(
            (tmp_path / "all_dataset.csv").read_text("utf-8-sig").splitlines()
        )
    }
    for row in rows:
        for name, value in zip(OMICS, row.omics, strict=True):
            cell = cells[row.patient].get(name, "")
            assert value == (None if cell in ("", "NA") else float(cell))
    found = {row.patient: (row.grade, row.biomarkers) for row in rows}

    def status(cell):
        return None if cell in ("", "NA") else int(float(cell))

    wanted = {
        row["TCGA ID"]: (
            int(float(row["Grade"])) - 2,
            tuple(status(row[column]) for column in BIOMARKERS.values()),
        )
        for row in joined
        if row["Grade"] not in ("", "NA")
    }
    assert len(joined) == 74
    assert found == wanted

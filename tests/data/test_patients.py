"""One patient, one ID: spellings that a split would take for different patients."""

import unicodedata

import pytest

from fof_jax.cli.main import main
from fof_jax.tables.patients import patient_key, spellings
from tests.support.cohort_files import rows_of, write_cohort_files, write_table


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("José", unicodedata.normalize("NFD", "José"), True),
        ("P001", "p001", True),
        ("P 001", "P  001", True),
        ("P 001", "P\u00a0001", True),
        ("P001", "P001\u200b", True),
        ("TCGA-02-0001", "TCGA-02-0001-01Z-00-DX1", True),
        ("TCGA-02-0001-01Z-00-DX1", "tcga-02-0001-01Z-00-DX2", True),
        ("TCGA-02-0001", "TCGA-02-0002", False),
        ("TCGA-02-00011", "TCGA-02-00012", False),
        ("P1", "P01", False),
        ("P1", "P1-2", False),
    ],
)
def test_which_ids_are_one_patient(one, other, same):
    assert (patient_key(one) == patient_key(other)) == same
    assert spellings([one, other, one]) == ([(one, other)] if same else [])


def verb(folder, table, action):
    words = ["--config=cohort", f"--config.data.table={table}", "--config.folds=2"]
    words += [f"--config.data.dir={folder / 'data'}", "--config.data.image_size=16"]
    return main(["data", action, *words, "--config.data.biomarkers=()"])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("José", unicodedata.normalize("NFD", "José"), r"Jos\xe9 and Jose\u0301"),
        ("P1", "p1", "P1 and p1 (row 2, row 3)"),
        ("TCGA-02-0001-01Z-00-DX1", "TCGA-02-0001-01Z-00-DX2", "write one ID"),
        ("NA", "nan", "unknown patient (2)"),
    ],
)
def test_data_refuses_two_spellings(tmp_path, capsys, first, second, message):
    write_cohort_files(tmp_path, 12)
    rows = rows_of(12)
    rows[0]["patient"], rows[1]["patient"] = first, second
    table = write_table(tmp_path, rows)
    for action in ("check", "build"):
        assert verb(tmp_path, table, action) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_predict_refuses_two_spellings_and_takes_unknown_patients_apart(
    small_run, small_pictures, tmp_path, capsys
):
    from PIL import Image

    for k, pixels in enumerate(list(small_pictures.values())[:3]):
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    table = tmp_path / "t.csv"
    words = [f"--checkpoint={small_run}", f"--images={table}", "--no_pictures"]
    table.write_text("image,patient\n0.png,P1\n1.png,p1\n2.png,P2\n")
    assert main(["predict", *words, f"--out={tmp_path / 'a'}"]) == 2
    assert "P1 and p1: write one ID" in capsys.readouterr().err
    table.write_text("image,patient\n0.png,NA\n1.png,nan\n2.png,P2\n")
    assert main(["predict", *words, f"--out={tmp_path / 'b'}"]) == 0
    lines = (tmp_path / "b" / "patients.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["0.png", "1.png", "P2"]


def test_eval_notes_two_spellings_and_leaves_unknown_patients_out(tmp_path, capsys):
    path = tmp_path / "p.csv"
    patients = [("P1", "a"), ("p1", "a"), ("NA", "b"), ("nan", "b"), ("P2", "b")]
    rows = [f"{i}.png,{p},{y},0.6,0.4" for i, (p, y) in enumerate(patients)]
    path.write_text("\n".join(["image,patient,y,p_a,p_b", *rows, ""]))
    assert main(["eval", f"--predictions={path}"]) == 0
    printed = capsys.readouterr().out
    assert "1 patient(s) have two IDs and count as several: P1 and p1" in printed
    assert "2 image(s) without a patient" in printed

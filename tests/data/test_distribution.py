"""A distribution of the true size, from the command line to its folds.

The 769 patients are real, their split table too; grades, markers and regions are
invented so that they have the published counts. The reference for the 15 folds is
the file, read here by another way.
"""

import json
import pickle
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from fof_jax.cli.main import main
from fof_jax.data.external_splits import read_pnas
from fof_jax.data.store import open_store
from tests.support.cohort_files import SHARED, pixels
from tests.support.distribution import distribution

TABLES = SHARED / "data/tcga_glioma_tables"
pytestmark = [
    pytest.mark.skipif(not TABLES.exists(), reason=f"no real tables in {TABLES}"),
    # ml_collections 1.1 loads a config file by a call that Python will drop.
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]
# Regions a patient of the 664: 289 have 1, 271 have 2, 52 have 3, 52 have 4-16.
REGIONS = [16, 14, 12, 10, *[6] * 46, 5, 5, *[3] * 52, *[2] * 271, *[1] * 289]


def patients_of_true_size() -> dict[str, tuple[str, str, int]]:
    """769 real ids -> (grade cell, IDH cell, regions)."""
    ids = list(reference())
    np.random.default_rng(0).shuffle(ids)
    left = {"2": 393, "3": 408, "4": 524}
    made = {}
    for count in REGIONS:
        grade = max(left, key=lambda g: left[g])
        left[grade] -= count
        made[ids.pop()] = (grade, str(len(made) % 2), count)
    assert set(left.values()) == {0}
    for grade, count, n in [("2", 2, 1), ("2", 1, 1), ("4", 2, 60), ("4", 1, 10)]:
        made |= {ids.pop(): (grade, "NA", count) for _ in range(n)}
    for k in range(33):
        made[ids.pop()] = ("NA", "1", 2 if k < 14 else 1)
    assert not ids
    return made


def reference() -> dict[str, list[str]]:
    lines = (TABLES / "pnas_splits.csv").read_bytes().split(b"\r")
    rows = [line.decode().strip().split(",") for line in lines[1:] if line.strip()]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distribution")
    distribution(folder, patients_of_true_size())
    # No two images alike, as in reality.
    for i, path in enumerate(sorted((folder / "all_st").iterdir())):
        Image.fromarray(pixels(i, 16, 16)).save(path)
    (folder / "pnas_splits.csv").write_bytes((TABLES / "pnas_splits.csv").read_bytes())
    return folder


def run(raw, folder, action, *words, code=0):
    return main([
        "data", action, "--config=configs/gbmlgg.py",
        f"--config.data.raw_dir={raw}", f"--config.data.dir={folder}",
        "--config.data.image_size=16", *words,
    ]) == code  # fmt: skip


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory):
    """A folder with the store of the molecular subset."""
    folder = tmp_path_factory.mktemp("built")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run(raw, folder, "build")
    return folder


@pytest.mark.slow
def test_both_subsets_and_all_15_folds(raw, tmp_path, capsys):
    output = reference()
    assert len(output) == 769
    seen: set[str] = set()
    for subset, counts in (
        ("molecular", "1325 images of 664 patients: II 393, III 408, IV 524"),
        ("graded", "1458 images of 736 patients: II 396, III 408, IV 654"),
    ):
        chosen = f"--config.data.subset={subset}"
        assert run(raw, tmp_path, "build", chosen)
        out = capsys.readouterr().out
        assert counts in out
        assert "expected (patients" not in out
        assert run(raw, tmp_path, "split", chosen, "--config.data.scheme=pnas15")
        assert "scheme pnas15: 0.0% of test regions" in capsys.readouterr().out
        path = tmp_path / "gbmlgg/splits.json"
        document = json.loads(path.read_text())
        assert len(document["folds"]) == 15
        for k, fold in enumerate(document["folds"]):
            for side, word in (("train", "Train"), ("test", "Test")):
                owners = {name[:12] for name in fold[side]["images"]}
                assert {output[p][k] for p in owners} == {word}
                assert fold[side]["patients"] == len(owners)
                seen |= owners
            both = len(fold["train"]["images"]) + len(fold["test"]["images"])
            assert both == int(counts.split()[0])
    assert len(seen) == 736


def test_every_patient_of_the_file(raw):
    table = read_pnas(raw / "pnas_splits.csv")
    wanted = {p: tuple(c == "Test" for c in row) for p, row in reference().items()}
    assert table == wanted
    assert len(table) == 769
    assert {len(row) for row in table.values()} == {15}


def test_the_leak_of_the_releases_folds_is_printed(raw, built, capsys):
    assert run(raw, built, "split", "--config.data.scheme=roi")
    line = capsys.readouterr().out.split("scheme roi: ")[1].split("%")[0]
    assert float(line) == pytest.approx(69, abs=3)


def test_a_patient_that_differs_is_reported_by_id(raw, tmp_path, capsys):
    changed = tmp_path / "raw"
    shutil.copytree(raw, changed)
    patient, count = next(
        (p, n) for p, (_, idh, n) in patients_of_true_size().items()
        if n == 3 and idh != "NA"
    )  # fmt: skip
    next((changed / "all_st").glob(f"{patient}*")).unlink()
    assert run(changed, tmp_path / "d", "build")  # not fatal
    output = capsys.readouterr().out
    assert "found (664, 1324" in output
    assert f"{patient} ({count}, {count - 1} here)" in output


@pytest.mark.slow  # one more store of the true size
def test_a_patient_without_markers_or_row_is_reported_by_id(raw, tmp_path, capsys):
    patient = next(
        p for p, (_, idh, _) in patients_of_true_size().items() if idh == "1"
    )
    sound = (raw / "all_dataset.csv").read_text()
    line = next(one for one in sound.splitlines() if one.startswith(patient))
    cells = line.split(",")
    cells[5] = "NA"  # IDH
    (tmp_path / "all_st").symlink_to(raw / "all_st")
    shutil.copy(raw / "grade_data.csv", tmp_path)
    for changed, why in (
        (sound.replace(line, ",".join(cells)), "without IDH or 1p/19q (73): "),
        (sound.replace(line + "\n", ""), "in one of the two tables (1): "),
    ):
        (tmp_path / "all_dataset.csv").write_text(changed)
        assert run(tmp_path, tmp_path / "d", "check")
        output = capsys.readouterr().out
        assert "found (663, " in output
        assert patient in output.split(why)[1].split(". ")[0]


def test_the_store_keeps_the_molecular_vector(built):
    store = open_store(built, "gbmlgg")
    assert store.omics.shape == (1325, 80)
    assert store.omics[:, store.omic_names.index("PTEN")].tolist() == [-1.0] * 1325
    assert np.isnan(store.omics[:, store.omic_names.index("7q")]).all()


def test_pnas15_without_its_file_and_with_strangers(raw, built, tmp_path, capsys):
    scheme = "--config.data.scheme=pnas15"
    short = tmp_path / "short.csv"
    lines = (raw / "pnas_splits.csv").read_bytes().split(b"\r")
    short.write_bytes(b"\r".join(lines[:700]))
    file = f"--config.data.splits_file={short}"
    assert run(raw, built, "split", scheme, file, code=2)
    assert "not in the file" in capsys.readouterr().err
    short.write_bytes(b"\r".join(lines).replace(b",Test,", b",Tset,", 1))
    assert run(raw, built, "split", scheme, file, code=2)
    assert "Tset" in capsys.readouterr().err
    missing = f"--config.data.splits_file={tmp_path / 'none.csv'}"
    assert run(raw, built, "split", scheme, missing, code=2)
    assert "none.csv does not exist" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(empty, built, "split", scheme, code=2)
    assert "requires pnas_splits.csv in data.raw_dir" in capsys.readouterr().err


def test_a_split_pickle_from_the_command_line(raw, built, tmp_path, capsys):
    names = sorted(p.name for p in (raw / "all_st").iterdir())
    rng = np.random.default_rng(0)
    part = {"x_path": np.array(names), "x_omic": rng.normal(size=(len(names), 80))}
    folds = {
        k: {
            "train": {key: value[np.arange(len(names)) % 5 != k]
                      for key, value in part.items()},
            "test": {key: value[np.arange(len(names)) % 5 == k]
                     for key, value in part.items()},
        }
        for k in range(5)
    }  # fmt: skip
    file = tmp_path / "my_split_dropGradeNaN.pkl"
    file.write_bytes(pickle.dumps({"splits": folds, "data_pd": None}))
    words = ("--config.data.scheme=pickle", f"--config.data.splits_file={file}")
    assert run(raw, built, "split", *words)
    output = capsys.readouterr().out
    assert "x_omic is z-scored" in output
    assert "180 of its names are not in this table" in output
    document = json.loads((built / "gbmlgg/splits.json").read_text())
    kept = set(document["folds"][3]["test"]["images"])
    assert kept < {name for i, name in enumerate(names) if i % 5 == 3}
    assert len(document["folds"]) == 5
    assert run(raw, built, "split", words[0], code=2)
    assert "requires a split pickle" in capsys.readouterr().err

"""The study on bags: cells of the two fastest rows, resumed, and their table."""

import json

import h5py
import numpy as np
import pytest

from benchmarks.experiments import bag_study, bag_study_table
from tests.support import bag_files


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Forty bags in two folds; in the upper grades a large first feature decides."""
    folder = tmp_path_factory.mktemp("bags")
    rows = []
    for i in range(40):
        grade, count = i % 3, 5 + i % 7
        values = bag_files.features(i, count)
        deciding = np.zeros(count, np.uint8)
        if grade:
            deciding[i % count] = 1
            values[i % count, 0] = 6 * (2 * grade - 3)
        name = f"bag_{i:02d}.h5"
        bag_files.write_trident(folder / name, values)
        with h5py.File(folder / name, "a") as file:
            file["mask"] = deciding
        row = {"image": name, "patient": f"P{i}", "grade": str(grade)}
        rows.append(row | {"fold": str(i % 2), "idh": str(i % 2)})
    return bag_files.write_table(folder, rows)


def words(table, results, *more):
    flags = [f"--table={table}", "--share=20", f"--results={results}", "--epochs=2"]
    rows = ["--rows=mean pooling", "--rows=ABMIL"]
    compiled = f"--compiled={results}/compiled"
    return [*flags, *rows, compiled, "--seeds=42", "--folds=0", "--folds=1", *more]


@pytest.mark.slow
def test_cells_and_table(table, tmp_path, capsys):
    bag_study.main(words(table, tmp_path))
    paths = sorted((tmp_path / "20").glob("*.json"))
    assert len(paths) == 4
    cell = json.loads(paths[0].read_text())
    assert cell["rows"] == [i for i in range(40) if i % 2 == cell["fold"]]
    for y, point in zip(cell["y"], cell["pointing"], strict=True):
        assert (point is None) == (y == 0)
    np.testing.assert_allclose(np.sum(cell["prob"], axis=1), 1, atol=1e-4)
    capsys.readouterr()

    kept = paths[1].read_bytes()
    paths[0].unlink()
    bag_study.main(words(table, tmp_path))
    assert capsys.readouterr().out.count("\n") == 1  # the others stand
    again = json.loads(paths[0].read_text())
    for name in ("prob", "pointing", "precision"):
        assert again[name] == cell[name]
    assert paths[1].read_bytes() == kept

    shown = bag_study_table.tables(tmp_path, list(bag_study.ROWS))
    assert "Share 20%: 2 cells a row, folds 0, 1, seeds 42" in shown
    assert "| mean pooling (" in shown
    assert "| ABMIL (" in shown


def write_cell(folder, row, seed, fold, *, right):
    """Twelve bags whose grades are known, or not at all, by a row that points so."""
    y = [i % 3 for i in range(12)]
    cell = {
        "row": row,
        "seed": seed,
        "fold": fold,
        "rows": list(range(12 * fold, 12 * fold + 12)),
        "patient": list(range(12 * fold, 12 * fold + 12)),
        "y": y,
        "prob": [
            [float(right and k == grade) or 0.01 for k in range(3)] for grade in y
        ],
        "seconds": {"wall": 1.0},
    }
    for figure in ("pointing", "precision", "area"):
        cell[figure] = [float(right) if grade else None for grade in y]
    path = folder / bag_study_table.name_of(row, seed, fold)
    path.write_text(json.dumps(cell))


def test_intervals_cover_the_seeds(tmp_path):
    """Two seeds: one in which all bags differ alike, one in which none does.

    Replicates have the mean of two draws of the two: 0, a half or all of the
    difference, with probabilities 1/4, 1/2, 1/4.
    """
    folder = tmp_path / "10"
    folder.mkdir()
    for seed in (1, 2):
        for fold in (0, 1):
            write_cell(folder, "baseline", seed, fold, right=False)
            write_cell(folder, "FoF", seed, fold, right=seed == 1)
    for row in ("baseline", "FoF"):  # of a seed that is not finished
        write_cell(folder, row, 3, 1, right=True)
    shown = bag_study_table.table(folder, ["baseline", "FoF"], "Set", "{area}")
    assert "Set: 4 cells a row, folds 0, 1, seeds 1, 2; 0.0%; median" in shown
    assert "| FoF (1 s) | 75.0 ± 35.4 |" in shown  # AUC 1 and, of ties, 1/2
    assert "| +25.0 (+0.0, +50.0) |" in shown
    both = "+50.0 (+0.0, +100.0)"
    assert f"* FoF less baseline: {both}; {both}" in shown


def test_every_row_has_a_config(table):
    from fof_jax.types import DatasetInfo

    info = DatasetInfo(bag_study.CLASSES, ("idh",), ())
    for argument, fields in bag_study.ROWS.values():
        config = bag_study.Runner(argument, bag_study.COMMON | fields, info).config
        assert config.epochs == 8
        assert config.views.warmup_epochs <= config.epochs

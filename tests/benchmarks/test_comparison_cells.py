"""Cells of the comparison go into a folder of `compare` and come back unchanged."""

import json

import pytest

from benchmarks.experiments import comparison_cells
from benchmarks.experiments.comparison_cells import Names
from fof_jax.training.cells import Cell, Folder

NAMES = ("fusion.concat-42-0.csv", "distill.dgkd_student-43-1.csv")


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(name)
    (folder / "cost.json").write_text(json.dumps({"fusion.concat": {"step_s": 1}}))
    return folder


def test_restored_cells_are_finished_and_collected_unchanged(results, tmp_path):
    folder = Folder(tmp_path / "run")
    assert comparison_cells.restore(folder, results, Names()) == 2
    assert comparison_cells.restore(folder, results, Names()) == 0
    assert folder.predictions(Cell(42, 0, "fusion.concat")).read_text() == NAMES[0]
    trained = folder.predictions(Cell(42, 1, "vit"))
    trained.parent.mkdir(parents=True)
    trained.write_text("new")
    for name in comparison_cells.TABLES:
        (folder.root / name).write_text("table")
    assert comparison_cells.collect(folder, results, Names()) == 1
    assert (results / "vit-42-1.csv").read_text() == "new"
    assert [(results / name).read_text() for name in NAMES] == list(NAMES)
    costs = json.loads((results / "cost.json").read_text())
    assert costs == {"fusion.concat": {"step_s": 1}}


def test_a_cell_that_was_trained_twice_is_refused(results, tmp_path):
    folder = Folder(tmp_path / "run")
    comparison_cells.restore(folder, results, Names())
    (results / NAMES[0]).write_text("another")
    with pytest.raises(ValueError, match="trained twice"):
        comparison_cells.restore(folder, results, Names())


def test_names_of_a_cohort_become_numbers_and_come_back(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text('image,patient,grade\nz.png,P9,0\n"a,b.png",P1,1\n')
    run, other, results = (tmp_path / n for n in ("run", "other", "results"))
    results.mkdir()
    folder = Folder(run)
    trained = folder.predictions(Cell(42, 0, "fof"))
    trained.parent.mkdir(parents=True)
    text = 'patient,image,fold,p_0\nP1,"a,b.png",0,0.25\nP9,z.png,0,0.5\n'
    trained.write_text(text)
    for name in comparison_cells.TABLES:
        (run / name).write_text("table")
    names = Names.numbers(table)
    assert comparison_cells.collect(folder, results, names) == 1
    by_number = (results / "fof-42-0.csv").read_text()
    assert by_number == "patient,image,fold,p_0\n0,1,0,0.25\n1,0,0,0.5\n"
    assert comparison_cells.restore(Folder(other), results, names) == 1
    assert Folder(other).predictions(Cell(42, 0, "fof")).read_text() == text
    trained.write_text(text.replace("P9", "P8"))
    with pytest.raises(ValueError, match="patient P8 is not in --table"):
        comparison_cells.collect(folder, results, names)


def test_the_markdown_has_the_figures_of_the_collected_tables(tmp_path):
    score = {"mean": 0.8215, "std": None}
    difference = {"value": 0.0329, "low": 0.0147, "high": 0.0517, "p_holm": 0.024}
    row = {"table": "I", "method": "Baseline", "row": "vit", "cells": [{}]}
    row |= {"scores": {"auc": score, "accuracy": score | {"std": 0.02}}}
    row |= {"differences": {"fof": {"auc": difference}}}
    row |= {"paper_percent": {"auc": [90.37, 0.82]}}
    (tmp_path / "comparison.json").write_text(json.dumps({"rows": [row]}))
    cost = {"step_gflop": 1.46, "step_s": 0.057}
    (tmp_path / "cost.json").write_text(json.dumps({"vit": cost}))
    lines = comparison_cells.show(tmp_path, short=False).split("\n")
    assert lines[4] == (
        "| Baseline | 1 | 82.2 |  | 82.2 ± 2.0 |  | 90.37 ± 0.82 |  |  |  |"
    )
    assert lines[-1] == ("| Baseline | +3.3 (+1.5, +5.2) | 0.024 |  |  | 1.5 | 0.06 |")
    short = comparison_cells.show(tmp_path, short=True).split("\n")
    assert short[4] == "| Baseline | 1 | 82.2 | 82.2 ± 2.0 |"

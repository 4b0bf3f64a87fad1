"""Cells of the comparison go into a folder of `compare` and come back unchanged."""

import json

import pytest

from benchmarks.experiments import comparison_cells
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
    assert comparison_cells.restore(folder, results) == 2
    assert comparison_cells.restore(folder, results) == 0
    assert folder.predictions(Cell(42, 0, "fusion.concat")).read_text() == NAMES[0]
    trained = folder.predictions(Cell(42, 1, "vit"))
    trained.parent.mkdir(parents=True)
    trained.write_text("new")
    for name in comparison_cells.TABLES:
        (folder.root / name).write_text("table")
    assert comparison_cells.collect(folder, results) == 1
    assert (results / "vit-42-1.csv").read_text() == "new"
    assert [(results / name).read_text() for name in NAMES] == list(NAMES)
    costs = json.loads((results / "cost.json").read_text())
    assert costs == {"fusion.concat": {"step_s": 1}}


def test_a_cell_that_was_trained_twice_is_refused(results, tmp_path):
    folder = Folder(tmp_path / "run")
    comparison_cells.restore(folder, results)
    (results / NAMES[0]).write_text("another")
    with pytest.raises(ValueError, match="trained twice"):
        comparison_cells.restore(folder, results)


def test_the_markdown_has_the_figures_of_the_collected_tables(tmp_path):
    score = {"mean": 0.8215, "std": None}
    difference = {"value": 0.0329, "low": 0.0147, "high": 0.0517, "p_holm": 0.024}
    row = {"table": "I", "method": "Baseline", "row": "vit", "cells": [{}]}
    row |= {"scores": {"auc": score, "accuracy": score | {"std": 0.02}}}
    row |= {"differences": {"fof": {"auc": difference}}}
    (tmp_path / "comparison.json").write_text(json.dumps({"rows": [row]}))
    (tmp_path / "cost.json").write_text(json.dumps({"vit": {"step_gflop": 1.46}}))
    lines = comparison_cells.show(tmp_path, short=False).split("\n")
    start = "| Baseline | 1 | 82.2 | 82.2 ± 2.0 |"
    assert lines[4] == f"{start}  | +3.3 (+1.5, +5.2) | 0.024 |  |  | 1.5 |"
    short = comparison_cells.show(tmp_path, short=True).split("\n")
    assert short[4] == start

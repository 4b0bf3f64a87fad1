"""Cells of the study on real images: their settings, and one small cell."""

import json

import pytest
from ml_collections import ConfigDict
from PIL import Image

from benchmarks.experiments import ablation_table, focus_study
from fof_jax.data.cohort import read_cohort
from fof_jax.data.mosaic import Layout, write_mosaics
from fof_jax.methods import registry
from fof_jax.types import DatasetInfo
from tests.support.cohort_files import BIOMARKERS, CLASSES, write_cohort_files


@pytest.mark.parametrize("which", focus_study.SETS)
def test_cells_of_a_seed_differ_in_the_fields_of_their_row_only(which):
    rows = {
        row: focus_study.cell_config(which, row, 7, 1, {}) for row in focus_study.ROWS
    }
    assert focus_study.REFERENCE in rows
    for row, config in rows.items():
        assert (config.seed, config.fold) == (7, 1)
        spec = focus_study.ROWS[row]
        allowed = {"method", "frl", "lambda_mca", "paper_row", *spec.fields}
        longer = focus_study.LONGER.get(row, 1)
        assert config.epochs == longer * rows["FoF"].epochs
        allowed |= {"epochs"} if longer > 1 else set()
        ramp = focus_study.RAMP.get(row, 0)
        assert config.views.warmup_epochs == ramp * config.epochs
        allowed |= {"views.warmup_epochs"} if ramp else set()
        assert differences(config, rows["FoF"]) <= allowed
        info = DatasetInfo(
            classes=tuple(config.data.classes),
            biomarkers=tuple(config.data.biomarkers),
            float_markers=(),
        )
        registry.create(config, info)  # every field is accepted


def differences(a: ConfigDict, b: ConfigDict) -> set[str]:
    """Dotted names of the fields that differ."""
    found = set()
    for name in a:
        if isinstance(a[name], ConfigDict):
            found |= {f"{name}.{inner}" for inner in differences(a[name], b[name])}
        elif a[name] != b[name]:
            found.add(name)
    return found


@pytest.mark.slow  # trains a fold of 24 mosaics: 20 s
def test_a_cell_holds_no_path_and_has_a_table(tmp_path):
    table = write_cohort_files(tmp_path, 96)
    lines = [line.split(",") for line in table.read_text().splitlines()]
    text = "\n".join(",".join([*c, c[0] if i else "mask"]) for i, c in enumerate(lines))
    (tmp_path / "gray.csv").write_text(text)
    for i in range(96):
        file = tmp_path / f"img/{i:03d}.png"
        Image.open(file).convert("L").save(file)
    source = read_cohort(tmp_path / "gray.csv", classes=CLASSES, biomarkers=BIOMARKERS)
    made = tmp_path / "mosaic"
    write_mosaics(source, made, layout=Layout(tile=16, per_fold=12), folds=2, seed=0)
    changes = {
        "data.table": str(made / "table.csv"),
        "data.dir": str(tmp_path / "data"),
        "data.classes": CLASSES,
        "data.biomarkers": BIOMARKERS,
        "data.image_size": 48,
        "encoder": "mu/16",
        "init.class_token": "drop",
        "optimizer.freeze_blocks": 0,
        "epochs": 1,
        "batch_size": 4,
        "folds": 2,
    }
    row = "FoF packed, views 0.25, ramp"
    config = focus_study.cell_config("mosaic", row, 42, 0, changes)
    result = focus_study.run_cell(config, tmp_path / "run")
    assert str(tmp_path) not in json.dumps(result)
    assert result["regions"]["image"] == list(range(12))  # fold 0 is the first
    assert "P0" not in json.dumps(result["regions"])
    assert sum(v is not None for v in result["regions"]["pointing"]) == 8
    cell = {"row": row, "seed": 42, "fold": 0} | result
    (tmp_path / "cell.json").write_text(json.dumps(cell))
    shown = ablation_table.table(
        tmp_path, ["baseline", row], "baseline", columns=focus_study.COLUMNS
    )
    assert "| baseline | 0 | not run" in shown
    assert f"| {row} | 1 |" in shown
    assert "deletion" not in shown

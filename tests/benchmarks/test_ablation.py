"""Tables of the ablation, on synthetic cells; and one small cell, end to end."""

import json

import numpy as np
import pytest

from benchmarks.experiments import ablation, ablation_table

IMAGES = 40


def _cell(row, seed, fold, right, pointing):
    """A cell whose first `right` regions are correct, two regions per patient."""
    regions = []
    for i in range(IMAGES):
        y = i % 3
        shown = y if i < right else (y + 1) % 3
        prob = [0.1, 0.1, 0.1]
        prob[shown] = 0.8
        regions.append(
            {"image": f"{fold}/{i}", "patient": f"p{i // 2}", "y": y, "prob": prob}
            | dict.fromkeys(ablation_table.LOCALIZATION, pointing if y else None)
            | {"area": 0.1 if y else None}
        )
    return {"row": row, "seed": seed, "fold": fold, "regions": regions}


def test_differences_are_paired_and_their_intervals_are_by_patient():
    ours = [_cell("FoF", s, f, 32, 0.9) for s in (1, 2) for f in (0, 1)]
    others = [_cell("baseline", s, f, 24, 0.4) for f in (1, 0) for s in (1, 2)]
    middle, low, high = ablation_table.difference(ours, others, "accuracy")
    assert middle == pytest.approx(8 / IMAGES)
    # 4 of 20 patients differ in all regions. A replicate's mean over two folds has the
    # std sqrt(0.2 * 0.8 / 20 / 2) = 0.063; tolerance 10% for 1000 replicates.
    assert high - low == pytest.approx(2 * 1.96 * 0.0632, rel=0.1)
    assert low < middle < high
    same = ablation_table.difference(ours, ours, "auc")
    assert same == (0, 0, 0)
    assert ablation_table.difference(ours, others, "pointing")[0] == pytest.approx(0.5)


def test_a_table_says_what_was_not_run(tmp_path):
    # The second cell of the baseline has no partner yet.
    for row, fold, right in (("FoF", 0, 32), ("baseline", 0, 24), ("baseline", 1, 24)):
        path = tmp_path / ablation.name_of(row, 42, fold)
        cell = _cell(row, 42, fold, right, 0.5)
        names = cell["regions"][0]  # a file has columns
        columns = {name: [r[name] for r in cell["regions"]] for name in names}
        path.write_text(json.dumps(cell | {"regions": columns}))
    text = ablation_table.table(tmp_path, ["baseline", "FoF", "release"], "FoF")
    assert "| release | 0 | not run" in text
    assert "| FoF | 1 |" in text
    cells, pairs = (ln for ln in text.splitlines() if ln.startswith("| baseline |"))
    assert (cells.split("|")[2].strip(), pairs.split("|")[2].strip()) == ("2", "1")
    assert "-20.0 (" in text
    assert "Structures cover 10.0%" in text


def test_pairs_of_other_regions_are_refused():
    ours, other = _cell("FoF", 1, 0, 9, 0.5), _cell("release", 1, 0, 9, 0.5)
    other["regions"].reverse()
    with pytest.raises(ValueError, match="tested other regions"):
        ablation_table.difference([ours], [other], "auc")
    with pytest.raises(ValueError, match="no seed and fold in common"):
        ablation_table.difference([ours], [_cell("x", 2, 0, 9, 0.5)], "auc")


@pytest.mark.parametrize("which", ablation.SETS)
def test_every_cell_has_a_configuration(which):
    given = ablation.SETS[which]
    assert given.reference in given.rows
    for row, what in given.rows.items():
        assert what.after in (None, *given.rows)
        config = ablation.cell_config(which, row, 7, 0, {"epochs": 2})
        assert (config.seed, config.fold, config.epochs) == (7, 0, 2)
        assert config.data.scheme == "patient"
        assert config.data.name == "phantom"


@pytest.mark.slow  # a run of 60 regions: 40 s
def test_a_cell_is_run_once(tmp_path, capsys):
    words = ["--rows=FoF", "--seeds=43", "--folds=1", "--regions=60", "--epochs=1"]
    words += [f"--workdir={tmp_path / 'runs'}", f"--results={tmp_path / 'out'}"]
    ablation.main(words)
    path = tmp_path / "out" / "ablation" / "FoF-43-1.json"
    (cell,) = ablation_table.read(path.parent)
    assert (cell["row"], cell["seed"], cell["fold"]) == ("FoF", 43, 1)
    assert len({r["patient"] for r in cell["regions"]}) > 3
    assert np.isfinite(list(ablation_table.cell_metrics(cell).values())).all()
    assert {"total", "cls", "frl", "mca", "kept"} <= set(cell["training"][-1])
    before = path.stat().st_mtime_ns
    ablation.main(words)
    assert path.stat().st_mtime_ns == before
    assert "exists already" in capsys.readouterr().out

"""Localization metrics: each against a plain loop, and a run end to end."""

import csv
import json

import numpy as np
import pytest

from fof_jax.cli.main import main
from fof_jax.evaluation import localization


def _maps(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    A = rng.random((5, 12, 16)).astype(np.float32)
    mask = rng.random((5, 12, 16)) < 0.3
    keep = rng.random((5, 3, 4)) < 0.4
    A[0] = 0
    A[1, :2, :2] = 2.0  # four highest pixels
    mask[1, :2, :2] = [[True, False], [False, False]]
    mask[2] = False
    keep[2] = False
    return A, mask, keep


def test_pointing_inside_iou_against_loops():
    A, mask, keep = _maps(0)
    hits, fractions, overlaps = [], [], []
    for b in range(5):
        pixels = [(i, j) for i in range(12) for j in range(16)]
        highest = max(A[b, i, j] for i, j in pixels)
        maxima = [(i, j) for i, j in pixels if A[b, i, j] == highest]
        inside = sum(bool(mask[b, i, j]) for i, j in maxima)
        hits.append(inside / len(maxima) if highest > 0 else 0.0)
        total = sum(float(A[b, i, j]) for i, j in pixels)
        within = sum(float(A[b, i, j]) for i, j in pixels if mask[b, i, j])
        fractions.append(within / total if total else np.nan)
        both = either = 0
        for r in range(3):
            for c in range(4):
                covered = 0
                for i in range(4):
                    for j in range(4):
                        covered += bool(mask[b, 4 * r + i, 4 * c + j])
                positive = covered / 16 >= 0.25
                both += positive and bool(keep[b, r, c])
                either += positive or bool(keep[b, r, c])
        overlaps.append(both / either if either else np.nan)
    np.testing.assert_allclose(localization.pointing(A, mask), hits)
    # float32 maps summed in float64, in a different order.
    np.testing.assert_allclose(localization.inside(A, mask), fractions, rtol=1e-12)
    np.testing.assert_allclose(localization.iou(keep, mask), overlaps)
    assert hits[1] == 0.25
    assert np.isnan(overlaps[2])


def test_curves_against_loops():
    rng = np.random.default_rng(1)
    A = rng.random((3, 8, 12)).astype(np.float32)
    weight = rng.random((3, 4, 6))
    weight /= weight.sum(axis=(1, 2), keepdims=True)
    shown_counts = []

    def probability(keep):
        shown_counts.append(int(keep[0].sum()))
        return (weight * keep).sum(axis=(1, 2))

    deletion, insertion = localization.curves(
        probability, localization.ranks(A, (4, 6))
    )
    assert sorted(set(shown_counts)) == [0, 2, 5, 7, 10, 12, 14, 17, 19, 22, 24]
    for b in range(3):
        means = [
            (-A[b, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean(), r, c)
            for r in range(4)
            for c in range(6)
        ]
        order = [(r, c) for _, r, c in sorted(means)]
        # numpy's rint rounds halves to even: 24 k / 10.
        counts = [0, 2, 5, 7, 10, 12, 14, 17, 19, 22, 24]
        for area, inserted in ((deletion[b], False), (insertion[b], True)):
            points = []
            for n in counts:
                visible = order[:n] if inserted else order[n:]
                points.append(sum(weight[b, r, c] for r, c in visible))
            expected = 0.0
            for k in range(len(counts) - 1):
                step = (counts[k + 1] - counts[k]) / 24
                expected += step * (points[k] + points[k + 1]) / 2
            assert area == pytest.approx(expected, abs=1e-12)
    assert (deletion < 1).all()


def test_perfect_map_has_perfect_scores():
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:4, 4:8] = True
    A = mask.astype(np.float32)
    keep = A.reshape(1, 4, 2, 4, 2).mean(axis=(2, 4)) > 0.5
    assert localization.pointing(A, mask) == 1
    assert localization.inside(A, mask) == 1
    assert localization.iou(keep, mask) == 1
    assert localization.inside(np.ones_like(A), mask) == mask.mean()
    # Ties keep row-major order.
    np.testing.assert_array_equal(
        localization.ranks(A, (4, 4))[0],
        [[2, 3, 4, 5], [6, 7, 0, 1], [8, 9, 10, 11], [12, 13, 14, 15]],
    )


def test_rows_are_written_read_and_summarized(tmp_path):
    values = dict.fromkeys(localization.METRICS, 0.5)
    rows = [
        {"image": "a", "patient": "p", "fold": 0, "grade": "III", **values},
        {"image": "b", "patient": "q", "fold": 0, "grade": "IV"}
        | (values | {"pointing": 1.0, "iou": None}),
        {"image": "c", "patient": "r", "fold": 1, "grade": "IV"}
        | (values | {"pointing": 0.0}),
    ]
    localization.write(tmp_path / "focus.csv", rows)
    assert localization.read_next_to([tmp_path / "predictions.csv"]) == rows
    got = localization.summarize(rows)
    assert got["regions"] == 3
    # Mean and sample standard deviation of the folds 0.75 and 0.
    assert got["mean"]["pointing"] == pytest.approx(0.375)
    assert got["std"]["pointing"] == pytest.approx(0.75 / np.sqrt(2))
    assert got["folds"]["0"]["iou"] == 0.5
    assert got["classes"]["IV"]["pointing"] == pytest.approx(0.5)
    assert localization.summarize([]) is None
    localization.write(tmp_path / "none.csv", [])
    assert not (tmp_path / "none.csv").exists()
    (tmp_path / "focus.csv").write_text("image,patient\na,p\n")
    with pytest.raises(ValueError, match="Remove it, or train the fold again"):
        localization.read(tmp_path / "focus.csv")


def test_run_writes_localization_metrics(small_run, tmp_path, capsys):
    assert "Focus" in (small_run.parent / "told.txt").read_text()
    assert_localized(small_run, 12, tmp_path / "eval.json", capsys)


@pytest.mark.slow
@pytest.mark.parametrize("argument", [":baseline", ":release"])
def test_other_methods_write_localization_metrics(tmp_path, capsys, argument):
    command = [
        f"--config=configs/phantom.py{argument}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.dir={tmp_path / 'data'}",
        "--config.data.regions=30",
        "--config.folds=2",
        "--config.epochs=1",
        "--config.batch_size=8",
    ]
    if argument == ":release":
        command += [
            "--config.data.scheme=patient",
            "--config.optimizer.warmup_epochs=0",
        ]
    assert main(command) == 0
    assert "Focus" in capsys.readouterr().out
    assert_localized(tmp_path / "run", 20, tmp_path / "eval.json", capsys)


def assert_localized(workdir, regions, out, capsys):
    """focus.csv, results.json and `eval` agree; `regions` have structures."""
    results = json.loads((workdir / "results.json").read_text())["focus"]
    assert set(results["mean"]) == set(localization.METRICS)
    assert set(results["classes"]) == {"III", "IV"}
    rows = []
    for k in range(2):
        with (workdir / f"fold_{k}" / "focus.csv").open(newline="") as file:
            rows += list(csv.DictReader(file))
    # Two thirds of the regions have structures; each is tested once.
    assert len(rows) == results["regions"] == regions
    for row in rows:
        for metric in localization.METRICS:
            assert row[metric] == "" or 0 <= float(row[metric]) <= 1
    files = [f"--predictions={workdir}/fold_{k}/predictions.csv" for k in range(2)]
    assert main(["eval", *files, f"--out={out}"]) == 0
    assert "grade IV" in capsys.readouterr().out
    assert json.loads(out.read_text())["focus"] == results

"""Tables of the ablation: means over cells, and paired differences.

A pair of cells has the same seed and fold, so the same test regions. Patients are drawn
again, with all their regions and all seeds, and the difference of two rows is taken in
each draw: its 95% interval says how far the difference depends on who was tested.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax.evaluation import bootstrap
from fof_jax.evaluation.metrics import scores

FIGURES = ("auc", "ap", "accuracy", "kappa")
POINTED = ("pointing", "inside", "iou", "deletion", "insertion")
DRAWS = 1000

Cell = dict[str, Any]


def read(folder: Path) -> list[Cell]:
    """Every cell that is whole, its regions as rows."""
    cells = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [cell | {"regions": _rows(cell["regions"])} for cell in cells]


def _rows(columns: dict[str, list]) -> list[dict[str, Any]]:
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]


def figures(cell: Cell) -> dict[str, float]:
    """Micro figures per region of one cell, and its means of focus."""
    y = np.array([r["y"] for r in cell["regions"]])
    prob = np.array([r["prob"] for r in cell["regions"]])
    found = scores(y, prob, average="micro")
    each = {f: [r[f] for r in cell["regions"] if r[f] is not None] for f in POINTED}
    return {f: found[f] for f in FIGURES} | {
        f: float(np.mean(v)) if v else np.nan for f, v in each.items()
    }


def difference(
    ours: list[Cell], others: list[Cell], figure: str, *, draws: int = DRAWS
) -> tuple[float, float, float]:
    """Mean difference over paired cells and its 95% interval by patient.

    Args:
      ours, others: cells of two rows, in any order; only pairs count.
      figure: one of FIGURES or POINTED.
      draws: of the patients of each fold.

    Returns:
      The difference on the patients as they are, and the interval's ends.

    Raises:
      ValueError: no pair, or a pair whose regions differ.
    """
    theirs = {_at(c): c for c in others}
    pairs = [(c, theirs[_at(c)]) for c in ours if _at(c) in theirs]
    if not pairs:
        raise ValueError("ablation: the two rows have no seed and fold in common.")
    plain, drawn = [], []
    for a, b in pairs:
        if [r["image"] for r in a["regions"]] != [r["image"] for r in b["regions"]]:
            raise ValueError(
                f"ablation: seed {a['seed']}, fold {a['fold']} of {a['row']} and "
                f"{b['row']} tested other regions. Were they run at one size?"
            )
        # One stream a fold: all seeds and both rows see the same draws of patients.
        weights = patient_weights(a, draws, seed=a["fold"])
        both = [_weighted(cell, figure, weights) for cell in (a, b)]
        drawn.append(both[0] - both[1])
        ones = np.ones((1, weights.shape[1]), np.int64)
        both = [_weighted(cell, figure, ones)[0] for cell in (a, b)]
        plain.append(both[0] - both[1])
    low, high = np.percentile(np.nanmean(drawn, axis=0), [2.5, 97.5])
    return float(np.mean(plain)), float(low), float(high)


def _at(cell: Cell) -> tuple[int, int]:
    return cell["seed"], cell["fold"]


def patient_weights(cell: Cell, draws: int, *, seed: int) -> np.ndarray:
    """How often each region counts in each draw of the patients, [draws, n]."""
    names = [r["patient"] for r in cell["regions"]]
    of_row = np.unique(names, return_inverse=True)[1]
    count = int(of_row.max()) + 1
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=draws)[:, of_row]


def _weighted(cell: Cell, figure: str, weights: np.ndarray) -> np.ndarray:
    rows = cell["regions"]
    if figure in FIGURES:
        y, prob = np.array([r["y"] for r in rows]), np.array([r["prob"] for r in rows])
        return bootstrap.weighted_scores(y, prob, weights, "micro")[figure]
    value = np.array([np.nan if r[figure] is None else r[figure] for r in rows])
    known = np.isfinite(value)
    total = weights[:, known] @ value[known]
    number = weights[:, known].sum(axis=1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def table(folder: Path, rows: list[str], reference: str) -> str:
    """Markdown: means ± deviations of the cells, then differences to `reference`."""
    cells = read(folder)
    by_row = {row: [c for c in cells if c["row"] == row] for row in rows}
    columns = (*FIGURES, *POINTED)
    lines = [
        "| row | cells | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row, own in by_row.items():
        if not own:
            lines.append(f"| {row} | 0 |" + " not run |" * len(columns))
            continue
        found = [figures(cell) for cell in own]
        each = [_percent([f[name] for f in found]) for name in columns]
        lines.append(f"| {row} | {len(own)} | " + " | ".join(each) + " |")
    lines += [
        "",
        f"Differences to {reference}, points, with 95% intervals by patient:",
        "",
        "| row | pairs | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row, own in by_row.items():
        pairs = {_at(c) for c in own} & {_at(c) for c in by_row[reference]}
        if row == reference or not pairs:
            continue
        each = []
        for name in columns:
            middle, low, high = difference(own, by_row[reference], name)
            each.append(f"{100 * middle:+.1f} ({100 * low:+.1f}, {100 * high:+.1f})")
        lines.append(f"| {row} | {len(pairs)} | " + " | ".join(each) + " |")
    area = [r["area"] for c in cells for r in c["regions"] if r["area"] is not None]
    if area:
        lines += ["", f"Structures cover {100 * np.mean(area):.1f}% of these regions."]
    return "\n".join(lines)


def _percent(values: list[float]) -> str:
    known = [v for v in values if v is not None and np.isfinite(v)]
    if not known:
        return "none"
    spread = f" ± {100 * np.std(known, ddof=1):.1f}" if len(known) > 1 else ""
    return f"{100 * np.mean(known):.1f}{spread}"

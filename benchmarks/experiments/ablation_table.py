"""Tables of the ablation: means over cells, and paired differences.

Paired cells have the same seed and fold, hence the same test regions. The patients are
resampled, with all their regions and in all seeds alike, and the difference of two rows
is computed in each replicate; its 95% interval covers the choice of test patients.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax.evaluation import bootstrap
from fof_jax.evaluation.metrics import scores

METRICS = ("auc", "ap", "accuracy", "kappa")
LOCALIZATION = ("pointing", "inside", "iou", "deletion", "insertion")
REPLICATES = 1000

Cell = dict[str, Any]


def read(folder: Path) -> list[Cell]:
    """Reads all cells, with their regions as rows."""
    cells = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [cell | {"regions": _rows(cell["regions"])} for cell in cells]


def _rows(columns: dict[str, list]) -> list[dict[str, Any]]:
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]


def cell_metrics(cell: Cell) -> dict[str, float]:
    """Metrics per region of one cell, micro-averaged, and means of localization."""
    y = np.array([r["y"] for r in cell["regions"]])
    prob = np.array([r["prob"] for r in cell["regions"]])
    result = scores(y, prob, average="micro")
    columns = {
        f: [r[f] for r in cell["regions"] if r.get(f) is not None] for f in LOCALIZATION
    }
    return {f: result[f] for f in METRICS} | {
        f: float(np.mean(v)) if v else np.nan for f, v in columns.items()
    }


def difference(
    ours: list[Cell], others: list[Cell], metric: str, *, replicates: int = REPLICATES
) -> tuple[float, float, float]:
    """Mean difference over paired cells and its 95% interval by patient.

    Args:
      ours, others: cells of two rows, in any order; cells without a pair are ignored.
      metric: one of METRICS or LOCALIZATION.
      replicates: number of bootstrap replicates.

    Returns:
      The difference on all patients, and the ends of the interval.

    Raises:
      ValueError: no pair, or a pair with different regions.
    """
    theirs = {_seed_and_fold(c): c for c in others}
    pairs = [
        (c, theirs[_seed_and_fold(c)]) for c in ours if _seed_and_fold(c) in theirs
    ]
    if not pairs:
        raise ValueError("ablation: the two rows have no seed and fold in common.")
    differences, resampled = [], []
    for a, b in pairs:
        if [r["image"] for r in a["regions"]] != [r["image"] for r in b["regions"]]:
            raise ValueError(
                f"ablation: seed {a['seed']}, fold {a['fold']} of {a['row']} and "
                f"{b['row']} tested other regions. Were they run with the same data?"
            )
        # Seeded by fold: all seeds and both rows have the same replicates.
        weights = patient_weights(a, replicates, seed=a["fold"])
        both = [_weighted(cell, metric, weights) for cell in (a, b)]
        resampled.append(both[0] - both[1])
        ones = np.ones((1, weights.shape[1]), np.int64)
        both = [_weighted(cell, metric, ones)[0] for cell in (a, b)]
        differences.append(both[0] - both[1])
    low, high = np.percentile(np.nanmean(resampled, axis=0), [2.5, 97.5])
    return float(np.mean(differences)), float(low), float(high)


def _seed_and_fold(cell: Cell) -> tuple[int, int]:
    return cell["seed"], cell["fold"]


def patient_weights(cell: Cell, replicates: int, *, seed: int) -> np.ndarray:
    """Weight of each region in each bootstrap replicate, [replicates, n]."""
    names = [r["patient"] for r in cell["regions"]]
    patient = np.unique(names, return_inverse=True)[1]
    count = int(patient.max()) + 1
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=replicates)[
        :, patient
    ]


def _weighted(cell: Cell, metric: str, weights: np.ndarray) -> np.ndarray:
    rows = cell["regions"]
    if metric in METRICS:
        y, prob = np.array([r["y"] for r in rows]), np.array([r["prob"] for r in rows])
        return bootstrap.weighted_scores(y, prob, weights, "micro")[metric]
    value = np.array([np.nan if r[metric] is None else r[metric] for r in rows])
    defined = np.isfinite(value)
    total = weights[:, defined] @ value[defined]
    number = weights[:, defined].sum(axis=1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def table(
    folder: Path,
    rows: list[str],
    reference: str,
    *,
    columns: tuple[str, ...] = (*METRICS, *LOCALIZATION),
) -> str:
    """Markdown tables: mean ± std over cells, and differences to `reference`."""
    cells = read(folder)
    by_row = {row: [c for c in cells if c["row"] == row] for row in rows}
    lines = [
        "| row | cells | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row, own in by_row.items():
        if not own:
            lines.append(f"| {row} | 0 |" + " not run |" * len(columns))
            continue
        results = [cell_metrics(cell) for cell in own]
        each = [_percent([r[name] for r in results]) for name in columns]
        lines.append(f"| {row} | {len(own)} | " + " | ".join(each) + " |")
    lines += [
        "",
        f"Differences to {reference}, points, with 95% intervals by patient:",
        "",
        "| row | pairs | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row, own in by_row.items():
        pairs = {_seed_and_fold(c) for c in own} & {
            _seed_and_fold(c) for c in by_row[reference]
        }
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
    defined = [v for v in values if v is not None and np.isfinite(v)]
    if not defined:
        return "none"
    spread = f" ± {100 * np.std(defined, ddof=1):.1f}" if len(defined) > 1 else ""
    return f"{100 * np.mean(defined):.1f}{spread}"

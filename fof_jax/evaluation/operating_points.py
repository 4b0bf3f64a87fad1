"""Operating points: sensitivity at a minimum specificity, one class versus rest."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fof_jax.evaluation.predictions import UNKNOWN, Predictions
from fof_jax.evaluation.tables import align

Point = dict[str, Any]


def at_specificity(
    positive: Bool[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    min_specificity: float,
) -> Point:
    """The threshold of maximum sensitivity at specificity >= `min_specificity`.

    A row is called positive where its score is at least the threshold. Of thresholds
    with equal sensitivity, the one with the highest specificity is chosen, so that
    the threshold is the score of a positive row.

    Args:
      positive: True on rows of the class.
      score: predicted probability of the class.
      min_specificity: in (0, 1).

    Returns:
      Achieved specificity and sensitivity, threshold, and the counts tp, fn, tn, fp.
      If no threshold qualifies: threshold None, sensitivity 0, specificity 1. All
      values are None if there is no positive or no negative row.

    Raises:
      ValueError: min_specificity is not in (0, 1).
    """
    if not 0 < min_specificity < 1:
        raise ValueError(
            f"specificity is {min_specificity}; expected a number between 0 and 1. "
            "Pass, for example, --specificity=0.9."
        )
    positives, negatives = np.sort(score[positive]), np.sort(score[~positive])
    if not len(positives) or not len(negatives):
        return dict.fromkeys(
            ("threshold", "sensitivity", "specificity", "tp", "fn", "tn", "fp")
        )
    # False positives with the threshold at each positive row's score.
    fps = len(negatives) - np.searchsorted(negatives, positives, side="left")
    # The tolerance is for the rounding of 1 - min_specificity: 0.1 of 10 rows is one.
    allowed = np.flatnonzero(fps <= (1 - min_specificity) * len(negatives) + 1e-9)
    threshold = float(positives[allowed[0]]) if len(allowed) else None
    tp = int(np.sum(positives >= threshold)) if len(allowed) else 0
    fp = int(fps[allowed[0]]) if len(allowed) else 0
    return {
        "threshold": threshold,
        "sensitivity": tp / len(positives),
        "specificity": 1 - fp / len(negatives),
        "tp": tp,
        "fn": len(positives) - tp,
        "tn": len(negatives) - fp,
        "fp": fp,
    }


def from_predictions(
    table: Predictions, specificities: Sequence[float], *, unit: str
) -> list[Point]:
    """Operating points of every class at every specificity, all folds pooled.

    Args:
      table: rows of one unit; rows with an error or without a true class are left
        out.
      specificities: minimum specificities.
      unit: "region" or "patient", recorded in each point.
    """
    table = table.rows(table.ok & (table.y != UNKNOWN))
    names = table.classes or [str(k) for k in range(table.prob.shape[1])]
    return [
        {"unit": unit, "class": k, "name": names[k], "wanted": minimum}
        | at_specificity(table.y == k, table.prob[:, k], minimum)
        for k in range(table.prob.shape[1])
        for minimum in specificities
    ]


def format_points(points: Sequence[Point], names: Sequence[str]) -> str:
    """Text table with sensitivity and specificity in percent, and their counts."""
    rows = [["class", "minimum", "sensitivity", "specificity", "threshold"]]
    for point in points:
        rows.append([names[point["class"]], f"{100 * point['wanted']:g}%"])
        if point["sensitivity"] is None:
            rows[-1] += ["none"] * 3
            continue
        tp, fn, tn, fp = (point[n] for n in ("tp", "fn", "tn", "fp"))
        threshold = point["threshold"]
        rows[-1] += [
            f"{100 * point['sensitivity']:.1f}% ({tp}/{tp + fn})",
            f"{100 * point['specificity']:.1f}% ({tn}/{tn + fp})",
            "no call" if threshold is None else f"p >= {threshold:.4g}",
        ]
    caption = (
        f"Per {points[0]['unit']}: operating points, one class against the rest; "
        "thresholds chosen on these rows"
    )
    return "\n".join([caption, *align(rows)])


def read(path: Path) -> list[Point]:
    """Reads the operating points of a file of `eval --specificity=… --out=FILE`.

    Raises:
      ValueError: the file has none.
    """
    try:
        points = json.loads(path.read_text(encoding="utf-8"))["operating_points"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"thresholds: {path} holds no operating points ({error}). Pass a file of "
            "eval --specificity=0.9 --out=FILE."
        ) from error
    return points

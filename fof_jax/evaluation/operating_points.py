"""Operating points: sensitivity at a wanted specificity, a class against the rest."""

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
    positive: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], wanted: float
) -> Point:
    """The threshold of the highest sensitivity whose specificity suffices.

    A row is called positive where its score is at least the threshold. Of thresholds
    with that sensitivity it is the one of the highest specificity, so that it is the
    score of a positive row.

    Args:
      positive: rows of the class.
      score: its probability.
      wanted: the least specificity, in (0, 1).

    Returns:
      specificity and sensitivity as reached, threshold, and the counts tp, fn, tn, fp.
      No call at all is threshold None, sensitivity 0, specificity 1. All figures are
      None where there is no positive or no negative row.

    Raises:
      ValueError: wanted is not in (0, 1).
    """
    if not 0 < wanted < 1:
        raise ValueError(
            f"specificity is {wanted}; expected a share between 0 and 1. Pass, say, "
            "--specificity=0.9."
        )
    yes, no = np.sort(score[positive]), np.sort(score[~positive])
    if not len(yes) or not len(no):
        return dict.fromkeys(
            ("threshold", "sensitivity", "specificity", "tp", "fn", "tn", "fp")
        )
    fp = len(no) - np.searchsorted(no, yes, side="left")  # at each positive's score
    # A rounding of 1 - wanted must not forbid a false positive: 0.1 of 10 is one.
    enough = np.flatnonzero(fp <= (1 - wanted) * len(no) + 1e-9)
    threshold = float(yes[enough[0]]) if len(enough) else None
    tp = int(np.sum(yes >= threshold)) if len(enough) else 0
    false = int(fp[enough[0]]) if len(enough) else 0
    return {
        "threshold": threshold,
        "sensitivity": tp / len(yes),
        "specificity": 1 - false / len(no),
        "tp": tp,
        "fn": len(yes) - tp,
        "tn": len(no) - false,
        "fp": false,
    }


def of_table(
    table: Predictions, specificities: Sequence[float], *, unit: str
) -> list[Point]:
    """Points of every class at every wanted specificity, over all folds together.

    Args:
      table: rows of one unit; rows with an error or without a known class are left
        out.
      specificities: wanted.
      unit: "region" or "patient", noted in each point.
    """
    table = table.rows(table.ok & (table.y != UNKNOWN))
    return [
        {"unit": unit, "class": k, "wanted": wanted}
        | at_specificity(table.y == k, table.prob[:, k], wanted)
        for k in range(table.prob.shape[1])
        for wanted in specificities
    ]


def format_points(points: Sequence[Point], names: Sequence[str]) -> str:
    """A table; sensitivity and specificity in percent, with their counts."""
    rows = [["class", "wanted", "sensitivity", "specificity", "threshold"]]
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
        f"Per {points[0]['unit']}: operating points, a class against the rest; "
        "thresholds chosen on these rows"
    )
    return "\n".join([caption, *align(rows)])


def read(path: Path) -> list[Point]:
    """The points in a file of `eval --specificity=… --out=FILE`.

    Raises:
      ValueError: there are none.
    """
    try:
        points = json.loads(path.read_text(encoding="utf-8"))["operating_points"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ValueError(
            f"thresholds: {path} holds no operating points ({fault}). Pass a file of "
            "eval --specificity=0.9 --out=FILE."
        ) from fault
    return points

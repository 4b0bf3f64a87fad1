"""Selection of a fold's best step on its validation rows, and early stopping.

Everything follows from the validation lines of metrics.jsonl, so that a run that was
killed selects the same step. The test rows take no part.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax.evaluation import metrics, predictions
from fof_jax.training.fold import Fold

PREFIX = "validation_"  # of their names in metrics.jsonl


def measure(table: predictions.Predictions) -> dict[str, float]:
    """Metrics of the validation rows by name, per region.

    Returns:
      validation_loss, the mean cross-entropy in nats; validation_accuracy; and
      validation_auc, micro-averaged, unless only one class occurs.
    """
    true = table.prob[np.arange(len(table)), table.y]
    scores = metrics.scores(table.y, table.prob, average="micro")
    values = {
        "loss": float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean()),
        "accuracy": scores["accuracy"],
        "auc": scores["auc"],
    }
    return {PREFIX + k: float(v) for k, v in values.items() if v is not None}


class Selection:
    """The validated steps of a fold and the best of them.

    Attributes:
      values: metric of each validated step.
    """

    def __init__(self, *, metric: str, patience: int, per_epoch: int):
        """Nothing is validated.

        Args:
          metric: one of `run_fields.VALIDATION_METRICS`.
          patience: steps without a better one after which training ends; 0: never.
          per_epoch: steps an epoch.
        """
        self._metric, self._patience, self._epoch = metric, patience, per_epoch
        self.values: dict[int, float] = {}

    def read(self, path: Path, first: int) -> None:
        """Adds the lines of a metrics.jsonl up to step `first`."""
        for line in logged(path):
            if line["step"] <= first and PREFIX + "loss" in line:
                self.add(line["step"], line)

    def add(self, step: int, figures: Mapping[str, float | int]) -> None:
        """Adds the result of `measure` after `step` steps.

        Raises:
          ValueError: the metric is undefined on the validation rows.
        """
        if PREFIX + self._metric not in figures:
            raise ValueError(
                f"validation_metric: {self._metric} is undefined, since the validation "
                "rows have one class only. Pass --config.validation_metric=loss."
            )
        self.values[step] = figures[PREFIX + self._metric]

    @property
    def best(self) -> int | None:
        """The step with the best metric, the first of ties; None without any."""
        sign = -1 if self._metric == "loss" else 1
        ranked = {
            step: sign * value if math.isfinite(value) else -math.inf
            for step, value in self.values.items()
        }
        return max(ranked, key=lambda s: (ranked[s], -s), default=None)

    @property
    def exhausted(self) -> bool:
        """Whether the patience is over: no better step in so many epochs."""
        if self.best is None or not self._patience:
            return False
        return max(self.values) - self.best >= self._patience

    def to_json(self, best: int, total: int) -> dict[str, Any]:
        """What the fold's folder says of its model.

        Args:
          best: the best step.
          total: steps of a training that is not stopped early.
        """
        last = max(self.values)
        return {
            "step": best,
            "epoch": best / self._epoch,
            "metric": self._metric,
            "value": self.values[best],
            "trained_steps": last,
            "stopped_early": last < total,
        }


def of_fold(fold: Fold, first: int) -> Selection:
    """The selection of a fold, with the validations that are logged.

    Args:
      fold: its config names the metric and the patience.
      first: steps already taken; later lines are ignored.
    """
    selection = Selection(
        metric=fold.config.get("validation_metric", "loss"),
        patience=fold.config.get("early_stopping", 0) * fold.steps_per_epoch,
        per_epoch=fold.steps_per_epoch,
    )
    if fold.rows.validation is not None:
        selection.read(fold.folder / "metrics.jsonl", first)
    return selection


def describe(document: dict[str, Any]) -> str:
    """`Selection.to_json` in words."""
    early = ", training was stopped early" if document["stopped_early"] else ""
    return (
        f"model of epoch {document['epoch']:g}, best validation {document['metric']} "
        f"{document['value']:.4f}{early}"
    )


def logged(path: Path) -> Sequence[dict]:
    """Whole lines of a metrics.jsonl; () if there is none."""
    if not path.exists():
        return ()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]

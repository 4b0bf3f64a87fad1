"""Abstention: which predictions are not answered, and what that costs.

A prediction is answered if the probability of its class is at least that class's
threshold, and exceeds the second largest by at least a margin. Coverage is the fraction
of rows that are answered, risk the fraction of these that are wrong (El-Yaniv and
Wiener, JMLR 2010).
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fof_jax.evaluation.predictions import UNKNOWN, Predictions
from fof_jax.evaluation.tables import align

WAYS = ("margin", "probability")
_KEY = "abstention"  # in the JSON file of `eval`
_CONFIDENCE = 0.95  # of the upper bound of the risk


@dataclasses.dataclass(frozen=True)
class Rule:
    """When a model abstains, and how that rule was chosen.

    Attributes:
      unit: "region" or "patient", which it was chosen on and applies to.
      classes: names of the K classes.
      thresholds: minimum probability of each class when it is predicted; above 1 for a
        class that is never answered.
      margin: minimum difference of the two largest probabilities.
      error: the risk that was asked for.
      coverage, risk: on the rows that it was chosen on; risk is None where none is
        answered.
      risk_upper: one-sided 95% Clopper-Pearson bound of the risk.
      rows, answered: number of rows, and of answered ones.
      chosen_on: "validation", the run's validation rows, or "given", those of `eval`.
    """

    unit: str
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    margin: float
    error: float
    coverage: float
    risk: float | None
    risk_upper: float | None
    rows: int
    answered: int
    chosen_on: str = "given"

    def abstains(self, prob: Float[np.ndarray, "n K"]) -> Bool[np.ndarray, " n"]:
        """True on rows that are not answered; False on rows of NaN.

        Raises:
          ValueError: another number of classes.
        """
        if prob.shape[1] != len(self.classes):
            raise ValueError(
                f"abstain: a rule for {len(self.classes)} classes, and probabilities "
                f"of {prob.shape[1]}. Choose it on predictions of this model."
            )
        if not len(prob):
            return np.zeros(0, bool)
        best = np.argmax(np.nan_to_num(prob), axis=1)
        low = prob[np.arange(len(prob)), best] < np.array(self.thresholds)[best]
        return low | (margins(prob) < self.margin)

    def require(self, classes: Sequence[str]) -> None:
        """Checks that the rule is of a model with these classes.

        Raises:
          ValueError: it is not.
        """
        if tuple(classes) != self.classes:
            raise ValueError(
                f"abstain: the rule is for classes {', '.join(self.classes)}, the "
                f"model has {', '.join(classes)}. Choose it on its predictions: "
                "eval --abstain_error=0.1 --out=FILE."
            )


def margins(prob: Float[np.ndarray, "n K"]) -> Float[np.ndarray, " n"]:
    """Difference of the two largest probabilities of each row."""
    ordered = np.sort(prob, axis=1)
    return ordered[:, -1] - ordered[:, -2]


def choose(
    table: Predictions, *, error: float, way: str, unit: str, chosen_on: str = "given"
) -> Rule:
    """The rule of largest coverage whose risk on a table is at most `error`.

    With "margin", one margin for all rows; with "probability", a threshold for each
    predicted class, whose answered rows have at most this risk. The table should be of
    validation rows, or of the test folds of a cross-validation: rows that the models
    were not trained on.

    Args:
      table: rows with an error or without a true class are left out.
      error: maximum risk, in [0, 1).
      way: one of `WAYS`.
      unit, chosen_on: recorded in the rule.

    Raises:
      ValueError: an error outside [0, 1), or no rows.
    """
    if not 0 <= error < 1:
        raise ValueError(
            f"abstain: error is {error}; expected a fraction, 0 to 1. Pass, for "
            "example, --abstain_error=0.1."
        )
    table = table.rows(table.ok & (table.y != UNKNOWN))
    if not len(table):
        raise ValueError(
            "abstain: no row has probabilities and a true class; expected at least "
            "one. Pass predictions of labeled images."
        )
    count = table.prob.shape[1]
    wrong = table.pred != table.y
    thresholds, margin = np.zeros(count), 0.0
    if way == "margin":
        margin = _cut(margins(table.prob), wrong, error)
    else:
        for k in range(count):
            inside = table.pred == k
            thresholds[k] = _cut(table.prob[inside, k], wrong[inside], error)
    names = table.classes or tuple(str(k) for k in range(count))
    rule = Rule(unit, names, tuple(thresholds.tolist()), margin, error, 0.0, None, None,
                len(table), 0, chosen_on)  # fmt: skip
    return measure(rule, table)


def measure(rule: Rule, table: Predictions) -> Rule:
    """The rule with coverage and risk on a table.

    Args:
      rule: of any table.
      table: rows with an error or without a true class are left out.
    """
    table = table.rows(table.ok & (table.y != UNKNOWN))
    wrong = table.pred != table.y
    answered = ~rule.abstains(table.prob)
    total, errors = int(answered.sum()), int(wrong[answered].sum())
    from scipy import stats  # slow to import, and `predict` does not need it

    upper = stats.beta.ppf(_CONFIDENCE, errors + 1, total - errors) if total else None
    return dataclasses.replace(
        rule,
        rows=len(table),
        answered=total,
        coverage=total / len(table) if len(table) else 0.0,
        risk=errors / total if total else None,
        risk_upper=upper if upper is None or errors < total else 1.0,
    )


def _cut(
    score: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"], error: float
) -> float:
    """Smallest threshold of the score whose rows at or above it have this risk.

    0 answers all; 2, above every score, answers none.
    """
    if not wrong.any():
        return 0.0
    order = np.argsort(-score, kind="stable")
    risk = np.cumsum(wrong[order]) / np.arange(1, len(score) + 1)
    # Rows of equal scores are answered together.
    last = np.append(np.diff(score[order]) != 0, True)
    allowed = np.flatnonzero(last & (risk <= error + 1e-12))
    if not len(allowed):
        return 2.0
    return 0.0 if allowed[-1] == len(score) - 1 else float(score[order][allowed[-1]])


def coverage_risk(
    y: Int[np.ndarray, " n"], prob: Float[np.ndarray, "n K"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Coverage and risk of every margin, from few answered rows to all.

    Args:
      y: true class index.
      prob: probabilities.
    """
    score = margins(prob)
    order = np.argsort(-score, kind="stable")
    count = np.arange(1, len(y) + 1)
    risk = np.cumsum(prob.argmax(axis=1)[order] != y[order]) / count
    last = np.append(np.diff(score[order]) != 0, True)
    return count[last] / len(y), risk[last]


def area(coverage: Float[np.ndarray, " m"], risk: Float[np.ndarray, " m"]) -> float:
    """Mean risk over coverages (AURC): each row's risk at its own coverage."""
    return float(np.sum(risk * np.diff(coverage, prepend=0.0)))


def format_rules(
    rules: Sequence[Rule], title: str = "Abstention, chosen on these rows"
) -> str:
    """Text table of rules, a line each, under a title."""
    rows = [["unit", "asked error", "answered", "error", "95% bound", "answers if"]]
    for rule in rules:
        parts = [f"margin >= {rule.margin:.4g}"] if rule.margin else []
        parts += [
            f"p({name}) >= {t:.4g}" if t <= 1 else f"never {name}"
            for name, t in zip(rule.classes, rule.thresholds, strict=True)
            if t
        ]
        rows.append(
            [
                rule.unit,
                f"{100 * rule.error:g}%",
                f"{100 * rule.coverage:.1f}% ({rule.answered}/{rule.rows})",
                "-" if rule.risk is None else f"{100 * rule.risk:.1f}%",
                "-" if rule.risk_upper is None else f"{100 * rule.risk_upper:.1f}%",
                "never" if rule.margin > 1 else ", ".join(parts) or "always",
            ]
        )
    return "\n".join([title, *align(rows)])


def to_json(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """The rules as JSON values."""
    return [dataclasses.asdict(rule) for rule in rules]


def from_json(values: Sequence[dict[str, Any]]) -> dict[str, Rule]:
    """Rules by unit, of `to_json`."""
    rules = [
        Rule(**one | {n: tuple(one[n]) for n in ("classes", "thresholds")})
        for one in values
    ]
    return {rule.unit: rule for rule in rules}


def read(path: Path) -> dict[str, Rule]:
    """Reads the rules of a file of `eval --abstain_error=… --out=FILE`, by unit.

    Raises:
      ValueError: the file has none.
    """
    try:
        rules = from_json(json.loads(path.read_text(encoding="utf-8"))[_KEY])
        if not rules:
            raise KeyError(_KEY)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"abstain: {path} holds no rule ({error}). Pass a file of "
            "eval --predictions=… --abstain_error=0.1 --out=FILE."
        ) from error
    return rules

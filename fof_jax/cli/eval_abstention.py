"""Abstention rules of `eval`: chosen on validation rows where a run has them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fof_jax.evaluation import abstention
from fof_jax.evaluation.aggregation import Aggregate, by_patient
from fof_jax.evaluation.predictions import Predictions, join, read_predictions
from fof_jax.training.run_fields import VALIDATION_FILE


def choose(
    table: Predictions,
    paths: Sequence[Path],
    *,
    units: Sequence[str],
    error: float,
    way: str,
    aggregate: Aggregate,
) -> tuple[list[str], dict[str, Any]]:
    """Chooses a rule per unit.

    The rows are those of validation.csv beside each of the files, if all of them have
    one, and else the given ones. The rules are then applied to the given rows, too,
    which took no part in the choice.

    Args:
      table: the rows of all files.
      paths: predictions.csv files.
      units: "region" and "patient", or one of them.
      error, way: see `abstention.choose`.
      aggregate: how probabilities of a patient's images are combined.

    Returns:
      Text tables, and entries of the JSON document.
    """
    beside = [path.parent / VALIDATION_FILE for path in paths]
    validated = None
    if all(path.is_file() for path in beside):
        validated = join([read_predictions(path) for path in beside])

    def of_unit(rows: Predictions, unit: str) -> Predictions:
        return rows if unit == "region" else by_patient(rows, aggregate=aggregate)

    chosen_on = "given" if validated is None else "validation"
    rows = table if validated is None else _named(validated, table)
    rules = [
        abstention.choose(
            of_unit(rows, unit), error=error, way=way, unit=unit, chosen_on=chosen_on
        )
        for unit in units
    ]
    document = {"abstention": abstention.to_json(rules)}
    if validated is None:
        return [abstention.format_rules(rules)], document
    tested = [abstention.measure(rule, of_unit(table, rule.unit)) for rule in rules]
    document["abstention_test"] = abstention.to_json(tested)
    return [
        abstention.format_rules(rules, "Abstention, chosen on the validation rows"),
        abstention.format_rules(tested, "The same on the given rows"),
    ], document


def _named(rows: Predictions, like: Predictions) -> Predictions:
    """Rows with the class names of another table of the same run."""
    return dataclasses.replace(rows, classes=like.classes)

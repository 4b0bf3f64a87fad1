"""Tables as pandas DataFrames; pandas is optional."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fof_jax.evaluation.prediction_rows import PREFIX, UNKNOWN


def of_columns(columns: Mapping[str, Any]) -> Any:
    """A pandas.DataFrame of some columns.

    Raises:
      ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "to_dataframe requires pandas, which is not installed. "
            "pip install 'fof-jax[dataframe]'"
        ) from error
    return pandas.DataFrame(dict(columns))


def of_rows(
    *,
    fold: Int[np.ndarray, " n"],
    y: Int[np.ndarray, " n"],
    pred: Int[np.ndarray, " n"],
    prob: Float[np.ndarray, "n K"],
    entropy: Float[np.ndarray, " n"],
    classes: Sequence[str] | None,
    notes: Sequence[str] = (),
    **first_and_last: Sequence[str],
) -> Any:
    """A pandas.DataFrame of `predictions.Predictions`, with columns as in its CSV.

    Args:
      fold, y, pred, prob, entropy, classes: of the rows; without classes, y and pred
        are numbers. What is unknown is a missing value.
      notes: not in the table.
      **first_and_last: patient, image and error.

    Raises:
      ImportError: pandas is not installed.
    """
    del notes
    names = classes or [str(k) for k in range(prob.shape[1])]

    def known(indices: np.ndarray, labels: Sequence[Any] | range) -> list[Any]:
        return [None if i == UNKNOWN else labels[i] for i in indices.tolist()]

    labels = range(len(names)) if classes is None else classes
    folds = range(int(fold.max(initial=0)) + 1)
    return of_columns(
        {name: first_and_last[name] for name in ("patient", "image")}
        | {"fold": known(fold, folds), "y": known(y, labels)}
        | {"pred": known(pred, labels)}
        | {PREFIX + name: prob[:, k] for k, name in enumerate(names)}
        | {"entropy": entropy, "error": first_and_last["error"]}
    )

"""How well images of equal biomarker status lie together in a feature space."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

FOLDS = 3  # of the probe


def silhouette(
    features: Float[np.ndarray, "n D"], values: Int[np.ndarray, " n"]
) -> float | None:
    """Mean silhouette by cosine distance, that of Eq. (4) and (5).

    1: groups are apart, 0: they overlap, below 0: images are nearer to another group.
    It is the paper's Fig. 3 as a number.

    Args:
      features: of images with a known status. A row of zeros, which has no direction,
        is at distance 1 from every other.
      values: their status.

    Returns:
      The mean; None with fewer than two groups, or if each image is its own.
    """
    groups = len(np.unique(values))
    if not 2 <= groups < len(values):
        return None
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(features, values, metric="cosine"))


def linear_probe(
    features: Float[np.ndarray, "n D"],
    values: Int[np.ndarray, " n"],
    patients: Sequence[str],
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> float | None:
    """Balanced accuracy of a logistic regression from features to status.

    Cross-validated with all images of a patient on one side; chance is one over the
    number of statuses.

    Args:
      features: of images that the encoder was not trained on, with a known status.
      values: their status.
      patients: patient of each.
      folds: of the cross-validation.
      seed: of its split.

    Returns:
      Fraction, over the images of all folds together; None where a status has fewer
      patients than there are folds.
    """
    owners = np.asarray(patients)
    groups = np.unique(values)
    if len(groups) < 2 or any(
        len(set(owners[values == value])) < folds for value in groups
    ):
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted = np.zeros_like(values)
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in split.split(features, values, owners):
        if len(np.unique(values[train])) < 2:
            return None
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        predicted[test] = model.fit(features[train], values[train]).predict(
            features[test]
        )
    return float(balanced_accuracy_score(values, predicted))

"""Linear probe: cross-validated logistic regression on features of images or bags."""

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fof_jax.data.bags.index import BagIndex
from fof_jax.data.metadata import Metadata
from fof_jax.data.splits import Splits
from fof_jax.evaluation import predictions


def mean_features(bags: BagIndex) -> Float[np.ndarray, "n D"]:
    """Mean of the patches of each bag."""
    return np.stack(
        [bags.read(i).features.mean(axis=0, dtype=np.float64) for i in range(len(bags))]
    )


def predict(
    features: Float[np.ndarray, "n D"],
    data: Metadata,
    folds: Splits,
    *,
    strength: float = 1.0,
) -> predictions.Predictions:
    """Predicts every record with the model of the fold in which it is tested.

    Args:
      features: standardized by each training set.
      data: n records with their grades.
      folds: training and test rows.
      strength: inverse of the weight of the squared norm, as scikit-learn's C.

    Raises:
      ValueError: a training set without one of the grades.
    """
    tested = []
    for k, (train, test) in enumerate(folds.folds):
        missing = set(range(len(data.classes))) - set(data.grades[train].tolist())
        if missing:
            names = ", ".join(data.classes[i] for i in sorted(missing))
            raise ValueError(
                f"probe: the training set of fold {k} has no {names}. Pass fewer "
                "--config.folds, or leave the grade out."
            )
        model = make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=2000, C=strength)
        )
        model.fit(features[train], data.grades[train])
        tested.append(
            predictions.Predictions(
                patient=tuple(data.patients[i] for i in test),
                image=tuple(data.images[i] for i in test),
                fold=np.full(len(test), k),
                y=data.grades[test],
                prob=model.predict_proba(features[test]),
                error=("",) * len(test),
            )
        )
    return predictions.join(tested)

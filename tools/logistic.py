"""Cross-validated logistic regression on features, for the other tools."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fof_jax.data import splits, store
from fof_jax.evaluation import predictions


def predict(
    features: np.ndarray, data: store.Store, folds: splits.Splits
) -> predictions.Predictions:
    """Predicts every image with the model of the fold in which it is tested.

    Args:
      features: [n, D], standardized by each training set.
      data: n images with their grades.
      folds: training and test rows.
    """
    tested = []
    for k, (train, test) in enumerate(folds.folds):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
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

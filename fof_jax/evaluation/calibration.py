"""Whether probabilities mean what they say: reliability and its error (ECE)."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

BINS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """Predictions by their confidence, the probability of the predicted class.

    Attributes:
      edges: of the bins, 0 … 1; a bin holds its upper edge and not its lower one.
      count: predictions in each bin.
      confidence: their mean confidence, NaN in an empty bin.
      accuracy: the share of them that is right, NaN in an empty bin.
      ece: sum over bins of count / n times |accuracy - confidence|.
    """

    edges: Float[np.ndarray, " edges"]
    count: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    ece: float


def reliability(
    y: Int[np.ndarray, " n"], prob: Float[np.ndarray, "n K"], *, bins: int = BINS
) -> Reliability:
    """The reliability diagram of some predictions, and their calibration error.

    Args:
      y: class index of the truth, 0 … K-1.
      prob: probabilities of the K classes.
      bins: of equal width.

    Returns:
      Counts, confidence and accuracy a bin, and the expected calibration error, 0-1.

    Raises:
      ValueError: no rows, no bins, or shapes that do not fit.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, Eq. (3).
    """
    if not len(y) or prob.shape[0] != len(y) or bins < 1:
        raise ValueError(
            f"reliability got {len(y)} labels, probabilities of shape {prob.shape} and "
            f"{bins} bins; expected a row a label, one or more of each."
        )
    confidence = prob.max(axis=1)
    right = np.argmax(prob, axis=1) == y
    edges = np.linspace(0.0, 1.0, bins + 1)
    # Rounding may put a probability a hair beyond 1.
    at = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(at, confidence, minlength=bins) / count
        accuracy = np.bincount(at, right, minlength=bins) / count
    gap = np.where(count > 0, np.abs(accuracy - mean), 0.0)
    return Reliability(
        edges=edges,
        count=count,
        confidence=mean,
        accuracy=accuracy,
        ece=float((count * gap).sum() / len(y)),
    )

"""Reliability diagrams and the expected calibration error (ECE)."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

BINS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """Predictions binned by confidence, the probability of the predicted class.

    Attributes:
      edges: bin edges, 0 … 1; a bin includes its upper edge, not its lower one.
      count: predictions per bin.
      confidence: mean confidence per bin, NaN in an empty bin.
      accuracy: fraction of correct predictions per bin, NaN in an empty bin.
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
    """Reliability diagram and expected calibration error.

    Args:
      y: true class index, 0 … K-1.
      prob: probabilities of the K classes.
      bins: number of bins of equal width.

    Returns:
      Count, confidence and accuracy per bin, and the ECE, 0-1.

    Raises:
      ValueError: no rows, no bins, or shapes that do not match.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, Eq. (3).
    """
    if not len(y) or prob.shape[0] != len(y) or bins < 1:
        raise ValueError(
            f"reliability got {len(y)} labels, probabilities of shape {prob.shape} and "
            f"{bins} bins; expected one row per label, at least one of each."
        )
    confidence = prob.max(axis=1)
    correct = np.argmax(prob, axis=1) == y
    edges = np.linspace(0.0, 1.0, bins + 1)
    # A probability may exceed 1 by rounding error.
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bin_of, confidence, minlength=bins) / count
        accuracy = np.bincount(bin_of, correct, minlength=bins) / count
    gap = np.where(count > 0, np.abs(accuracy - mean), 0.0)
    return Reliability(
        edges=edges,
        count=count,
        confidence=mean,
        accuracy=accuracy,
        ece=float((count * gap).sum() / len(y)),
    )

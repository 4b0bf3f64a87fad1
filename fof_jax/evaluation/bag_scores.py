"""Scores of a map over the patches of a bag against the patches that decide its grade.

The scores are those of images whose pixels are the patches, in one column.
"""

import numpy as np
from jaxtyping import Bool, Float

from fof_jax.evaluation import focus_scores, localization


def score(
    A: Float[np.ndarray, " N"],
    mask: Bool[np.ndarray, " N"],
    keep: Bool[np.ndarray, " N"] | None = None,
) -> dict[str, float]:
    """Figures of one bag.

    Args:
      A: map, at least 0.
      mask: True on deciding patches; somewhere.
      keep: M of the map; None where the method has none.

    Returns:
      `pointing`: whether the highest patch decides (the fraction of them that do, if
      several are highest; 0 for a map that is 0); `precision`: average precision of
      the patches, for a constant map the share that decides; `inside`: share of the
      map's sum on deciding patches; `area`: share of the patches that decide; `iou` of
      M, NaN without M. The areas under deletion and insertion curves are not measured.
    """
    column, truth = A[None, :, None], mask[None, :, None]
    figures = {
        "pointing": localization.pointing(column, truth)[0],
        "precision": focus_scores.average_precision(column, truth)[0],
        "inside": localization.inside(column, truth)[0],
        "area": mask.mean(),
        "iou": np.nan
        if keep is None
        else localization.iou(keep[None, :, None], truth)[0],
    }
    return {name: float(value) for name, value in figures.items()}

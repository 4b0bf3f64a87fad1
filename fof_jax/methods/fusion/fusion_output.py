"""The interface of the fusion modules: what each receives and returns.

A fusion module is called as `fusion(image, omics, train=..., known=...)` with the
image feature [B, D], the standardized omics vector or its feature [B, M], whether
dropout is active and batch statistics are used, and `known` [B, 2], whether a row has
an image and omics. Modules that cannot do without one ignore `known`.
"""

from typing import NamedTuple

from jaxtyping import Array, Float


class FusionOutput(NamedTuple):
    """Output of a fusion module.

    Attributes:
      features: input of the classifier.
      logits: of the K grades.
      losses: auxiliary losses by name, unweighted scalars.
      auxiliary: their weighted sum, to be added to the cross-entropy; None is 0.
    """

    features: Float[Array, "B D"]
    logits: Float[Array, "B K"]
    losses: dict[str, Float[Array, ""]]
    auxiliary: Float[Array, ""] | None = None

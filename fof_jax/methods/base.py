"""What `train.py` knows of a method, and the table of methods.

Adding one is a file with a `build` function, a line in `METHODS`, a config and a page
in docs/methods.md.
"""

from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int

from fof_jax.types import Aux, Batch, Params, State, Variables

Gather = Callable[[jax.Array], jax.Array]


# name -> module with `build(**options) -> Method`
@runtime_checkable
class Method(Protocol):
    """One way to learn grades from images and, in training, biomarkers.

    Attributes:
      test_inputs: what prediction needs; ("image",) for every image-only method.
      colour_views: how many colour draws of a crop a batch holds, 1 or 2.
    """

    test_inputs: ClassVar[tuple[str, ...]]
    colour_views: ClassVar[int]

    @property
    def num_classes(self) -> int:
        """K."""
        ...

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Draws parameters for images like the batch's (only its shapes matter)."""

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, *, gather: Gather
    ) -> tuple[Float[Array, ""], Aux]:
        """The loss of the global batch.

        Args:
          variables: parameters and state.
          batch: this device's rows, normalised.
          key: the same on every device; for methods that draw.
          gather: local rows [B, …] to the rows of all devices, in order; the
            identity on one device. Everything that enters the scalar goes through it,
            so that every device computes the same number and the mean of the
            devices' gradients is the gradient of one device on the global batch.
        """

    def after_update(self, variables: Variables, step: Int[Array, ""]) -> State:
        """The state after optimizer step `step` (from 0), e.g. moving averages."""

    def predict(
        self, variables: Variables, image: Float[Array, "B H W C"]
    ) -> Float[Array, "B K"]:
        """Logits of the K grades; their softmax is the prediction."""

    def feature(
        self, variables: Variables, image: Float[Array, "B H W C"]
    ) -> Float[Array, "B D"]:
        """v = g(x), from which the logits of `predict` are computed."""

    def explain(
        self,
        variables: Variables,
        image: Float[Array, "B H W C"],
        target: Int[Array, " B"],
    ) -> Float[Array, "B H W"]:
        """The map A of the evidence for `target`, in [0, 1]."""

    def keep(self, A: Float[Array, "B H W"]) -> jax.Array:
        """The mask M of patches, bool [B, h, w], that a map keeps."""


def parameter_count(params: Params) -> int:
    """Number of trained scalars."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))

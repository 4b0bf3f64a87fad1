"""A trained ViT with its head, split into the parts that explainers work on."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fof_jax.models import vit
from fof_jax.types import Params


@dataclasses.dataclass(frozen=True, eq=False)
class ViTClassifier:
    """Encoder and classifier of one trained model; the same view for every method.

    Attributes:
      encoder: the ViT. Nothing in it is frozen here, so that gradients reach the
        image also where training stopped them.
      params: of the encoder.
      logits_of: residual stream after the last block [B, T, D] to the logits [B, K] of
        the grades: final LayerNorm, pooling, classifier.
      first_pooled: first of the patches that the mean is taken over; 1 in the
        authors' code, which leaves patch 0 out (Q15).
    """

    encoder: vit.ViT
    params: Params
    logits_of: Callable[[Float[Array, "B T D"]], Float[Array, "B K"]]
    first_pooled: int = 0

    def __post_init__(self) -> None:
        free = self.encoder.clone(frozen_blocks=0, parent=None)
        object.__setattr__(self, "encoder", free)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.encoder.size.depth

    @property
    def num_prefix(self) -> int:
        """A, the number of tokens before the patches: class token and registers."""
        return self.encoder.num_prefix

    @property
    def pools_class_token(self) -> bool:
        """Whether the class token alone is classified, not a mean of patches."""
        return self.encoder.pooling == "class_token"

    def embed(self, image: Float[Array, "B H W C"]) -> Float[Array, "B T D"]:
        """Normalized image to the input of block 0."""
        embedded = self._apply(image, method="embed")
        return self._apply(embedded, method="add_position")

    def run(
        self, tokens: Float[Array, "B T D"], first: int = 0, last: int | None = None
    ) -> Float[Array, "B T D"]:
        """Runs blocks first … last - 1."""
        if first == (self.depth if last is None else last):
            return tokens
        return self._apply(tokens, first, last, method="run")

    def run_attending(
        self,
        tokens: Float[Array, "B T D"],
        attend: Sequence[Callable[..., jax.Array]],
        first: int = 0,
    ) -> Float[Array, "B T D"]:
        """The blocks from `first` on, each with its own function of q, k and v."""
        return self._apply(tokens, attend, first, method="run_attending")

    def logits(self, image: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        """Logits of the grades."""
        return self.logits_of(self.run(self.embed(image)))

    def pooling_weights(self) -> Float[Array, " T"]:
        """Weight of each token in the pooled feature; the weights sum to 1."""
        h, w = self.encoder.grid
        patches = h * w
        position = jnp.arange(self.num_prefix + patches)
        if self.pools_class_token:
            return (position == 0).astype(jnp.float32)
        pooled = position >= self.num_prefix + self.first_pooled
        return pooled / (patches - self.first_pooled)

    def _apply(self, *arguments: object, method: str) -> jax.Array:
        out = self.encoder.apply({"params": self.params}, *arguments, method=method)
        return jnp.asarray(out)

"""The network of students and image rows: an image encoder and a linear classifier."""

from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from fof_jax.types import Params, State


class StudentNetwork(nn.Module):
    """Encoder and classifier; with a ViT the parameter tree is the Baseline's.

    Attributes:
      encoder: either gives tokens, as `encoder(image)`, and has a method `pool`, or
        gives a feature, as `encoder(image, train=...)`.
      num_classes: K.
    """

    encoder: nn.Module
    num_classes: int

    @property
    def untrained(self) -> tuple[tuple[str, ...], ...]:
        """Subtrees of the parameters that take no step."""
        paths = getattr(self.encoder, "untrained", ())
        return tuple(("encoder", *path) for path in paths)

    def setup(self) -> None:
        """Declares the classifier."""
        self.classifier = nn.Dense(self.num_classes)

    def features(
        self, image: Float[Array, "B H W C"], *, train: bool
    ) -> Float[Array, "B D"]:
        """Image to the pooled feature, on which all terms act."""
        pool = getattr(self.encoder, "pool", None)
        if pool is not None:
            return pool(self.encoder(image))
        return self.encoder(image, train=train)

    def classify(self, features: Float[Array, "B D"]) -> Float[Array, "B K"]:
        """Feature to logits."""
        return self.classifier(features)

    def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        """Image to logits in evaluation; initializes every parameter."""
        return self.classify(self.features(image, train=False))

    @staticmethod
    def parameters(params: Params) -> Params:
        """The network's part of a student's parameters, without heads."""
        return {name: params[name] for name in ("encoder", "classifier")}

    def encode(
        self,
        params: Params,
        statistics: State,
        image: Float[Array, "B H W C"],
        key: jax.Array | None,
    ) -> tuple[Float[Array, "B D"], State]:
        """Pooled features from outside of Flax, and batch statistics after them.

        Args:
          params: with or without heads.
          statistics: batch statistics; may be {}.
          image: normalized pixels.
          key: of dropout, which means training mode; None is evaluation.
        """
        collections = {"params": self.parameters(params), "batch_stats": statistics}
        if key is None:
            out: Any = self.apply(collections, image, train=False, method="features")
            return out, statistics
        updated: Any
        out, updated = self.apply(
            collections,
            image,
            train=True,
            method="features",
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return out, dict(updated.get("batch_stats", statistics))

    def logits(
        self, params: Params, features: Float[Array, "B D"]
    ) -> Float[Array, "B K"]:
        """Logits of features from outside of Flax."""
        network = {"params": self.parameters(params)}
        out: Any = self.apply(network, features, method="classify")
        return out

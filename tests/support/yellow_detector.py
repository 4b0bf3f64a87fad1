"""A method made by hand, whose only evidence is the yellow of a patch."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fof_jax.inference.model import TrainedModel
from fof_jax.models import vit
from fof_jax.models.vit_classifier import ViTClassifier
from fof_jax.types import Output, Variables

SIZE = vit.Size(width=8, depth=2, heads=2, mlp=8)


class YellowDetector:
    """Method whose logit of class 2 is the mean of red + green - 2 blue.

    Attributes:
      factor: of that mean; at 60 a tint of a quarter decides.
      other: logit of class 0; gray images score about -34, tinted ones about -30.
    """

    factor = 60.0
    other = -32.4
    encoder = vit.ViT(size=SIZE, patch=8, image_size=(32, 32))

    def params(self):
        image = jnp.zeros((1, 32, 32, 3))
        params = self.encoder.init(jax.random.key(0), image)["params"]
        blocks = jax.tree.map(lambda a: 0 * a, params["blocks"])  # x + 0
        yellow = jnp.tile(jnp.array([1.0, 1.0, -2.0]), 64) / 64
        kernel = jnp.zeros((192, 8)).at[:, 0].set(yellow)
        embedding = {"kernel": kernel, "bias": jnp.zeros(8)}
        position = 0 * params["position"]
        return {**params, "blocks": blocks, "embedding": embedding} | {
            "position": position
        }

    def vit_classifier(self, variables):
        def logits_of(tokens):
            score = self.factor * tokens[..., 0].mean(axis=1)
            gray = jnp.full_like(score, self.other)
            return jnp.stack([gray, gray - 20, score], axis=1)

        return ViTClassifier(
            encoder=self.encoder, params=variables.params, logits_of=logits_of
        )

    def apply(self, variables, batch):
        logits = self.vit_classifier(variables).logits(batch.image)
        return Output(features=logits, logits=logits)


class Additive(YellowDetector):
    """The same with logits that are small enough for no probability to saturate."""

    factor = 4.0
    other = 0.0


def trained(method: YellowDetector, params=None) -> TrainedModel:
    """The method as a model of one fold."""
    data = {"classes": ("II", "III", "IV"), "color": True, "image_size": 32}
    params = method.params() if params is None else params
    return TrainedModel(
        method=method,
        folds={"fold_0": Variables(params=params, state={})},
        config=ConfigDict({"data": data, "method": "vit"}),
        sides=None,
    )

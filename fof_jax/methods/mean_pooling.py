"""Mean pooling of a bag: the mean of its features, and a linear classifier."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from fof_jax.methods.bag_classifier import BagClassifier
from fof_jax.models.vit import valid_mean
from fof_jax.types import Bag, DatasetInfo, Output


class MeanPooling(nn.Module):
    """Logits W m + b of the mean feature m; D K + K parameters."""

    num_classes: int

    def setup(self) -> None:
        """Declares the classifier."""
        self.classifier = nn.Dense(self.num_classes)

    def __call__(self, bag: Bag) -> Output:
        """Mean of the valid patches, and its logits."""
        mean = valid_mean(jnp.asarray(bag.features), jnp.asarray(bag.valid))
        return Output(features=mean, logits=self.classifier(mean))

    def evidence(self, bag: Bag, target: Int[Array, " B"]) -> Float[Array, "B T"]:
        """ReLU of a patch's part in the logit of `target`, without the bias.

        It is Eq. (1) with the features as v: alpha is the row of W.
        """
        each = self.classifier(jnp.asarray(bag.features))  # [B, T, K]
        chosen = jnp.take_along_axis(each, target[:, None, None], axis=2)[..., 0]
        bias = self.classifier(jnp.zeros((1, bag.features.shape[2])))[0]  # [K]
        return jax.nn.relu(chosen - bias[target][:, None])


def build(config: ConfigDict, info: DatasetInfo) -> BagClassifier:
    """The row of a configuration, which has no fields of its own."""
    del config
    classes = len(info.classes)
    return BagClassifier(network=MeanPooling(classes), num_classes=classes)

"""HFBSurv: hierarchical factorized bilinear fusion with modality attention."""

import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from fof_jax.methods import encoder
from fof_jax.methods.fusion.fusion_output import FusionOutput
from fof_jax.methods.fusion.multimodal import Multimodal
from fof_jax.methods.fusion.network import ImageProjection, Network
from fof_jax.models.batch_norm import BatchNorm
from fof_jax.models.dropout import Dropout
from fof_jax.models.linear import Linear
from fof_jax.types import DatasetInfo

NORM_FLOOR = 1e-12


def signed_sqrt(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """sign(x) sqrt(|x|), with derivative 0 at exactly 0.

    Args:
      x: any shape.

    Returns:
      the same shape.

    Source: methods/fusion.md "hfb"; methods/fusion_corrections.md 13.
    """
    # The inner `where` keeps the infinite derivative out of the backward pass.
    safe = jnp.where(x == 0, 1.0, jnp.abs(x))
    return jnp.where(x == 0, 0.0, jnp.sign(x) * jnp.sqrt(safe))


def factorized_bilinear(
    *, product: Float[Array, "B F"], rank: int
) -> Float[Array, "B O"]:
    """Pools a product of two projections over groups of `rank` entries.

    Args:
      product: a * b after dropout, F = O rank; a group is contiguous.
      rank: entries summed to one output.

    Returns:
      the signed square roots of the sums, of L2 norm 1 (floor 1e-12 of the norm).

    Source: METHODS.md C4 (mfb).
    """
    groups = product.reshape(product.shape[0], -1, rank)
    x = signed_sqrt(groups.sum(axis=2))  # [B, O]
    square = jnp.sum(x**2, axis=1, keepdims=True)
    positive = square > NORM_FLOOR**2
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), NORM_FLOOR)
    return x / norm


class HFBFusion(nn.Module):
    """Bilinear features within and between modalities, weighted by attention.

    Called with the image and the omics it fuses two modalities; `fuse` takes any
    number. With three modalities and `as_published` it has the faults of the published
    class: the third modality is replaced by the first in the attended features, and
    two projections are trained by weight penalties alone.

    Attributes:
      num_classes: K.
      rate: of the dropout after each hidden layer.
      factor_rate: of the dropout on the products.
      hidden: width of the modality encoders.
      intra, inter: widths of the pooled products.
      rank: entries summed to one of them.
      widths: of the hidden layers.
      as_published: see above.
    """

    num_classes: int = 3
    rate: float = 0.3
    factor_rate: float = 0.1
    hidden: int = 50
    intra: int = 20
    inter: int = 20
    rank: int = 20
    widths: tuple[int, ...] = (256, 64)
    as_published: bool = False

    def __call__(
        self,
        image: Float[Array, "B D"],
        omics: Float[Array, "B M"],
        *,
        train: bool,
        known: Bool[Array, "B 2"] | None = None,
    ) -> FusionOutput:
        """Fuses the two, omics first.

        Returns:
          the last hidden layer and its logits.

        Source: METHODS.md C4; methods/fusion.md "hfb", two modalities.
        """
        del known
        return self.fuse({"omics": omics, "image": image}, train=train)

    @nn.compact
    def fuse(
        self, modalities: dict[str, Float[Array, "B _"]], *, train: bool
    ) -> FusionOutput:
        """Fuses modalities in the order of the mapping.

        With e_m the encoded modality, y_m = [e_m; mfb(U_m e_m, U_m e_m)],
        s_m = sigma(w y_m + b), a_m = s_m y_m. Pairs are weighted by the softmax of
        (s_m + s_n) / (<softmax a_m, softmax a_n> + 1/2). The fused vector is
        [sum_m a_m; sum_mn weight_mn mfb(V a_m, V a_n)].

        Args:
          modalities: vectors by name.
          train: whether dropout is active and batch statistics are used.

        Returns:
          the last hidden layer and its logits.

        Source: METHODS.md C4; methods/fusion.md "hfb"; corrections 12-14.
        """
        names = list(modalities)
        attention = Linear(1, name="attention")
        joint = Linear(self.inter * self.rank, name="inter")
        y = {m: self._unimodal(m, v, train) for m, v in modalities.items()}
        score = {m: jax.nn.sigmoid(attention(y[m])) for m in names}  # each [B, 1]
        source = dict(zip(names, names, strict=True))
        if self.as_published:
            source[names[-1]] = names[0]
        attended = {m: score[m] * y[source[m]] for m in names}

        pairs = list(itertools.combinations(names, 2))
        similarity = jnp.concatenate(
            [_similarity(attended[m], attended[n]) for m, n in pairs], axis=1
        )
        scores = jnp.concatenate([score[m] + score[n] for m, n in pairs], axis=1)
        weights = jax.nn.softmax(scores / (similarity + 0.5), axis=1)  # [B, pairs]
        projected = {m: joint(attended[m]) for m in names}
        products = [
            self._pool(f"inter_{m}_{n}", projected[m] * projected[n], train)
            for m, n in pairs
        ]
        if self.as_published:  # trained by penalties alone
            for m in names[1:]:
                Linear(self.inter * self.rank, name=f"inter_{m}")(attended[m])

        bimodal = sum(weights[:, i : i + 1] * p for i, p in enumerate(products))
        x = jnp.concatenate([sum(attended.values()), bimodal], axis=1)
        for name, value in (
            ("attended", attended),
            ("similarity", similarity),
            ("weights", weights),
            ("products", products),
            ("fused", x),
        ):
            self.sow("intermediates", name, value)
        x = BatchNorm(name="norm")(x, train=train)
        for i, width in enumerate(self.widths):
            x = jnp.tanh(Linear(width, name=f"hidden_{i}")(x))
            x = Dropout(self.rate, name=f"dropout_{i}")(x, train=train)
        return FusionOutput(x, Linear(self.num_classes, name="classifier")(x), {})

    def _unimodal(self, name: str, v: jax.Array, train: bool) -> Float[Array, "B Y"]:
        x = jnp.tanh(Linear(self.hidden, name=f"encoder_{name}_0")(v))
        x = jnp.tanh(Linear(self.hidden, name=f"encoder_{name}_1")(x))
        u = Linear(self.intra * self.rank, name=f"intra_{name}")(x)
        return jnp.concatenate([x, self._pool(f"intra_{name}", u * u, train)], axis=1)

    def _pool(self, name: str, product: jax.Array, train: bool) -> Float[Array, "B O"]:
        dropped = Dropout(self.factor_rate, name=f"dropout_{name}")(
            product, train=train
        )
        return factorized_bilinear(product=dropped, rank=self.rank)


def _similarity(a: Float[Array, "B Y"], b: Float[Array, "B Y"]) -> Float[Array, "B 1"]:
    """<softmax a, softmax b> of each row."""
    both = jax.nn.softmax(a, axis=1) * jax.nn.softmax(b, axis=1)
    return both.sum(axis=1, keepdims=True)


def build(config: ConfigDict, info: DatasetInfo) -> Multimodal:
    """The row of a configuration, with two modalities.

    Args:
      config: `fusion.image_features` and `fusion.dropout` are read.
      info: `classes` is read.

    Source: METHODS.md C4.
    """
    classes = len(info.classes)
    network = Network(
        image_encoder=encoder.build_image_encoder(config),
        fusion=HFBFusion(classes, config.fusion.dropout),
        projection=ImageProjection(config.fusion.image_features),
    )
    return Multimodal("fusion.hfbsurv", network, classes)

"""DDM-net, a reconstruction: disentangled features with imputation of a modality.

Neither the equations nor code of Qiu et al. 2024 were available, only the abstract
(Phys. Med. Biol. 69, 085028). Every layer and constant is a choice of this project.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from fof_jax.methods import encoder
from fof_jax.methods.fusion import ddmnet_losses
from fof_jax.methods.fusion.fusion_output import FusionOutput
from fof_jax.methods.fusion.multimodal import Multimodal
from fof_jax.methods.fusion.network import ImageProjection, Network
from fof_jax.models.dropout import Dropout
from fof_jax.models.linear import Linear
from fof_jax.types import DatasetInfo

MODALITIES = ("image", "omics")
LOG_VARIANCE_BOUND = 8.0


class DDMNetFusion(nn.Module):
    """Two variational autoencoders, common and specific parts, attention over three.

    Attributes:
      num_classes: K.
      rate: of the dropout before the classifier.
      hidden, latent, part, features: widths of the autoencoders' hidden layers, of the
        latent, of a common or specific part, of the fused feature.
      modality_rate: probability that one modality of a complete row is treated as
        missing in a training step.
      weight: of the four auxiliary losses.
      kl_weight: of the Kullback-Leibler divergence in the autoencoder loss.
    """

    num_classes: int = 3
    rate: float = 0.25
    hidden: int = 128
    latent: int = 64
    part: int = 32
    features: int = 64
    modality_rate: float = 0.2
    weight: float = 0.1
    kl_weight: float = 1e-3

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B D"],
        omics: Float[Array, "B M"],
        *,
        train: bool,
        known: Bool[Array, "B 2"] | None = None,
    ) -> FusionOutput:
        """Fuses the two; a missing one is imputed from the other.

        Args:
          train: whether latents are sampled, modalities and entries dropped.
          known: whether a row has an image and omics; None is all. A row needs one.

        Returns:
          the fused feature (before dropout), its logits, and the losses recon, kl,
          vae, common, difference, impute.

        Source: methods/fusion.md "ddm", steps 1-4; corrections 18.
        """
        if known is None:
            known = jnp.ones((image.shape[0], 2), bool)
        inputs = {"image": image, "omics": omics}
        z, mean, log_variance = {}, {}, {}
        for m in MODALITIES:
            mean[m], log_variance[m] = self._encode(m, inputs[m])
            z[m] = mean[m]
            if train:
                noise = self.sample_noise(m, mean[m].shape)
                z[m] = mean[m] + noise * jnp.exp(0.5 * log_variance[m])

        self.sow("intermediates", "latent", z)
        imputed = {
            "omics": self._two_layers("to_omics", z["image"], self.latent, self.latent),
            "image": self._two_layers("to_image", z["omics"], self.latent, self.latent),
        }
        used = self._used(known, train)
        common, specific, own_common, own_specific = {}, {}, {}, {}
        for i, m in enumerate(MODALITIES):
            latent = jnp.where(used[:, i : i + 1], z[m], imputed[m])
            to_common = Linear(self.part, "normal", name=f"common_{m}")
            to_specific = Linear(self.part, "normal", name=f"specific_{m}")
            common[m], specific[m] = to_common(latent), to_specific(latent)
            own_common[m], own_specific[m] = to_common(z[m]), to_specific(z[m])

        pooled = self._attend(
            (common["image"] + common["omics"]) / 2,
            specific["image"],
            specific["omics"],
        )
        features = jax.nn.relu(Linear(self.features, "normal", name="fused")(pooled))
        dropped = Dropout(self.rate, name="dropout")(features, train=train)
        logits = Linear(self.num_classes, "normal", name="classifier")(dropped)

        decoded = {
            m: self._two_layers(f"decoder_{m}", z[m], self.hidden, inputs[m].shape[1])
            for m in MODALITIES
        }
        losses = ddmnet_losses.all_terms(
            decoded=decoded,
            inputs=jax.tree.map(lax.stop_gradient, inputs),
            mean=mean,
            log_variance=log_variance,
            common=own_common,
            specific=own_specific,
            latent=z,
            imputed=imputed,
            known=known,
            kl_weight=self.kl_weight,
        )
        terms = [losses[name] for name in ("vae", "common", "difference", "impute")]
        auxiliary = self.weight * jnp.stack(terms).sum()
        return FusionOutput(features, logits, losses, auxiliary)

    def sample_noise(self, modality: str, shape: tuple[int, ...]) -> jax.Array:
        """Standard normal noise of a latent, from the random stream `dropout`."""
        del modality
        return jax.random.normal(self.make_rng("dropout"), shape)

    def sample_dropped(self, rows: int) -> Int[Array, " B"]:
        """Which modality a row loses in this step: 0 none, 1 omics, 2 image."""
        drop, which = jax.random.split(self.make_rng("dropout"))
        dropped = jax.random.bernoulli(drop, self.modality_rate, (rows,))
        image = jax.random.bernoulli(which, 0.5, (rows,))
        return jnp.where(dropped, 1 + image.astype(jnp.int32), 0)

    def _used(self, known: Bool[Array, "B 2"], train: bool) -> Bool[Array, "B 2"]:
        """Modalities that enter the fusion by their own latent."""
        if not train:
            return known
        dropped = self.sample_dropped(known.shape[0])
        lost = jnp.stack([dropped == 2, dropped == 1], axis=1)
        return known & ~(lost & known.all(axis=1, keepdims=True))

    def _encode(self, name: str, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and bounded log-variance of the latent, each [B, L]."""
        h = self._two_layers(f"encoder_{name}", x, self.hidden, 2 * self.latent)
        mean, raw = jnp.split(h, 2, axis=1)
        return mean, LOG_VARIANCE_BOUND * jnp.tanh(raw / LOG_VARIANCE_BOUND)

    def _attend(self, *tokens: Float[Array, "B S"]) -> Float[Array, "B S"]:
        """Mean of the tokens after one self-attention with a residual connection."""
        t = jnp.stack(tokens, axis=1)  # [B, 3, S]
        q, k, v = (
            Linear(self.part, "normal", name=n)(t) for n in ("query", "key", "value")
        )
        attention = jax.nn.softmax(q @ k.swapaxes(1, 2) / self.part**0.5, axis=2)
        attended = t + Linear(self.part, "normal", name="project")(attention @ v)
        pooled = attended.mean(axis=1)
        for name, value in (
            ("tokens", t),
            ("attention", attention),
            ("pooled", pooled),
        ):
            self.sow("intermediates", name, value)
        return pooled

    def _two_layers(
        self, name: str, x: jax.Array, hidden: int, width: int
    ) -> Float[Array, "B W"]:
        x = jax.nn.relu(Linear(hidden, "normal", name=f"{name}_0")(x))
        return Linear(width, "normal", name=f"{name}_1")(x)


def build(config: ConfigDict, info: DatasetInfo) -> Multimodal:
    """The row of a configuration; accepts patients without omics.

    Args:
      config: `fusion.image_features`, `fusion.dropout` and `fusion.modality_dropout`
        are read.
      info: `classes` is read.

    Source: methods/fusion.md "ddm"; a reconstruction.
    """
    classes = len(info.classes)
    fusion = DDMNetFusion(
        num_classes=classes,
        rate=config.fusion.dropout,
        modality_rate=config.fusion.modality_dropout,
    )
    network = Network(
        image_encoder=encoder.build_image_encoder(config),
        fusion=fusion,
        projection=ImageProjection(config.fusion.image_features),
    )
    return Multimodal("fusion.ddmnet", network, classes, imputes=True)

"""Losses of the DDM-net reconstruction, averaged over the rows that are known."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

NORM_FLOOR = 1e-12  # added to a squared norm

Vectors = dict[str, Float[Array, "B _"]]  # by modality


def mean_of_rows(
    *, values: Float[Array, " B"], keep: Bool[Array, " B"]
) -> Float[Array, ""]:
    """Mean over the rows that are kept; 0 where none is.

    Args:
      values: of each row.
      keep: rows that count.

    Returns:
      the mean.

    Source: methods/fusion.md "ddm", step 4.
    """
    return jnp.where(keep, values, 0).sum() / jnp.maximum(keep.sum(), 1)


def kl_divergence(
    *, mean: Float[Array, "B L"], log_variance: Float[Array, "B L"]
) -> Float[Array, " B"]:
    """KL(N(mean, e^l) || N(0, 1)) = -1/2 sum (1 + l - mean^2 - e^l).

    Args:
      mean, log_variance: of the latent.

    Returns:
      the divergence of each row.

    Source: METHODS.md C5.
    """
    inner = 1 + log_variance - mean**2 - jnp.exp(log_variance)
    return -0.5 * inner.sum(axis=1)


def cosine_distance(
    *, a: Float[Array, "B S"], b: Float[Array, "B S"]
) -> Float[Array, " B"]:
    """1 - cos(a, b) of each row, with norms sqrt(|x|^2 + 1e-12).

    Args:
      a, b: vectors.

    Returns:
      the distance of each row.

    Source: methods/fusion.md "ddm", step 4 (common).
    """

    def norm(x: Float[Array, "B S"]) -> Float[Array, " B"]:
        return jnp.sqrt((x**2).sum(axis=1) + NORM_FLOOR)

    return 1 - (a * b).sum(axis=1) / (norm(a) * norm(b))


def difference(
    *, a: Float[Array, "B S"], b: Float[Array, "B S"], keep: Bool[Array, " B"]
) -> Float[Array, ""]:
    """Mean squared inner product of the columns of a and b.

    Columns are centered and divided by their norm sqrt(|x|^2 + 1e-12), over the rows
    that are kept.

    Args:
      a, b: parts that should be orthogonal.
      keep: rows that count.

    Returns:
      the mean over the S^2 pairs of columns.

    Source: methods/fusion.md "ddm", step 4 (difference).
    """
    rows = keep[:, None].astype(a.dtype)
    count = jnp.maximum(rows.sum(), 1)

    def columns(x: Float[Array, "B S"]) -> Float[Array, "B S"]:
        centered = (x - (rows * x).sum(axis=0, keepdims=True) / count) * rows
        square = (centered**2).sum(axis=0, keepdims=True)
        return centered / jnp.sqrt(square + NORM_FLOOR)

    return ((columns(a).T @ columns(b)) ** 2).mean()


def all_terms(
    *,
    decoded: Vectors,
    inputs: Vectors,
    mean: Vectors,
    log_variance: Vectors,
    common: Vectors,
    specific: Vectors,
    latent: Vectors,
    imputed: Vectors,
    known: Bool[Array, "B 2"],
    kl_weight: float,
) -> dict[str, Float[Array, ""]]:
    """The auxiliary losses, unweighted.

    Args:
      decoded, inputs: reconstruction and input of each modality.
      mean, log_variance: of each latent.
      common, specific: parts of each modality's own latent.
      latent, imputed: each modality's latent, and the one transferred from the other.
      known: whether a row has an image and omics.
      kl_weight: of `kl` in `vae`.

    Returns:
      recon, kl, vae = recon + kl_weight kl, common, difference, impute.

    Source: methods/fusion.md "ddm", step 4.
    """
    both = known.all(axis=1)
    recon = kl = jnp.zeros(())
    for i, m in enumerate(("image", "omics")):
        error = ((decoded[m] - inputs[m]) ** 2).mean(axis=1)
        divergence = kl_divergence(mean=mean[m], log_variance=log_variance[m])
        recon = recon + mean_of_rows(values=error, keep=known[:, i])
        kl = kl + mean_of_rows(values=divergence, keep=known[:, i])
    errors = [
        ((imputed[m] - lax.stop_gradient(latent[m])) ** 2).mean(axis=1) for m in imputed
    ]
    distance = cosine_distance(a=common["image"], b=common["omics"])
    pairs = (
        (common["image"], specific["image"]),
        (common["omics"], specific["omics"]),
        (specific["image"], specific["omics"]),
    )
    return {
        "recon": recon,
        "kl": kl,
        "vae": recon + kl_weight * kl,
        "common": mean_of_rows(values=distance, keep=both),
        "difference": jnp.stack(
            [difference(a=a, b=b, keep=both) for a, b in pairs]
        ).sum(),
        "impute": mean_of_rows(values=jnp.stack(errors).sum(axis=0), keep=both),
    }

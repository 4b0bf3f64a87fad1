"""The focus map of the authors' code: a principal component, not Eq. 1.

The activations of one block, weighted by the mean gradient of the true class, are
reduced to their first principal component; its positive half, scaled twice to [0, 1],
is the map.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

SCALE_FLOOR = 1e-7


@flax.struct.dataclass
class Activation:
    """The map with its intermediate results, for inspection and parity.

    Attributes:
      gradient: ds/dv at every token.
      alpha: its mean over the grid (Q3).
      direction: the first right singular vector of the centred, weighted activations.
      projection: the principal component, signed, on the grid.
      scaled: the map after the first scaling, at image size.
      A: the map after the second, in [0, 1] (Q4).
    """

    gradient: Float[Array, "B P D"]
    alpha: Float[Array, "B D"]
    direction: Float[Array, "B D"]
    projection: Float[Array, "B h w"]
    scaled: Float[Array, "B H W"]
    A: Float[Array, "B H W"]


def principal_component_map(
    *,
    logits_of: Callable[[Float[Array, "B P D"]], Float[Array, "B K"]],
    tokens: Float[Array, "B P D"],
    target: Int[Array, " B"],
    grid: tuple[int, int],
    image_size: tuple[int, int],
    reference: Float[Array, "B D"] | None = None,
) -> Activation:
    """The map of evidence for `target`, and its parts.

    Args:
      logits_of: the network's tail, tokens to the logits of the global head (Q7).
      tokens: residual stream after one block, row-major over the grid.
      target: class whose evidence is sought; the true grade in training.
      grid: h, w with P = h w; any grid (item 11).
      image_size: H, W.
      reference: see `principal_component`.

    Returns:
      The map; nothing in it carries a gradient.
    """
    tokens = lax.stop_gradient(tokens)

    def score(v: jax.Array) -> jax.Array:
        # Samples do not interact, so the gradient of the sum is each one's own.
        return jnp.take_along_axis(logits_of(v), target[:, None], axis=1).sum()

    gradient = jax.grad(score)(tokens).astype(jnp.float32)
    activation = map_of(
        tokens=tokens.astype(jnp.float32),
        gradient=gradient,
        grid=grid,
        image_size=image_size,
        reference=reference,
    )
    return lax.stop_gradient(activation)


def map_of(
    *,
    tokens: Float[Array, "B P D"],
    gradient: Float[Array, "B P D"],
    grid: tuple[int, int],
    image_size: tuple[int, int],
    reference: Float[Array, "B D"] | None = None,
) -> Activation:
    """The same from tokens and their gradient."""
    alpha = gradient.mean(axis=1)  # Q3
    direction, component = principal_component(
        alpha[:, None] * tokens, reference=reference
    )
    projection = component.reshape(-1, *grid)
    # Q4: scaled on the grid, enlarged, and scaled again.
    scaled = scale(jax.nn.relu(projection), image_size=image_size)
    return Activation(
        gradient=gradient,
        alpha=alpha,
        direction=direction,
        projection=projection,
        scaled=scaled,
        A=scale(scaled, image_size=None),
    )


def principal_component(
    weighted: Float[Array, "B P D"], *, reference: Float[Array, "B D"] | None = None
) -> tuple[Float[Array, "B D"], Float[Array, "B P"]]:
    """First right singular vector of the centred rows, and the rows' share of it (Q1).

    It is the last eigenvector of the D x D Gram matrix. Its sign is free; the
    authors take what LAPACK's SVD returns, an accident that decides which half of the
    image survives the ReLU (Q2). Here the component correlates positively with
    sum_k alpha_k v^k, the map of Eq. 1. For rows R with R^T R v = s^2 v that
    correlation has the sign of sum(v), so: the entries of v sum to 0 or more.

    Args:
      weighted: alpha_k v^k.
      reference: a vector per image whose side v takes instead; a replay passes the
        recorded one.

    Returns:
      v, and R v with R the rows minus their mean.
    """
    rows = weighted - weighted.mean(axis=1, keepdims=True)  # Q1
    # Entries of 1e-20 would underflow when squared.
    top = jnp.abs(rows).max(axis=(1, 2), keepdims=True)
    unit = rows / jnp.where(top > 0, top, 1)
    # HIGHEST: fewer bits would move the component, and with it the mask.
    precision = lax.Precision.HIGHEST
    gram = jnp.einsum("bpd,bpe->bde", unit, unit, precision=precision)
    v = _last_eigenvector(gram)  # [B, D]
    side = v.sum(axis=1) if reference is None else (v * reference).sum(axis=1)
    v = jnp.where(side[:, None] < 0, -v, v)  # Q2
    return v, jnp.einsum("bpd,bd->bp", rows, v, precision=precision)


def _last_eigenvector(gram: Float[Array, "B D D"]) -> Float[Array, "B D"]:
    def last(matrices: jax.Array) -> jax.Array:
        return jnp.linalg.eigh(matrices)[1][..., -1]

    # JAX's LAPACK call deals a batch of matrices out to the very pool of threads that
    # it occupies, and waits: as many devices as cores wait for each other for ever.
    # A single matrix is not dealt out.
    return lax.platform_dependent(gram, cpu=lambda g: lax.map(last, g), default=last)


def scale(
    maps: Float[Array, "B h w"], *, image_size: tuple[int, int] | None
) -> Float[Array, "B H W"]:
    """Min-max per image with 1e-7 in the denominator, then bilinear resizing.

    Args:
      maps: any values; a constant map becomes 0.
      image_size: H, W (half-pixel centres, borders replicated); None keeps the size.
    """
    maps = maps - maps.min(axis=(1, 2), keepdims=True)
    maps = maps / (SCALE_FLOOR + maps.max(axis=(1, 2), keepdims=True))
    if image_size is None:
        return maps
    shape = (maps.shape[0], *image_size)
    return jax.image.resize(maps, shape, method="bilinear", antialias=False)


def pooled(A: Float[Array, "B H W"], *, patch: int) -> Float[Array, "B h w"]:
    """Mean over every patch; rows and columns that fill no patch are left out."""
    h, w = A.shape[1] // patch, A.shape[2] // patch
    A = A[:, : h * patch, : w * patch].reshape(-1, h, patch, w, patch)
    return A.mean(axis=(2, 4))


def hide_mask(
    A: Float[Array, "B H W"], *, patch: int, theta: float
) -> Bool[Array, "B h w"]:
    """True on patches that the positive view hides and the negative view shows.

    A patch at theta exactly is shown in the positive view, unlike in Eq. 2 (Q5). A
    map of zeros hides everything (Q10).
    """
    return pooled(A, patch=patch) < theta  # Q5 Q10

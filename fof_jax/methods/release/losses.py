"""The loss terms of the authors' code, as they are wired there.

Pure functions of the global batch; none of them is one of the paper's equations.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

NORM_FLOOR = 1e-8
KERNEL_FLOOR = 1e-6


def cross_entropy(
    logits: Float[Array, "B J"], label: Int[Array, " B"]
) -> Float[Array, ""]:
    """Mean over the batch of -log softmax(logits)[label]."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, label[:, None], axis=1).mean()


@functools.cache
def region_rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Which similarities enter the region loss, and in which row.

    Args:
      n: images, N; the rows of Z are g_0 … g_{N-1}, p_0 …, n_0 ….

    Returns:
      mask: bool [3N, 3N], True where a similarity is used.
      index: int [2N, 2N]; row r holds the positions in the flattened 3N x 3N matrix
        of the "negatives" of row r.
    """
    mask = np.zeros((3 * n, 3 * n), bool)
    mask[: 2 * n, : 2 * n] = True
    i = np.arange(n)
    # Q17: the pair (g_i, p_i) is taken out, and is nobody's positive either.
    for a, b in ((0, 0), (n, n), (0, n), (n, 0)):
        mask[a + i, b + i] = False
    for a, b in ((0, 2 * n), (2 * n, 0), (n, 2 * n), (2 * n, n)):
        mask[a + i, b + i] = True
    # Q18: rows of 2N - 1 (g, p) and of 2 (n) elements are laid end to end and cut
    # anew into rows of 2N, so that a row mixes anchors.
    return mask, np.flatnonzero(mask).reshape(2 * n, 2 * n)


def region(
    *,
    glb: Float[Array, "B E"],
    pos: Float[Array, "B E"],
    neg: Float[Array, "B E"],
    tau: float,
) -> Float[Array, ""]:
    """The region loss: pulls the global and the NEGATIVE view together (Q16).

    -(1/2N) sum over 2N rows of log softmax([positive, 2N others])_0 of cosines over
    tau; the positive of rows i and N + i is (g_i, n_i) (Q19), the others are those of
    `region_rows`, of all samples (Q20).

    Args:
      glb, pos, neg: region projections of the three views of the global batch (Q21).
      tau: temperature, 0.07.
    """
    n = glb.shape[0]
    similarity = _cosines(jnp.concatenate([glb, pos, neg])) / tau  # [3N, 3N]
    i = np.arange(n)
    positive = similarity[i, 2 * n + i]  # Q16
    positive = jnp.concatenate([positive, positive])[:, None]  # Q19
    others = similarity.reshape(-1)[region_rows(n)[1]]  # Q18 Q20
    logits = jnp.concatenate([positive, others], axis=1)  # [2N, 1 + 2N]
    return -jax.nn.log_softmax(logits)[:, 0].mean()


def supervised_contrastive(
    features: Float[Array, "R E"], labels: Int[Array, " R"], *, tau: float
) -> Float[Array, ""]:
    """Supervised contrastive loss, averaged over positives and over all rows.

    mean_i of -(1/max(1, |P(i)|)) sum_{j in P(i)} log softmax_{k != i}(cos/tau)_j, where
    P(i) holds the other rows with the label of i. Eq. 5 divides by neither.

    Args:
      features: rows; a zero row has cosine 0 with everything and finite gradients.
      labels: integers; any value, negative ones too.
      tau: temperature, 0.07.
    """
    if features.shape[0] == 1:  # -inf alone has no softmax, and no positive
        return jnp.zeros(())
    others = ~np.eye(features.shape[0], dtype=bool)
    similarity = jnp.where(others, _cosines(features) / tau, -jnp.inf)
    log_p = similarity - jax.nn.logsumexp(similarity, axis=1, keepdims=True)
    positive = others & (labels[:, None] == labels[None, :])
    total = jnp.where(positive, log_p, 0.0).sum(axis=1)
    per_row = -total / jnp.maximum(positive.sum(axis=1), 1)  # Q23
    return per_row.mean()  # Q24


def discrete_genes(
    *,
    glb: Float[Array, "N B E"],
    pos: Float[Array, "N B E"],
    neg: Float[Array, "N B E"],
    labels: Int[Array, "B N"],
    tau: float,
) -> Float[Array, ""]:
    """`supervised_contrastive` in each gene's space, mean over genes (Q25).

    Args:
      glb, pos, neg: gene projections of the three views.
      labels: of the global and the positive view; the negative view's are 0.
      tau: temperature, 0.07.
    """
    features = jnp.concatenate([glb, pos, neg], axis=1)  # [N, 3B, E]
    # Q24: three views in one matrix.
    labels = jnp.concatenate([labels, labels, jnp.zeros_like(labels)])  # [3B, N]
    each = jax.vmap(functools.partial(supervised_contrastive, tau=tau), (0, 1))
    return each(features, labels).mean()  # Q25


def rank_rows(
    pos: Float[Array, "B D"], glb: Float[Array, "B D"], *, ranks: int
) -> Float[Array, "R D"]:
    """[v_p; v_g] of rank 0, then of rank 1, …: the order after the authors' gather.

    Args:
      pos, glb: rows of the global batch; consecutive slices are the ranks.
      ranks: number of processes, a divisor of B.
    """

    def stacked(a: jax.Array) -> jax.Array:
        return a.reshape(ranks, -1, a.shape[1])

    both = jnp.concatenate([stacked(pos), stacked(glb)], axis=1)  # Q30
    return both.reshape(-1, pos.shape[1])


def float_genes(
    features: Float[Array, "R D"], genes: Float[Array, "R F"], *, batch: int
) -> Float[Array, ""]:
    """Float-gene guidance (Q29): the features' kernel should be that of the genes.

    Both are read as `batch` rows, whatever R: with R = 2 `batch` two consecutive rows
    are glued into one (Q30). K = rows rows^T, each row over its own norm + 1e-6; the
    loss is the mean squared difference, once more divided by `batch`.

    Args:
      features, genes: rows in one order, see `rank_rows`.
      batch: N, a divisor of R.
    """
    kernels = [_kernel(a.reshape(batch, -1)) for a in (features, genes)]  # Q30
    return ((kernels[0] - kernels[1]) ** 2).mean() / batch  # Q30


def scale_gradient(value: Float[Array, ""], factor: float) -> Float[Array, ""]:
    """The same value with its gradient times `factor`."""
    return factor * value + lax.stop_gradient((1 - factor) * value)


def _kernel(rows: Float[Array, "N D"]) -> Float[Array, "N N"]:
    kernel = jnp.matmul(rows, rows.T, precision=lax.Precision.HIGHEST)
    return kernel / (_norm(kernel, floor=0.0) + KERNEL_FLOOR)


def _cosines(rows: Float[Array, "R E"]) -> Float[Array, "R R"]:
    unit = rows / _norm(rows, floor=NORM_FLOOR)
    # HIGHEST: one part in a thousand of a cosine is 1.4 per cent after exp(. / 0.07).
    return jnp.matmul(unit, unit.T, precision=lax.Precision.HIGHEST)


def _norm(rows: Float[Array, "R E"], *, floor: float) -> Float[Array, "R 1"]:
    """Norm of every row, at least `floor`; constant, not NaN, in gradients there.

    `jnp.linalg.norm` has a NaN gradient at 0, hence the square root is taken of 1
    there and the result chosen afterwards.
    """
    square = (rows * rows).sum(axis=1, keepdims=True)
    small = square <= floor**2
    return jnp.where(small, floor, jnp.sqrt(jnp.where(small, 1.0, square)))

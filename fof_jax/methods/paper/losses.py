"""Eq. (3)-(6): classification, focus consistency, biomarker alignment, their sum.

Pure functions of the global batch. Constants that the paper prints have no defaults.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

NORM_FLOOR = 1e-8  # P10


def cross_entropy(
    logits: Float[Array, "B J"],
    label: Int[Array, " B"],
    weight: Float[Array, " B"] | None = None,
) -> Float[Array, ""]:
    """Mean over the batch of -log softmax(logits)[label]; sigma of Eq. 3.

    Args:
      logits, label: of each row.
      weight: of each row; None is 1, as in the paper. The sum is divided by B
        whatever the weights, so that they act on gradients as they stand.
    """
    log_p = jax.nn.log_softmax(logits)
    of_row = -jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]
    return (of_row if weight is None else of_row * weight).mean()


def classification(
    *,
    glb: Float[Array, "B J"],
    pos: Float[Array, "B J"],
    neg: Float[Array, "B J"],
    grade: Int[Array, " B"],
    background: int,
    weight: Float[Array, " B"] | None = None,
    lambda_pos: float = 1.0,
    lambda_neg: float = 1.0,
) -> dict[str, Float[Array, ""]]:
    r"""Eq. (3).

    .. math::
       L_{CLS} = \frac{1}{B} \sum_i
         CE(x^i_{glb}, y^i) + CE(x^i_{pos}, y^i) + CE(x^i_{neg}, c)

    Args:
      glb, pos, neg: logits of the three views, J = K + 1.
      grade: y, 0 … K-1.
      background: c, the index of the background class (K, P5).
      weight: of each row where its grade is the target; None is 1, as in the paper.
      lambda_pos, lambda_neg: weights of the second and third term in the sum; Eq. (3)
        has none.

    Returns:
      The three terms `cls_glb`, `cls_pos`, `cls_neg`, each a mean over B and without
      its lambda, and their sum `cls`.

    Source: Eq. (3).
    """
    terms = {
        "cls_glb": cross_entropy(glb, grade, weight),
        "cls_pos": cross_entropy(pos, grade, weight),
        "cls_neg": cross_entropy(neg, jnp.full_like(grade, background)),
    }
    masked = lambda_pos * terms["cls_pos"] + lambda_neg * terms["cls_neg"]
    return terms | {"cls": terms["cls_glb"] + masked}


def focus_consistency(
    *,
    glb: Float[Array, "B D"],
    pos: Float[Array, "B D"],
    neg: Float[Array, "B D"],
    tau: float,
) -> Float[Array, ""]:
    r"""Eq. (4).

    .. math::
       \phi(a, b) = e^{\cos(a, b) / \tau}, \quad
       L_{FRL} = -\frac{1}{B} \sum_i \log
         \frac{\phi(g, p)}{\phi(g, p) + \phi(g, n) + \phi(p, n)}

    Args:
      glb, pos, neg: features v = g(x) of the three views of one sample.
      tau: temperature, 0.07 in the paper.

    Returns:
      Mean over B. A zero feature has cosine 0 with everything and a zero gradient.

    Source: Eq. (4); P10.
    """
    g, p, n = unit(glb), unit(pos), unit(neg)
    gp, gn, pn = ((a * b).sum(-1) / tau for a, b in ((g, p), (g, n), (p, n)))
    return (jax.nn.logsumexp(jnp.stack([gp, gn, pn]), axis=0) - gp).mean()


def alignment(
    *,
    projections: Float[Array, "N R E"],
    status: Int[Array, "R N"],
    known: Bool[Array, "R N"],
    tau: float,
    normalize_positives: bool,
) -> Float[Array, " N"]:
    r"""Eq. (5).

    .. math::
       L^n_{MCA} = -\frac{1}{B} \sum_i \sum_{j \ne i,\; y^n_i = y^n_j}
         \log \frac{\phi(h_i, h_j)}{\sum_{k \ne i} \phi(h_i, h_k)}

    Args:
      projections: h^n(v) of all rows, the views of the global batch.
      status: y^n of every row.
      known: False takes a row out of subspace n altogether: it is no anchor, no
        positive, and in no denominator (P8).
      tau: temperature, 0.07 in the paper.
      normalize_positives: divides an anchor's sum by the number of its positives,
        as supervised contrastive learning does and Eq. (5) does not (P9).

    Returns:
      L^n_MCA for every biomarker; their sum is L_MCA. The normaliser is the number of
      known rows (P9). An anchor without a positive contributes 0.

    Source: Eq. (5); P8-P10.
    """
    return jax.vmap(
        lambda h, y, k: _alignment_of_one(h, y, k, tau, normalize_positives),
        in_axes=(0, 1, 1),
    )(projections, status, known)


def _alignment_of_one(h, y, known, tau: float, normalize_positives: bool):
    rows = h.shape[0]
    z = unit(h)
    others = ~jnp.eye(rows, dtype=bool) & known[None, :] & known[:, None]
    # HIGHEST: one part in a thousand of a cosine is 1.4 per cent after exp(. / 0.07).
    cosine = jnp.matmul(z, z.T, precision=lax.Precision.HIGHEST)
    similarity = jnp.where(others, cosine / tau, -jnp.inf)
    # A row with no other known row would give -inf - -inf; it has no positive either.
    alone = ~others.any(axis=1)
    log_sum = jax.nn.logsumexp(jnp.where(alone[:, None], 0.0, similarity), axis=1)
    positive = others & (y[:, None] == y[None, :])
    log_omega = jnp.where(positive, similarity - log_sum[:, None], 0.0)
    per_anchor = log_omega.sum(axis=1)
    if normalize_positives:
        per_anchor /= jnp.maximum(positive.sum(axis=1), 1)
    return -per_anchor.sum() / jnp.maximum(known.sum(), 1)


def total(
    *,
    cls: Float[Array, ""],
    frl: Float[Array, ""],
    mca: Float[Array, ""],
    lambda_frl: float,
    lambda_mca: float,
) -> Float[Array, ""]:
    r"""Eq. (6): :math:`L = L_{CLS} + \lambda_1 L_{FRL} + \lambda_2 L_{MCA}`.

    Args:
      cls, frl, mca: Eq. (3), (4) and the sum over n of Eq. (5).
      lambda_frl: lambda_1, 0.2 in the paper.
      lambda_mca: lambda_2, 0.2 in the paper.

    Returns:
      L, a scalar.

    Source: Eq. (6).
    """
    return cls + lambda_frl * frl + lambda_mca * mca


def unit(a: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """Rows over their norm, clamped at 1e-8; a zero row stays 0, gradient too (P10).

    `jnp.linalg.norm` has a NaN gradient at 0, hence the square root is taken of 1
    there and the result chosen afterwards.
    """
    square = (a * a).sum(axis=-1, keepdims=True)
    small = square < NORM_FLOOR**2
    norm = jnp.sqrt(jnp.where(small, 1.0, square))
    return a / jnp.where(small, NORM_FLOOR, norm)

"""CLAT stage 1: the loss of the multimodal teacher with masked inputs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from fof_jax.methods.distill import clat_losses as losses
from fof_jax.methods.distill import clat_network as network
from fof_jax.methods.distill.clat_layers import Tree
from fof_jax.methods.distill.clat_network import Branches


class Encoded(NamedTuple):
    """The image encoders' outputs, [B, E] each.

    Attributes:
      image, masked_image: by the student's encoder.
      ema, ema_masked_image, ema_masked_omic: by the EMA encoder, of the unmasked views
        beside the full inputs, the masked image and the masked omics.
    """

    image: Float[Array, "B E"]
    masked_image: Float[Array, "B E"]
    ema: Float[Array, "B E"]
    ema_masked_image: Float[Array, "B E"]
    ema_masked_omic: Float[Array, "B E"]


class Passes(NamedTuple):
    """The six forward passes of a step, in the order in which statistics move."""

    masked_image: Branches
    masked_omic: Branches
    student: Branches
    ema_masked_image: Branches
    ema_masked_omic: Branches
    ema: Branches


class TeacherStep(NamedTuple):
    """The loss of a step and its intermediate results.

    Attributes:
      total: the scalar.
      terms: its parts, unweighted.
      statistics, ema_statistics: BatchNorm's, after the step.
      passes: outputs.
    """

    total: Float[Array, ""]
    terms: dict[str, jax.Array]
    statistics: Tree
    ema_statistics: Tree
    passes: Passes


def cross_entropy(
    logits: Float[Array, "B K"],
    grade: Int[Array, " B"],
    weight: Float[Array, " B"] | None = None,
) -> Float[Array, ""]:
    """Mean over the batch of -log softmax(logits)[grade].

    Args:
      logits, grade: of each row.
      weight: of each row; None is 1. The sum is divided by B whatever the weights.
    """
    of_row = optax.softmax_cross_entropy_with_integer_labels(logits, grade)
    return (of_row if weight is None else of_row * weight).mean()


def absolute_sum(params: Tree) -> Float[Array, ""]:
    """Sum of |theta| over all parameters of a tree."""
    return sum((jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params)), jnp.zeros(()))


def teacher_step(
    params: Tree,
    ema_params: Tree,
    statistics: Tree,
    ema_statistics: Tree,
    *,
    encoded: Encoded,
    omics: Float[Array, "B M"],
    omic_mask: Bool[Array, "B M"],
    grade: Int[Array, " B"],
    lambda_l1: float,
    l1_constant: float,
    ema_train: bool,
    weight: Float[Array, " B"] | None = None,
    masking: Float[Array, ""] | float = 1.0,
    rate: float = 0.0,
    key: jax.Array | None = None,
) -> TeacherStep:
    r"""The loss of stage 1.

    .. math::
       L = \sum_{f, p, o} CE + \sum_{f, p, o} KL(\bar p \| p) + \lambda |\theta_o|_1
         + KL(\bar p_{v_1} \| p_{x', o}) + KL(\bar p_{v_2} \| p_{x, o'})

    Args:
      params, statistics: of the student's heads and fusion.
      ema_params, ema_statistics: of the moving average's.
      encoded: encoders' outputs of the whole batch; gradients run into the first two.
      omics: standardized.
      omic_mask: True where omics are set to 0 in the pass with masked omics.
      grade: of each row.
      lambda_l1: of the L1 norm of the omics network.
      l1_constant: added to that norm; 9 as published, which counts two constants that
        are not trained (M7).
      ema_train: the EMA network normalizes by the batch and has dropout, as published
        (M4). Otherwise it is in evaluation mode, with the student's statistics.
      weight: of each row's cross-entropies; None is 1.
      masking: 1, or 0 in steps without masking; the last two terms and the first two
        passes' statistics then do not count.
      rate, key: of dropout; no key is no dropout.

    Source: methods/clat_pathgcn.md, CLAT stage 1, "One step, in order".
    """
    keys = [None] * 6 if key is None else list(jax.random.split(key, 6))
    masked = jnp.where(omic_mask, 0, omics)

    def run(tree: Tree, moving: Tree, image: Any, values: Any, train: bool, k: Any):
        return network.multimodal(
            tree, moving, image, values, train=train, rate=rate, key=k
        )

    image_pass, moved = run(
        params, statistics, encoded.masked_image, omics, True, keys[0]
    )
    omic_pass, moved = run(params, moved, encoded.image, masked, True, keys[1])
    statistics = _select(masking, moved, statistics)
    student, statistics = run(params, statistics, encoded.image, omics, True, keys[2])

    if not ema_train:
        keys[3:] = [None] * 3
        ema_statistics = statistics
    moved, ema_passes = ema_statistics, []
    for i, view in enumerate((encoded.ema_masked_image, encoded.ema_masked_omic)):
        ema_pass, moved = run(ema_params, moved, view, omics, ema_train, keys[3 + i])
        ema_passes.append(ema_pass)
    ema_statistics = _select(masking, moved, ema_statistics)
    ema, ema_statistics = run(
        ema_params, ema_statistics, encoded.ema, omics, ema_train, keys[5]
    )
    of_ema = jax.lax.stop_gradient((*ema_passes, ema))
    passes = Passes(image_pass, omic_pass, student, *of_ema)
    terms = _terms(passes, grade, weight)
    terms["l1"] = absolute_sum(params["omic"]) + l1_constant
    total = _total(terms, lambda_l1, masking)
    statistics, ema_statistics = jax.lax.stop_gradient((statistics, ema_statistics))
    return TeacherStep(total, terms, statistics, ema_statistics, passes)


def _total(terms: dict[str, jax.Array], lambda_l1: float, masking: Any) -> jax.Array:
    names = [f"{kind}_{branch}" for kind in ("ce", "kl") for branch in Branches._fields]
    total = sum((terms[name] for name in names), lambda_l1 * terms["l1"])
    return total + masking * (terms["kl_masked_image"] + terms["kl_masked_omic"])


def _select(use: Any, new: Tree, old: Tree) -> Tree:
    return jax.tree.map(lambda a, b: jnp.where(use > 0, a, b), new, old)


def _terms(
    passes: Passes, grade: jax.Array, weight: jax.Array | None
) -> dict[str, jax.Array]:
    terms = {}
    for name in Branches._fields:
        student, ema = (getattr(p, name).logits for p in (passes.student, passes.ema))
        terms[f"ce_{name}"] = cross_entropy(student, grade, weight)
        terms[f"kl_{name}"] = losses.divergence(student=student, teacher=ema).mean()
    for name in ("masked_image", "masked_omic"):
        student = getattr(passes, name).fused.logits
        ema = getattr(passes, f"ema_{name}").fused.logits
        terms[f"kl_{name}"] = losses.divergence(student=student, teacher=ema).mean()
    return terms

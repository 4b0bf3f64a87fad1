"""CLAT stage 2: the loss of the image-only student under two teachers."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from fof_jax.methods.distill import clat_losses as losses
from fof_jax.methods.distill import clat_network as network
from fof_jax.methods.distill.clat_layers import Tree, dense
from fof_jax.methods.distill.clat_losses import Neighbors
from fof_jax.methods.distill.clat_network import Branch
from fof_jax.methods.distill.clat_teacher import cross_entropy

TEACHERS = ("fused", "ema")
TERMS = ("kl_fused", "kl_ema", "crd_fused", "crd_ema")


class Settings(NamedTuple):
    """Constants of the loss; published values in parentheses.

    Attributes:
      alpha: of the two divergences (1).
      beta: of the two contrasts (0.05).
      temperature: of the contrasts (0.07).
      momentum: of the banks (0.5).
      cap: of the query weights above 1 (1).
      threshold: of the gradients' cosines (0.25).
    """

    alpha: float
    beta: float
    temperature: float
    momentum: float
    cap: float
    threshold: float


class Memory(NamedTuple):
    """Banks of one contrast, one row per training region, and its normalizers.

    Attributes:
      student, teacher: embeddings.
      z_student, z_teacher: Z of the student's and the teacher's scores; -1 before the
        first call.
    """

    student: Float[Array, "n E"]
    teacher: Float[Array, "n E"]
    z_student: Float[Array, ""]
    z_teacher: Float[Array, ""]


class Pair(NamedTuple):
    """Neighbors in the student's and in the teacher's bank."""

    student: Neighbors
    teacher: Neighbors


class Contrast(NamedTuple):
    """One contrast: the student against one teacher.

    Attributes:
      sample_loss: with query weights, before beta.
      query: the query weights.
      embed_student, embed_teacher: rows of length 1.
      out_student, out_teacher: scores over Z.
      memory: after the batch.
    """

    sample_loss: Float[Array, " B"]
    query: Float[Array, " B"]
    embed_student: Float[Array, "B E"]
    embed_teacher: Float[Array, "B E"]
    out_student: Float[Array, "B C"]
    out_teacher: Float[Array, "B C"]
    memory: Memory


class StudentStep(NamedTuple):
    """The loss of a step and its intermediate results.

    Attributes:
      total, ce, kd: the scalar; the cross-entropy; the weighted rest.
      terms: alpha KL fused, alpha KL EMA, beta contrast fused, beta contrast EMA.
      gradients: of the terms' sums and of the cross-entropy by the feature.
      weights: of the terms and of the cross-entropy (the last is not used).
      student: output of the student.
      statistics: BatchNorm's, after the step.
      contrasts: by teacher.
    """

    total: Float[Array, ""]
    ce: Float[Array, ""]
    kd: Float[Array, ""]
    terms: Float[Array, "4 B"]
    gradients: Float[Array, "5 B D"]
    weights: Float[Array, "B 5"]
    student: Branch
    statistics: Tree
    contrasts: dict[str, Contrast]


def init_memory(key: jax.Array, *, rows: int, width: int) -> Memory:
    """Banks uniform within sqrt(3 / width), so that a row's mean square length is 1."""
    bound = (3 / width) ** 0.5
    student, teacher = (
        jax.random.uniform(k, (rows, width), minval=-bound, maxval=bound)
        for k in jax.random.split(key)
    )
    return Memory(student, teacher, jnp.float32(-1), jnp.float32(-1))


def nearest(
    memory: Memory, labels: Int[Array, " n"], index: Int[Array, " B"], *, count: int
) -> Pair:
    """Positives of the batch in both banks; see `losses.nearest_of_class`."""
    return Pair(
        *(
            losses.nearest_of_class(bank, labels, index, count=count)
            for bank in (memory.student, memory.teacher)
        )
    )


def contrast(
    embeddings: Tree,
    memory: Memory,
    *,
    student: Branch,
    teacher: Branch,
    neighbors: Pair,
    negatives: Int[Array, "B K"],
    index: Int[Array, " B"],
    grade: Int[Array, " B"],
    settings: Settings,
) -> Contrast:
    """The student's feature against one teacher's, by banks of both.

    Args:
      embeddings: linear layers `student` and `teacher`, both trained.
      memory: banks before the batch.
      student: outputs with gradients.
      teacher: outputs without.
      neighbors: positives in both banks.
      negatives: rows of the banks.
      index: the batch's rows.
      grade: of the batch.
      settings: constants.

    Source: methods/clat_pathgcn.md, CLAT stage 2, steps 3 and 4.
    """
    v_student = losses.unit(dense(student.features, embeddings["student"]))
    v_teacher = losses.unit(dense(teacher.features, embeddings["teacher"]))
    rows = memory.student.shape[0]
    # Each anchor is scored against the other network's bank.
    sides = (
        (v_student, memory.teacher, memory.z_student, neighbors.teacher),
        (v_teacher, memory.student, memory.z_teacher, neighbors.student),
    )
    scores, normalizers, side_losses = [], [], []
    for anchor, bank, z, positives in sides:
        candidates = jnp.concatenate([positives.rows, negatives], axis=1)
        exponentials = losses.candidate_scores(
            anchor, bank, candidates, temperature=settings.temperature
        )
        z = losses.normalizer(exponentials, z, rows=rows)
        scores.append(exponentials / z)
        normalizers.append(z)
        side_losses.append(
            losses.neighbor_contrast(scores[-1], positives.weight, rows=rows)
        )
    query = losses.query_weights(
        student=student.logits, teacher=teacher.logits, grade=grade, cap=settings.cap
    )
    move = functools.partial(losses.moved_bank, index=index, momentum=settings.momentum)
    after = Memory(
        move(memory.student, embedding=v_student),
        move(memory.teacher, embedding=v_teacher),
        *normalizers,
    )
    return Contrast(
        sample_loss=query * (side_losses[0] + side_losses[1]),
        query=query,
        embed_student=v_student,
        embed_teacher=v_teacher,
        out_student=scores[0],
        out_teacher=scores[1],
        memory=lax.stop_gradient(after),
    )


def student_step(
    params: Tree,
    statistics: Tree,
    memories: dict[str, Memory],
    *,
    encoded: Float[Array, "B E"],
    teachers: dict[str, Branch],
    neighbors: dict[str, Pair],
    negatives: Int[Array, "B K"],
    index: Int[Array, " B"],
    grade: Int[Array, " B"],
    settings: Settings,
    weight: Float[Array, " B"] | None = None,
) -> StudentStep:
    r"""The loss of stage 2.

    .. math::
       L = CE + \frac{1}{B} \sum_b \sum_{i=1}^4 w_i^b \ell_i^b, \quad
       w_i^b = |\{ j : \cos(g_i^b, g_j^b) > \theta \}|

    Args:
      params: `head`, and for each of `TEACHERS` the two embeddings of its contrast.
      statistics: of the head's BatchNorm.
      memories, teachers, neighbors: for each of `TEACHERS`.
      encoded: the student's encoder output of the whole batch.
      negatives: rows of the banks, the same for both contrasts.
      index: the batch's rows of the banks.
      grade: of each row.
      settings: constants.
      weight: of each row's cross-entropy; None is 1.

    Source: methods/clat_pathgcn.md, CLAT stage 2, "One step, in order".
    """
    student, statistics = network.image_head(
        params["head"], statistics, encoded, train=True
    )
    teachers = lax.stop_gradient(teachers)

    def terms_of(features: jax.Array, params: Tree):
        """The four terms, [4, B], and the cross-entropy."""
        branch = Branch(features, dense(features, params["head"]["classifier"]))
        terms, contrasts = [], {}
        for name in TEACHERS:
            kl = losses.divergence(student=branch.logits, teacher=teachers[name].logits)
            terms.append(settings.alpha * kl)
        for name in TEACHERS:
            contrasts[name] = contrast(
                params[name],
                memories[name],
                student=branch,
                teacher=teachers[name],
                neighbors=neighbors[name],
                negatives=negatives,
                index=index,
                grade=grade,
                settings=settings,
            )
            terms.append(settings.beta * contrasts[name].sample_loss)
        return jnp.stack(terms), cross_entropy(branch.logits, grade, weight), contrasts

    def sums(features: jax.Array) -> Float[Array, "5"]:
        terms, ce, _ = terms_of(features, lax.stop_gradient(params))
        return jnp.append(terms.sum(1), ce)

    # Through the classifier and the embeddings only: the encoder is not run again.
    gradients = jax.jacrev(sums)(lax.stop_gradient(student.features))
    weights = losses.gradient_weights(gradients, threshold=settings.threshold)
    terms, ce, contrasts = terms_of(student.features, params)
    kd = (weights[:, :4] * terms.T).sum(1).mean()
    statistics = lax.stop_gradient(statistics)
    return StudentStep(
        ce + kd, ce, kd, terms, gradients, weights, student, statistics, contrasts
    )

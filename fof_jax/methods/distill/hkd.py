"""The row "HKD": contrast of embeddings and of neighborhood-averaged embeddings."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from fof_jax.methods.distill import crd, heads, kl, memory, terms
from fof_jax.methods.distill import student as students
from fof_jax.methods.distill.normalize import unit
from fof_jax.types import DatasetInfo, Params, State

NEIGHBORS = 8
SMOOTHING = 0.75


def info_nce(
    *,
    anchor: Float[Array, "B E"],
    positive: Float[Array, "B E"],
    bank: Float[Array, "n E"],
    idx: Int[Array, "B K"],
    tau: float,
) -> Float[Array, " B"]:
    """Cross-entropy of [<positive, anchor>, <negatives, anchor>] / tau, target 0.

    Args:
      anchor: embeddings of norm 1, the only input with a gradient.
      positive: of each anchor.
      bank, idx: the negatives are its rows `idx`.
      tau: temperature.

    Returns:
      the loss of each row; log(K + 1) where all similarities are equal.

    Source: METHODS.md 6.8.
    """
    first = (anchor * lax.stop_gradient(positive)).sum(axis=1, keepdims=True)
    others = memory.similarity(anchor=anchor, bank=bank, idx=idx)
    logits = jnp.concatenate([first, others], axis=1) / tau
    return jax.nn.logsumexp(logits, axis=1) - logits[:, 0]


def individual(
    *,
    student: Float[Array, "B E"],
    teacher: Float[Array, "B E"],
    banks: memory.Banks,
    row: Int[Array, " B"],
    idx: Int[Array, "B K"],
    tau: float,
) -> Float[Array, " B"]:
    """Terms 1 and 2: the positive from the other bank, negatives from the own one.

    Args:
      student, teacher: embeddings of norm 1.
      banks: before the batch.
      row: of each anchor.
      idx: negatives.
      tau: temperature.

    Returns:
      the sum of both terms of each row.

    Source: methods/distillation.md, "Formulas" (HKD); corrections 1.
    """
    first, second = (
        info_nce(
            anchor=anchor,
            positive=memory.look_up(banks[other], row),
            bank=banks[own],
            idx=idx,
            tau=tau,
        )
        for anchor, own, other in (
            (student, "student", "teacher"),
            (teacher, "teacher", "student"),
        )
    )
    return first + second


def neighbors(logits: Float[Array, "B C"]) -> Bool[Array, "B B"]:
    """The 8 nearest rows of each row by the cosine of class probabilities.

    Args:
      logits: without gradient; B >= 8.

    Returns:
      True at [i, j] where i receives from j. Each row is its own neighbor and
      receives from exactly 8.

    Source: METHODS.md 6.8; methods/distillation.md, "Formulas" (HKD).
    """
    p = unit(jax.nn.softmax(lax.stop_gradient(logits)))
    distance = 1 - jnp.matmul(p, p.T, precision=lax.Precision.HIGHEST)
    diagonal = jnp.eye(p.shape[0], dtype=bool)
    nearest = lax.top_k(-jnp.where(diagonal, -1.0, distance), NEIGHBORS)[1]
    return (nearest[:, :, None] == jnp.arange(p.shape[0])[None, None]).any(axis=1)


def graph_embedding(
    params: Params, e: Float[Array, "B E"], adjacent: Bool[Array, "B B"]
) -> Float[Array, "B E"]:
    """One topology-adaptive convolution: unit([e, (1/8) sum of neighbors] W + b).

    Args:
      params: of the layer.
      e: embeddings.
      adjacent: of `neighbors`; all in-degrees are 8.

    Source: methods/distillation.md, "Formulas" (HKD).
    """
    near = jnp.matmul(
        adjacent.astype(e.dtype) / NEIGHBORS, e, precision=lax.Precision.HIGHEST
    )
    return unit(heads.linear(params, jnp.concatenate([e, near], axis=1)))


def graph(
    *,
    student: Float[Array, "B E"],
    teacher: Float[Array, "B E"],
    banks: memory.Banks,
    row: Int[Array, " B"],
    idx: Int[Array, "B K"],
    tau: float,
) -> Float[Array, " B"]:
    """Terms 3 and 4: graph embeddings against smoothed positives of the other net.

    Args:
      student, teacher: graph embeddings g_s, g_t.
      banks, row, idx, tau: see `individual`.

    Returns:
      the sum of both terms of each row.

    Source: methods/distillation.md, "Formulas" (HKD).
    """
    g = {"student": student, "teacher": teacher}

    def smoothed(name: str) -> Float[Array, "B E"]:
        return unit(
            SMOOTHING * memory.look_up(banks[name], row) + (1 - SMOOTHING) * g[name]
        )

    first, second = (
        info_nce(
            anchor=g[own],
            positive=smoothed(other),
            bank=banks[own],
            idx=idx,
            tau=tau,
        )
        for own, other in (("student", "teacher"), ("teacher", "student"))
    )
    return first + second


@dataclasses.dataclass(frozen=True)
class HKD(crd.BankTerm):
    """The four terms with heads, graph layers and banks; negatives of other classes."""

    name: str = "hkd"
    momentum: float = 0.9

    def init(self, key: jax.Array, sizes: terms.Sizes) -> tuple[Params, State]:
        """Heads, one graph layer for each network, and banks without Z."""
        keys = jax.random.split(key, 3)
        params, banks = super().init(keys[0], sizes)
        for side, k in zip(("student", "teacher"), keys[1:], strict=True):
            params[f"graph_{side}"] = heads.initial(
                k, inputs=2 * self.width, outputs=self.width
            )
        return params, {name: banks[name] for name in ("student", "teacher")}

    def sample(self, key: jax.Array, fold: terms.Fold | None) -> Int[Array, "B K"]:
        """K rows of other classes; with replacement where there are fewer."""
        known = crd.known_fold(self.name, fold)
        grade = jnp.take(known.grade, known.row, mode="clip")
        other = grade[:, None] != known.grade[None, :]
        return memory.allowed_rows(key, allowed=other, size=self.negatives)[0]

    def __call__(
        self, params: Params, state: State, inputs: terms.TermInputs
    ) -> tuple[Float[Array, " B"], State]:
        """See `terms.Term`.

        Raises:
          ValueError: fewer than 8 rows in the global batch.
        """
        batch = inputs.student.features.shape[0]
        if batch < NEIGHBORS:
            raise ValueError(
                f"hkd: got a global batch of {batch} rows, expected {NEIGHBORS} or "
                "more: the graph connects each row with its 8 nearest, and without it "
                "the banks never move. Pass --config.batch_size=16."
            )
        if inputs.row is None:
            raise ValueError(
                f"{self.name}: the rows of the training fold are unknown. Give index "
                'and grade as frozen["labels"].'
            )
        student, teacher = self.embed(params, inputs)
        common = {
            "banks": state,
            "row": inputs.row,
            "idx": inputs.sample,
            "tau": self.tau,
        }
        value = individual(student=student, teacher=teacher, **common)
        g_s, g_t = (
            graph_embedding(params[f"graph_{side}"], e, neighbors(output.logits))
            for side, e, output in (
                ("student", student, inputs.student),
                ("teacher", teacher, inputs.teacher),
            )
        )
        value = value + graph(student=g_s, teacher=g_t, **common)
        return value, self.moved(state, inputs.row, (student, teacher))


def build(config: ConfigDict, info: DatasetInfo) -> students.Student:
    """The row of a configuration: CE + alpha KL + beta R.

    Args:
      config: `distill.alpha`, `distill.temperature` and `distill.beta` are read; a
        beta of None is measured.
      info: `classes` is read.

    Source: methods/distillation.md, "Recipes" (HKD).
    """
    return kl.with_terms(config, info, HKD(weight=config.distill.beta))

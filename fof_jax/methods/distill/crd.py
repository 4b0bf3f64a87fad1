"""The row "CRD": contrast between the two networks' embeddings with memory banks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from fof_jax.methods.distill import heads, kl, memory, terms
from fof_jax.methods.distill import student as students
from fof_jax.methods.distill.normalize import unit
from fof_jax.types import DatasetInfo, Params, State

EPSILON = 1e-7


def contrast(
    *, positive: Float[Array, "B P"], negative: Float[Array, "B K"], rows: int
) -> Float[Array, " B"]:
    r"""Noise-contrastive loss of one side.

    .. math::
       -\frac{1}{P} \sum_p \log \frac{x_p}{x_p + c} -
       \sum_k \log \frac{K / n}{x_k + c}, \quad c = K / n + 10^{-7}

    Args:
      positive, negative: x = exp(similarity / tau) / Z.
      rows: n, size of the training fold.

    Returns:
      the loss of each anchor.

    Source: METHODS.md 6.6; methods/distillation.md, "Formulas" (CRD, DC).
    """
    noise = negative.shape[1] / rows
    c = noise + EPSILON
    hit = jnp.log(positive / (positive + c)).mean(axis=1)
    miss = jnp.log(noise / (negative + c)).sum(axis=1)
    return -hit - miss


def contrastive(
    *,
    student: Float[Array, "B E"],
    teacher: Float[Array, "B E"],
    banks: memory.Banks,
    idx: Int[Array, "B K1"],
    tau: float,
) -> tuple[Float[Array, " B"], Float[Array, " 2"]]:
    r"""Both sides: the student's anchors against M_t, the teacher's against M_s.

    Args:
      student, teacher: embeddings e_s, e_t of norm 1.
      banks: before the batch.
      idx: rows of the bank, the anchor's own first, then K negatives.
      tau: temperature, 0.07.

    Returns:
      the loss of each row, and Z after this call.

    Source: METHODS.md 6.6; methods/distillation.md, "Formulas" (CRD).
    """
    rows = banks["student"].shape[0]
    loss, z = [], []
    for side, (anchor, bank) in enumerate(
        ((student, banks["teacher"]), (teacher, banks["student"]))
    ):
        scores = jnp.exp(memory.similarity(anchor=anchor, bank=bank, idx=idx) / tau)
        z.append(memory.normalizer(unset=banks["Z"][side], scores=scores, rows=rows))
        x = scores / z[side]
        loss.append(contrast(positive=x[:, :1], negative=x[:, 1:], rows=rows))
    return loss[0] + loss[1], jnp.stack(z)


@dataclasses.dataclass(frozen=True)
class BankTerm(terms.Term):
    """Linear heads for both networks, of norm 1, and a bank for each.

    Attributes:
      width: E, of the heads.
      tau: temperature.
      momentum: of the banks.
      negatives: K.
    """

    name: str = "crd"
    weight: float | None = None
    source: terms.Source = "fixed"
    width: int = 128
    tau: float = 0.07
    momentum: float = 0.5
    negatives: int = 1024

    def init(self, key: jax.Array, sizes: terms.Sizes) -> tuple[Params, State]:
        """Heads and random banks.

        Raises:
          ValueError: the size of the training fold is unknown or below 2.
        """
        if sizes.rows is None or sizes.rows < 2:
            raise ValueError(
                f"{self.name}: the training fold has {sizes.rows} rows, expected 2 or "
                'more. Give its index and grade as frozen["labels"].'
            )
        keys = jax.random.split(key, 3)
        sides = zip(("student", "teacher"), keys[:2], sizes[:2], strict=True)
        params = {
            side: heads.initial(k, inputs=size, outputs=self.width)
            for side, k, size in sides
        }
        return params, memory.initial(keys[2], rows=sizes.rows, width=self.width)

    def embed(
        self, params: Params, inputs: terms.TermInputs
    ) -> tuple[Float[Array, "B E"], Float[Array, "B E"]]:
        """Embeddings of norm 1; the teacher's head is trained, its feature is not."""
        teacher = lax.stop_gradient(inputs.teacher.features)
        return (
            _embedding(params["student"], inputs.student.features),
            _embedding(params["teacher"], teacher),
        )

    def moved(
        self, state: State, row: Int[Array, " B"], embeddings: tuple[Any, Any]
    ) -> State:
        """Both banks after the batch."""
        names = ("student", "teacher")
        return state | {
            name: memory.moved(
                bank=state[name], row=row, anchor=e, momentum=self.momentum
            )
            for name, e in zip(names, embeddings, strict=True)
        }


@dataclasses.dataclass(frozen=True)
class CRD(BankTerm):
    """Exact positive, K negatives among all other rows, drawn with replacement.

    Attributes:
      ramp_epochs: where not None the value is multiplied by epoch / ramp_epochs,
        epochs from 1, as the published code does.
    """

    ramp_epochs: int | None = None

    def sample(self, key: jax.Array, fold: terms.Fold | None) -> Int[Array, "B K1"]:
        """The anchors' own rows and K others each."""
        rows = known_fold(self.name, fold)
        others = memory.other_rows(
            key, row=rows.row, rows=rows.grade.shape[0], size=self.negatives
        )
        return jnp.concatenate([rows.row[:, None], others], axis=1)

    def __call__(
        self, params: Params, state: State, inputs: terms.TermInputs
    ) -> tuple[Float[Array, " B"], State]:
        """See `terms.Term`; banks move after they have been read."""
        student, teacher = self.embed(params, inputs)
        value, z = contrastive(
            student=student,
            teacher=teacher,
            banks=state,
            idx=inputs.sample,
            tau=self.tau,
        )
        if self.ramp_epochs is not None:
            value = value * (inputs.epoch + 1) / self.ramp_epochs
        state = self.moved(state, inputs.sample[:, 0], (student, teacher))
        return value, state | {"Z": z}


def _embedding(params: Params, feature: Float[Array, "B D"]) -> Float[Array, "B E"]:
    return unit(heads.linear(params, feature))


def known_fold(name: str, fold: terms.Fold | None) -> terms.Fold:
    """The fold of a term with banks.

    Raises:
      ValueError: its labels are missing.
    """
    if fold is None:
        raise ValueError(
            f"{name}: the labels of the training fold are missing, expected index "
            'and grade as frozen["labels"].'
        )
    return fold


def build(config: ConfigDict, info: DatasetInfo) -> students.Student:
    """The row of a configuration: CE + alpha KL + beta R.

    Args:
      config: `distill.alpha`, `distill.temperature`, `distill.beta` (None is
        measured, 0.02 as published) and `distill.ramp_epochs` are read.
      info: `classes` is read.

    Source: methods/distillation.md, "Recipes" (CRD).
    """
    return kl.with_terms(
        config,
        info,
        CRD(weight=config.distill.beta, ramp_epochs=config.distill.ramp_epochs),
    )

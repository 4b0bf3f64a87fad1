"""Terms of a student's loss: what each receives, and terms without memory."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fof_jax.methods.distill import memory
from fof_jax.types import Params, State

Source = Literal["fixed", "ema"]


class Side(NamedTuple):
    """Features and logits of one network on the global batch."""

    features: Float[Array, "B D"]
    logits: Float[Array, "B K"]


class Sizes(NamedTuple):
    """Widths of the two features, and the number of rows of the training fold."""

    student: int
    teacher: int
    rows: int | None


class Fold(NamedTuple):
    """Rows of the training fold: their grades, and which of them a batch has."""

    grade: Int[Array, " n"]
    row: Int[Array, " B"]


class TermInputs(NamedTuple):
    """What a term reads.

    Attributes:
      student, teacher: of the global batch.
      sample: of the term's own `sample`.
      row: rows of the training fold that the batch has; None without labels.
      epoch: from 0.
    """

    student: Side
    teacher: Side
    sample: Any
    row: Int[Array, " B"] | None
    epoch: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Term:
    """One distillation term: heads, memory, and a value of each row or of the batch.

    Attributes:
      name: key of its heads, its state and its metric.
      weight: alpha or beta; None is measured over the first batches.
      source: which teacher it compares with, the frozen one or the student's moving
        average.
    """

    name: str
    weight: float | None
    source: Source

    def init(self, key: jax.Array, sizes: Sizes) -> tuple[Params, State]:
        """Heads and memory."""
        del key, sizes
        return {}, {}

    def sample(self, key: jax.Array, fold: Fold | None) -> Any:
        """What is drawn at random for one batch; replays put recorded draws here."""
        del key, fold
        return None

    def __call__(
        self, params: Params, state: State, inputs: TermInputs
    ) -> tuple[Float[Array, ""] | Float[Array, " B"], State]:
        """The unweighted value, of the batch or of each row, and the new memory."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairwise(Term):
    """A function of both networks' outputs, without heads and memory.

    Attributes:
      of: student and teacher to a scalar or one value of each row.
    """

    of: Callable[[Side, Side], Any]
    source: Source = "fixed"

    def __call__(
        self, params: Params, state: State, inputs: TermInputs
    ) -> tuple[Float[Array, ""] | Float[Array, " B"], State]:
        """See `Term`."""
        del params
        return jnp.asarray(self.of(inputs.student, inputs.teacher)), state


def inputs_of(
    terms: Sequence[Term],
    sides: dict[str, Side],
    labels: dict[str, Any] | None,
    index: Int[Array, " B"],
    epoch: Int[Array, " B"],
    key: jax.Array,
) -> list[Callable[..., TermInputs]]:
    """What each term reads, called with `student=`; draws the random samples.

    Args:
      terms: of the loss.
      sides: the teachers' by source.
      labels: `index` and `grade` of the training fold; None where no term reads them.
      index, epoch: of the global batch.
      key: of the samples.
    """
    fold = None
    if labels is not None:
        row = memory.rows_of(index, jnp.asarray(labels["index"]))
        fold = Fold(grade=jnp.asarray(labels["grade"]), row=row)
    return [
        functools.partial(
            TermInputs,
            teacher=sides[term.source],
            sample=term.sample(k, fold),
            row=None if fold is None else fold.row,
            epoch=epoch.max(),
        )
        for term, k in zip(terms, jax.random.split(key, len(terms)), strict=True)
    ]

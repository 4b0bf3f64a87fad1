"""Terms of a student's loss: what each receives, and terms without memory."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
      needs_labels: whether `frozen["labels"]` is read.
    """

    name: str
    weight: float | None
    source: Source
    needs_labels = False

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

"""Outputs of a student's two teachers on the global batch, without gradient."""

from typing import Any, Protocol, runtime_checkable

import jax
from jax import lax

from fof_jax.methods.distill import ema, terms
from fof_jax.methods.distill.student_network import StudentNetwork
from fof_jax.models.device_rows import device_rows
from fof_jax.types import Batch, Output, Params, State, StepContext, Variables


@runtime_checkable
class Teacher(Protocol):
    """What a student needs of a method to learn from it."""

    inputs: Any

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Outputs in evaluation mode."""


@runtime_checkable
class TrainingTeacher(Protocol):
    """A teacher that can also run in training mode, such as `dgkd.DGKD`."""

    def apply_train(
        self, variables: Variables, batch: Batch, gather: Any, key: jax.Array
    ) -> tuple[Output, State]:
        """Outputs of the global batch in training mode, and the state after them."""


def fixed(
    teacher: Teacher, variables: Variables, batch: Batch, ctx: StepContext
) -> terms.Side:
    """The frozen teacher in evaluation mode.

    Args:
      teacher: a method.
      variables: its own.
      batch: this device's rows.
      ctx: its gather collects the rows of all devices.

    Source: methods/distillation.md, "Recipes" (teacher).
    """
    out = jax.tree.map(ctx.gather, teacher.apply(variables, batch))
    return lax.stop_gradient(terms.Side(out.features, out.logits))


def drifting(
    teacher: TrainingTeacher,
    variables: Variables,
    batch: Batch,
    ctx: StepContext,
    key: jax.Array,
) -> tuple[terms.Side, State]:
    """The frozen teacher in training mode: dropout, batch statistics, moving buffers.

    Args:
      teacher: has `apply_train`.
      variables: its own, with the state so far.
      batch: this device's rows.
      ctx: its gather collects the rows of all devices.
      key: of the dropout.

    Source: methods/distillation.md, "Quirks" (teacher in train mode).
    """
    out, state = teacher.apply_train(variables, batch, ctx.gather, key)
    return lax.stop_gradient((terms.Side(out.features, out.logits), state))


def averaged(
    network: StudentNetwork,
    average: State,
    current: Params | None,
    batch: Batch,
    ctx: StepContext,
    key: jax.Array,
) -> tuple[terms.Side, State]:
    """The student's moving average on the second view, in training mode.

    Args:
      network: of the student.
      average: `params` and `batch_stats`.
      current: parameters that teach at step 0, because pretrained weights reach them
        after initialization; None keeps the average's own draw.
      batch: this device's rows.
      ctx: step, and gather of the rows of all devices.
      key: of the dropout.

    Returns:
      the outputs, and the average with moved statistics.

    Raises:
      ValueError: the batch has no second view.

    Source: METHODS.md 5.7 (stage 2); methods/distillation_corrections.md 12.
    """
    if batch.second_view is None:
        raise ValueError(
            "distill: the batch has no second view, expected a second crop of each "
            'image for the student\'s moving average. Load it with second_view "crop".'
        )
    params = average["params"]
    if current is not None:
        params = ema.teaching(params, current, ctx.step)
    with device_rows(ctx.gather, batch.index):
        features, statistics = network.encode(
            params, average["batch_stats"], batch.second_view, key
        )
    features = ctx.gather(features)
    side = terms.Side(features, network.logits(params, features))
    return lax.stop_gradient((side, average | {"batch_stats": statistics}))

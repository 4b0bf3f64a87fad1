"""CLAT's second stage as a method: an image-only student of two teachers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from fof_jax.methods.base import Inputs
from fof_jax.methods.distill import clat_layers as layers
from fof_jax.methods.distill import clat_losses as losses
from fof_jax.methods.distill import clat_network as network
from fof_jax.methods.distill import clat_student, ema
from fof_jax.methods.distill.clat_inputs import encode, init_encoder
from fof_jax.methods.distill.clat_multimodal import MultimodalTeacher
from fof_jax.methods.distill.clat_network import Branch
from fof_jax.methods.distill.clat_student import TEACHERS, Settings
from fof_jax.models.device_rows import DeviceRows
from fof_jax.types import (
    Batch,
    LossOutput,
    Output,
    State,
    StepContext,
    Variables,
)

# Negatives per row of the fold, and at most as many as published.
NEGATIVES_PER_ROW, MOST_NEGATIVES = 4, 4096


@dataclasses.dataclass(frozen=True)
class CLAT:
    """Image encoder, linear layer with BatchNorm and classifier under two teachers.

    Attributes:
      encoder: called as `encoder(image, train=...)`, gives [B, E].
      classes: K.
      teacher: of stage 1; its variables come in as `frozen["teacher"]`.
      settings: constants of the loss.
      width: of the student's feature, on which both teachers act.
      embedding: width of the banks.
      positives: neighbors of a row in each bank, itself included.
      ema_decay: of the student's moving average.
      as_published: teacher and moving average are in training mode (S1), and the
        average starts from a second initialization (S4).
    """

    encoder: nn.Module
    classes: int
    teacher: MultimodalTeacher
    settings: Settings
    width: int = 128
    embedding: int = 128
    positives: int = 6
    ema_decay: float = 0.99
    as_published: bool = False

    @property
    def inputs(self) -> Inputs:
        """Image, omics for the teacher and a second crop; the image alone in tests."""
        return Inputs(("image", "omics"), ("image",), "crop")

    @property
    def num_classes(self) -> int:
        """K."""
        return self.classes

    def init(self, key: jax.Array, batch: Batch, frozen: Any) -> Variables:
        """Random parameters and banks.

        Args:
          frozen: `teacher`, variables of stage 1; `labels` with `index`, ascending
            positions in the store, and `grade` of the training fold.

        Raises:
          ValueError: the teacher or the labels are missing, or the fold has fewer rows
            than positives.
        """
        missing = [name for name in ("teacher", "labels") if name not in (frozen or {})]
        if missing:
            raise ValueError(
                f"clat: {' and '.join(missing)} missing, expected from the stage "
                "before and from the fold. Train it with "
                "--config.stages=teacher,student."
            )
        rows = len(frozen["labels"]["index"])
        if rows < max(self.positives, 2):
            raise ValueError(
                f"clat: {rows} regions in the training fold, expected "
                f"{max(self.positives, 2)} or more. Pass fewer positives."
            )

        def copy(key: jax.Array) -> dict[str, Any]:
            encoder_key, head_key = jax.random.split(key)
            params, statistics, width = init_encoder(self.encoder, encoder_key, batch)
            head, moving = network.init_image_head(
                head_key, encoded=width, width=self.width, classes=self.classes
            )
            return {
                "params": {"encoder": params, "head": head},
                "batch_stats": {"encoder": statistics, "head": moving},
            }

        keys = jax.random.split(key, 2 + 2 * len(TEACHERS))
        first, second = copy(keys[0]), copy(keys[1])
        params, memories = dict(first["params"]), {}
        widths = {"fused": self.teacher.width, "ema": self.width}
        for name, pair in zip(TEACHERS, keys[2:].reshape(2, 2), strict=True):
            student_key, teacher_key = jax.random.split(pair[0])
            params[name] = {
                "student": layers.init_linear(student_key, self.width, self.embedding),
                "teacher": layers.init_linear(
                    teacher_key, widths[name], self.embedding
                ),
            }
            memories[name] = clat_student.init_memory(
                pair[1], rows=rows, width=self.embedding
            )
        state = {
            "batch_stats": first["batch_stats"],
            "average": second if self.as_published else first,
            "memories": memories,
        }
        if self.as_published:
            state["teacher"] = frozen["teacher"].state
        return Variables(params=params, state=state, frozen=frozen)

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """The loss of stage 2; see `clat_student.student_step`.

        Args:
          batch: this device's rows with omics and a second view.

        Raises:
          ValueError: omics or the second view are missing.
        """
        params, state = variables.params, variables.state
        keys = jax.random.split(ctx.key, 4)
        moving = dict(state["batch_stats"])
        encoded, moving["encoder"] = encode(
            self.encoder,
            params["encoder"],
            moving["encoder"],
            batch.image,
            train=True,
            key=keys[0],
            rows=DeviceRows(ctx.gather, batch.index),
        )
        fused, state = self._teacher(variables, batch, ctx, keys[1])
        taught, average = self._average(variables, batch, ctx, keys[2])
        index, grade, weight = jax.tree.map(
            ctx.gather, (batch.index, batch.grade, batch.weight)
        )
        labels = jax.tree.map(jnp.asarray, variables.frozen["labels"])
        row = jnp.searchsorted(labels["index"], index)
        rows = len(labels["index"])
        out = clat_student.student_step(
            params,
            moving["head"],
            state["memories"],
            encoded=ctx.gather(encoded),
            teachers={"fused": fused, "ema": taught},
            neighbors={
                name: clat_student.nearest(
                    memory, labels["grade"], row, count=self.positives
                )
                for name, memory in state["memories"].items()
            },
            negatives=losses.sample_negatives(
                keys[3],
                labels["grade"],
                row,
                count=min(MOST_NEGATIVES, NEGATIVES_PER_ROW * rows),
            ),
            index=row,
            grade=grade,
            settings=self.settings,
            weight=weight,
        )
        moving = lax.stop_gradient(moving | {"head": out.statistics})
        memories = {name: c.memory for name, c in out.contrasts.items()}
        state = state | {
            "batch_stats": moving,
            "average": lax.stop_gradient(average),
            "memories": memories,
        }
        metrics = {"total": out.total, "ce": out.ce, "kd": out.kd}
        for i, name in enumerate(clat_student.TERMS):
            metrics |= {
                name: out.terms[i].mean(),
                f"weight_{name}": out.weights[:, i].mean(),
            }
        return out.total, LossOutput(metrics, state)

    def update_state(self, variables: Variables, step: Int[Array, ""]) -> State:
        """The state with the moving average of the student after a step."""
        average = variables.state["average"]
        params = ema.averaged(
            average["params"], self._student(variables), step, decay=self.ema_decay
        )
        return variables.state | {"average": average | {"params": params}}

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Feature and logits in evaluation; the image alone is read."""
        copy = {
            "params": self._student(variables),
            "batch_stats": variables.state["batch_stats"],
        }
        rows = DeviceRows(lambda rows: rows)
        branch, _ = self._forward(copy, batch.image, rows, train=False)
        return Output(*branch)

    def _student(self, variables: Variables) -> dict[str, Any]:
        return {name: variables.params[name] for name in ("encoder", "head")}

    def _forward(
        self,
        copy: dict[str, Any],
        image: Any,
        rows: DeviceRows,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[Branch, State]:
        """Student or average on the global batch, and its batch statistics."""
        params, moving = copy["params"], copy["batch_stats"]
        encoded, encoder = encode(
            self.encoder,
            params["encoder"],
            moving["encoder"],
            image,
            train=train,
            key=key,
            rows=rows,
        )
        branch, head = network.image_head(
            params["head"], moving["head"], rows.gather(encoded), train=train
        )
        return branch, {"encoder": encoder, "head": head}

    def _average(
        self, variables: Variables, batch: Batch, ctx: StepContext, key: jax.Array
    ) -> tuple[Branch, dict[str, Any]]:
        """The moving average's output on the second view, and itself after it."""
        view = ema.second_view(batch, "clat")
        average, copy = variables.state["average"], variables.state["average"]
        if not self.as_published:
            params = ema.teaching(average["params"], self._student(variables), ctx.step)
            copy = {"params": params, "batch_stats": variables.state["batch_stats"]}
        branch, moved = self._forward(
            lax.stop_gradient(copy),
            view,
            DeviceRows(ctx.gather, batch.index),
            train=self.as_published,
            key=key,
        )
        if self.as_published:
            average = average | {"batch_stats": moved}
        return branch, average

    def _teacher(
        self, variables: Variables, batch: Batch, ctx: StepContext, key: jax.Array
    ) -> tuple[Branch, State]:
        """The fixed teacher's fused branch of the global batch, and the state."""
        frozen, state = variables.frozen["teacher"], variables.state
        if self.as_published:
            frozen = frozen.replace(state=state["teacher"])
            out, moved = self.teacher.apply_train(frozen, batch, ctx, key)
            state = state | {"teacher": lax.stop_gradient(moved)}
            return Branch(out.features, out.logits), state
        out = self.teacher.apply(frozen, batch)
        return Branch(ctx.gather(out.features), ctx.gather(out.logits)), state

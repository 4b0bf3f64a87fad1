"""The method of every image-only student: cross-entropy and weighted terms.

A term compares the student's pooled feature or logits with those of a frozen
multimodal teacher, or of a moving average of the student itself. Heads and memory banks
are dropped at test: the tested network is that of the Baseline.
"""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from fof_jax.methods.base import Inputs
from fof_jax.methods.classification import cross_entropy
from fof_jax.methods.distill import ema, teaching, weighting
from fof_jax.methods.distill.student_network import StudentNetwork
from fof_jax.methods.distill.terms import Side, Sizes, Term, inputs_of
from fof_jax.models.device_rows import device_rows
from fof_jax.types import (
    Batch,
    LossOutput,
    Output,
    Params,
    State,
    StepContext,
    Variables,
)


@dataclasses.dataclass(frozen=True)
class Student:
    """CE + sum of w_i L_i over the terms, w by a rule.

    Attributes:
      encoder: of the image; see `StudentNetwork`.
      num_classes: K.
      teacher: gives features and logits of a batch; `frozen["teacher"]` has its
        variables.
      terms: the distillation terms; the first with weight is the divergence of logits
        by which a weight of None is measured.
      rule: how terms are combined. "sum" takes them as weighted; the others are
        `combine`'s and look at gradients of the weighted terms.
      factor: of the masks of "agrees_batch" and "agrees_sample".
      threshold, momentum: of "running_counts".
      ema_decay: of the student's moving average, where a term compares with it.
      independent_average: whether the average starts from a second draw and teaches at
        step 0 before it was ever a copy, as published.
      teacher_trains: whether the teacher runs in training mode, with dropout, batch
        statistics and drifting buffers, as published.
    """

    encoder: nn.Module
    num_classes: int
    teacher: teaching.Teacher
    terms: tuple[Term, ...]
    rule: weighting.Rule = "sum"
    factor: float = 1.0
    threshold: float = 0.1
    momentum: float = 0.5
    ema_decay: float = 0.99
    independent_average: bool = False
    teacher_trains: bool = False

    @property
    def network(self) -> StudentNetwork:
        """The tested network."""
        return StudentNetwork(encoder=self.encoder, num_classes=self.num_classes)

    @property
    def untrained(self) -> tuple[tuple[str, ...], ...]:
        """Subtrees of the parameters that take no step: a frozen trunk."""
        return self.network.untrained

    @property
    def inputs(self) -> Inputs:
        """What the teacher reads in training, the image alone in prediction."""
        train = tuple(dict.fromkeys(("image", *self.teacher.inputs.test)))
        return Inputs(train, ("image",), "crop" if self._averages else None)

    def init(self, key: jax.Array, batch: Batch, frozen: Any) -> Variables:
        """Random parameters and banks.

        Args:
          batch: its shapes are read, and what the teacher needs.
          frozen: `teacher`, its variables; `labels` with `index` (ascending) and
            `grade` of the training fold, where a term has memory banks.

        Returns:
          parameters `encoder`, `classifier` and `heads`; state of the terms, of the
          measured weight, of the moving average and of the rule.

        Raises:
          ValueError: the teacher or labels are missing.
        """
        if not frozen or "teacher" not in frozen:
            raise ValueError(
                "distill: the teacher's weights are missing, expected "
                'frozen["teacher"] from an earlier stage. Train it first: '
                "--config.stages=teacher,student."
            )
        image = jnp.zeros((1, *batch.image.shape[1:]), jnp.float32)
        keys = jax.random.split(key, 2 + len(self.terms))
        collections = self.network.init(keys[0], image)
        params = dict(collections["params"])
        statistics = dict(collections.get("batch_stats", {}))
        taught = jax.eval_shape(self.teacher.apply, frozen["teacher"], batch)
        width = params["classifier"]["kernel"].shape[0]
        rows = len(frozen["labels"]["index"]) if "labels" in frozen else None
        heads, memories = {}, {}
        for term, k in zip(self.terms, keys[2:], strict=True):
            other = taught.features.shape[1] if term.source == "fixed" else width
            sizes = Sizes(student=width, teacher=other, rows=rows)
            heads[term.name], memories[term.name] = term.init(k, sizes)
        state: dict[str, Any] = {"batch_stats": statistics, "terms": memories}
        if self._measured is not None:
            state["measured"] = weighting.unmeasured()
        if self._averages:
            average = {"params": params, "batch_stats": statistics}
            if self.independent_average:
                average = dict(self.network.init(keys[1], image))
            state["average"] = {"batch_stats": {}, **average}
        if self.rule == "running_counts":
            state["counts"] = jnp.zeros((len(self.terms) + 1,))
        if self.teacher_trains:
            state["teacher"] = frozen["teacher"].state
        return Variables(params=params | {"heads": heads}, state=state, frozen=frozen)

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Cross-entropy and the weighted terms of the global batch.

        Args:
          batch: this device's rows, with what the teacher reads, and a second view
            where a term compares with the moving average.

        Returns:
          the loss; metrics `total`, `ce`, each term unweighted by its name and its
          factor as `weight_NAME`; the new state.

        Raises:
          ValueError: a second view is missing, or a term refuses the batch.
        """
        params, state, frozen = variables.params, variables.state, variables.frozen
        student_key, teacher_key, sample_key = jax.random.split(ctx.key, 3)
        with device_rows(ctx.gather, batch.index):
            features, statistics = self.network.encode(
                params, state["batch_stats"], batch.image, student_key
            )
        features = ctx.gather(features)
        sides, state = self._teachers(
            variables, state | {"batch_stats": statistics}, batch, ctx, teacher_key
        )
        index, grade, epoch, weight = jax.tree.map(
            ctx.gather, (batch.index, batch.grade, batch.epoch, batch.weight)
        )
        inputs = inputs_of(
            self.terms, sides, frozen.get("labels"), index, epoch, sample_key
        )

        def evaluate(
            params: Params, features: jax.Array
        ) -> tuple[list[jax.Array], jax.Array, State]:
            logits = self.network.logits(params, features)
            values, memories = [], {}
            for term, partial in zip(self.terms, inputs, strict=True):
                value, memories[term.name] = term(
                    params["heads"][term.name],
                    state["terms"][term.name],
                    partial(student=Side(features, logits)),
                )
                values.append(value)
            ce = cross_entropy(logits=logits, grade=grade, weight=weight)
            return values, ce, memories

        values, ce, memories = evaluate(params, features)
        betas, state = self._betas(state, values)

        def gradients() -> Float[Array, "N B D"]:
            def stacked(features: jax.Array) -> Float[Array, " N"]:
                values, ce, _ = evaluate(lax.stop_gradient(params), features)
                scaled = [b * v.mean() for b, v in zip(betas, values, strict=True)]
                return jnp.stack([*scaled, ce])

            # One pass through the heads, with all terms at once.
            return jax.jacrev(stacked)(lax.stop_gradient(features))

        distilled, weights, counts = weighting.combined(
            [beta * value for beta, value in zip(betas, values, strict=True)],
            rule=self.rule,
            gradients=gradients,
            counts=state.get("counts"),
            factor=self.factor,
            threshold=self.threshold,
            momentum=self.momentum,
        )
        if counts is not None:
            state = state | {"counts": counts}
        total = ce + distilled
        metrics = {"total": total, "ce": ce}
        for i, term in enumerate(self.terms):
            metrics[term.name] = values[i].mean()
            metrics[f"weight_{term.name}"] = betas[i] * weights[i]
        return total, LossOutput(metrics=metrics, state=state | {"terms": memories})

    def update_state(self, variables: Variables, step: Int[Array, ""]) -> State:
        """The state with the moving average of the student after a step."""
        state = variables.state
        if not self._averages:
            return state
        old = state["average"]
        new = self.network.parameters(variables.params)
        params = ema.averaged(old["params"], new, step, decay=self.ema_decay)
        return state | {"average": old | {"params": params}}

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Pooled feature and logits in evaluation; the image alone is read."""
        params = variables.params
        # Read from a file an empty tree is not there.
        statistics = variables.state.get("batch_stats", {})
        features, _ = self.network.encode(params, statistics, batch.image, None)
        return Output(features, self.network.logits(params, features))

    @property
    def _averages(self) -> bool:
        return any(term.source == "ema" for term in self.terms)

    @property
    def _measured(self) -> int | None:
        unweighted = [i for i, term in enumerate(self.terms) if term.weight is None]
        if len(unweighted) > 1 or 0 in unweighted:
            raise ValueError(
                f"distill: terms {unweighted} have no weight, expected at most one, "
                "after the divergence of logits by which it is measured. Set "
                "--config.distill.beta."
            )
        return unweighted[0] if unweighted else None

    def _betas(self, state: State, values: list[jax.Array]) -> tuple[list[Any], State]:
        """alpha and beta of each term; the measured one from the state."""
        betas: list[Any] = [term.weight for term in self.terms]
        if self._measured is None:
            return betas, state
        betas[self._measured], sums = weighting.measured(
            state["measured"],
            divergence=values[0].mean(),
            term=values[self._measured].mean(),
        )
        return betas, state | {"measured": sums}

    def _teachers(
        self,
        variables: Variables,
        state: State,
        batch: Batch,
        ctx: StepContext,
        key: jax.Array,
    ) -> tuple[dict[str, Side], State]:
        """Outputs of both teachers, and the state after them."""
        fixed_key, average_key = jax.random.split(key)
        frozen, sides = variables.frozen["teacher"], {}
        if self.teacher_trains:
            frozen = frozen.replace(state=state["teacher"])
            teacher = cast(teaching.TrainingTeacher, self.teacher)
            sides["fixed"], after = teaching.drifting(
                teacher, frozen, batch, ctx, fixed_key
            )
            state = state | {"teacher": after}
        else:
            sides["fixed"] = teaching.fixed(self.teacher, frozen, batch, ctx)
        if self._averages:
            current = self.network.parameters(variables.params)
            current = None if self.independent_average else current
            sides["ema"], average = teaching.averaged(
                self.network, state["average"], current, batch, ctx, average_key
            )
            state = state | {"average": average}
        return sides, state

"""DC, the contrast of the DGKD student: positives of one class, chosen by rank.

Candidates of each anchor are P rows of its class, its own first, and K rows of other
classes. The difference of the two networks' relations to a candidate ranks them.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fof_jax.methods.distill import crd, memory, terms
from fof_jax.methods.distill.normalize import unit
from fof_jax.types import Params, State

MID_RANKS = (30, 100)  # of "mid", as published: 30 … 99


def relation_difference(
    *,
    student: Float[Array, "B E"],
    teacher: Float[Array, "B E"],
    banks: memory.Banks,
    idx: Int[Array, "B P"],
    swapped: bool,
) -> Float[Array, "B P"]:
    """cos(M_t[idx], e_t) - cos(M_s[idx], e_s), without gradient.

    Args:
      student, teacher: embeddings of norm 1.
      banks: before the batch.
      idx: candidates.
      swapped: the negative of it, as the published code of DGKD computes.

    Source: methods/distillation.md, "Formulas" (DC).
    """
    s, t = (
        memory.similarity(anchor=lax.stop_gradient(e), bank=unit(banks[name]), idx=idx)
        for name, e in (("student", student), ("teacher", teacher))
    )
    return s - t if swapped else t - s


def positions_of_positives(
    *,
    difference: Float[Array, "B P"],
    ranks: Int[Array, " P2"],
    fresh: Bool[Array, "B P"] | None = None,
) -> Int[Array, "B P2"]:
    """Positions of the positives among the candidates; the first is the anchor's own.

    Args:
      difference: of `relation_difference`, ranked falling.
      ranks: taken ranks, one set for the whole batch.
      fresh: False where a candidate repeats an earlier one because the class has fewer
        rows than P. Repeats rank last, and ranks wrap around at the number of others,
        so that P acts as min(P, class size). None is all True.

    Source: methods/distillation.md, "Formulas" (DC) and "Recipes" (P = 300).
    """
    if fresh is None:
        fresh = jnp.ones(difference.shape, bool)
    order = jnp.argsort(jnp.where(fresh, -difference, jnp.inf), axis=1, stable=True)
    taken = ranks[None, :] % jnp.maximum(fresh.sum(axis=1, keepdims=True), 1)
    chosen = jnp.take_along_axis(order, taken, axis=1)
    return chosen.at[:, 0].set(0)


def discrepancy(
    *,
    student: Float[Array, "B E"],
    teacher: Float[Array, "B E"],
    banks: memory.Banks,
    positive: Int[Array, "B P2"],
    negative: Int[Array, "B K2"],
    tau: float,
) -> tuple[Float[Array, " B"], Float[Array, " 2"]]:
    """The contrast of both sides over the chosen rows.

    Args:
      student, teacher: embeddings of norm 1.
      banks: before the batch.
      positive, negative: rows of the bank.
      tau: temperature.

    Returns:
      the loss of each row, and Z after this call, over the chosen rows. For B = 1 the
      published scalar form weights the positives P2-fold; this is the form per row.

    Source: METHODS.md 5.7; methods/distillation.md, "Formulas" (DC).
    """
    rows, split = banks["student"].shape[0], positive.shape[1]
    idx = jnp.concatenate([positive, negative], axis=1)
    loss, z = [], []
    for side, (anchor, bank) in enumerate(
        ((student, banks["teacher"]), (teacher, banks["student"]))
    ):
        scores = jnp.exp(memory.similarity(anchor=anchor, bank=bank, idx=idx) / tau)
        z.append(memory.normalizer(unset=banks["Z"][side], scores=scores, rows=rows))
        x = scores / z[side]
        loss.append(
            crd.contrast(positive=x[:, :split], negative=x[:, split:], rows=rows)
        )
    return loss[0] + loss[1], jnp.stack(z)


@dataclasses.dataclass(frozen=True)
class DC(crd.BankTerm):
    """The term with its banks.

    Attributes:
      negatives: K candidates.
      kept_negatives: K2 of smallest difference; None keeps all K.
      positives: P candidates.
      kept_positives: P2.
      mode: "mid" draws ranks among 30 … 99, "hard" takes the first P2.
      swapped: see `relation_difference`.
    """

    name: str = "dc"
    negatives: int = 700
    kept_negatives: int | None = 512
    positives: int = 300
    kept_positives: int = 20
    mode: str = "mid"
    swapped: bool = False

    def init(self, key: jax.Array, sizes: terms.Sizes) -> tuple[Params, State]:
        """Heads and banks.

        Raises:
          ValueError: numbers that do not fit each other.
        """
        low, high = MID_RANKS
        least = {"mid": high, "hard": self.kept_positives}.get(self.mode)
        if least is None:
            raise ValueError(f"mode: got {self.mode!r}, expected 'mid' or 'hard'.")
        if self.positives < least or (
            self.mode == "mid" and self.kept_positives > high - low
        ):
            raise ValueError(
                f"{self.name}: keeps {self.kept_positives} of {self.positives} "
                f"positives in mode {self.mode!r}, expected at most {high - low} of "
                f"{least} or more."
            )
        if (self.kept_negatives or 0) > self.negatives:
            raise ValueError(
                f"{self.name}: keeps {self.kept_negatives} negatives of "
                f"{self.negatives} candidates, expected no more than there are."
            )
        return super().init(key, sizes)

    def sample(
        self, key: jax.Array, fold: terms.Fold | None
    ) -> dict[str, Int[Array, "..."] | Bool[Array, "..."]]:
        """Candidates `idx` [B, P + K], `ranks` [P2] and `fresh` [B, P]."""
        known = crd.known_fold(self.name, fold)
        keys = jax.random.split(key, 3)
        # A record outside the fold has no grade here; its look-up is NaN anyway.
        grade = jnp.take(known.grade, known.row, mode="clip")
        same = grade[:, None] == known.grade[None, :]
        positive, count = memory.allowed_rows(
            keys[0], allowed=same, size=self.positives, distinct=True
        )
        negative, _ = memory.allowed_rows(keys[1], allowed=~same, size=self.negatives)
        positive = positive.at[:, 0].set(known.row)
        low, high = MID_RANKS
        ranks = jnp.arange(self.kept_positives)
        if self.mode == "mid":
            ranks = low + jax.random.permutation(keys[2], high - low)[ranks]
        return {
            "idx": jnp.concatenate([positive, negative], axis=1),
            "ranks": ranks,
            "fresh": jnp.arange(self.positives)[None, :] < count[:, None],
        }

    def __call__(
        self, params: Params, state: State, inputs: terms.TermInputs
    ) -> tuple[Float[Array, " B"], State]:
        """See `terms.Term`."""
        student, teacher = self.embed(params, inputs)
        idx = inputs.sample["idx"]
        chosen = self.choose(state, student, teacher, inputs.sample)
        positive, negative = (jnp.take_along_axis(idx, at, axis=1) for at in chosen)
        value, z = discrepancy(
            student=student,
            teacher=teacher,
            banks=state,
            positive=positive,
            negative=negative,
            tau=self.tau,
        )
        state = self.moved(state, idx[:, 0], (student, teacher))
        return value, state | {"Z": z}

    def choose(
        self,
        state: State,
        student: Float[Array, "B E"],
        teacher: Float[Array, "B E"],
        sample: dict[str, jax.Array],
    ) -> tuple[Int[Array, "B P2"], Int[Array, "B K2"]]:
        """Positions of positives and negatives among the candidates."""
        difference = relation_difference(
            student=student,
            teacher=teacher,
            banks=state,
            idx=sample["idx"],
            swapped=self.swapped,
        )
        split = self.positives
        positive = positions_of_positives(
            difference=difference[:, :split],
            ranks=sample["ranks"],
            fresh=sample.get("fresh"),
        )
        kept = self.kept_negatives or self.negatives
        rising = lax.top_k(-difference[:, split:], kept)[1]
        return positive, split + rising

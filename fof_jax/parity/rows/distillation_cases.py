"""What the replays of student trainings share: cases, recorded draws, comparisons."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.base import Inputs
from fof_jax.methods.distill import combine, features_kl, pkt, rkd, sp, student, terms
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import distillation_banks as banks
from fof_jax.parity.rows import distillation_networks as networks
from fof_jax.parity.rows import torch_layout
from fof_jax.parity.rows.distillation_tolerances import loss_row, row
from fof_jax.parity.rows.torch_layout import Layers
from fof_jax.types import Batch, Output, Variables


class Case(NamedTuple):
    """One row of a recording.

    Attributes:
      prefix: of its steps.
      method: the student.
      heads: number of the PyTorch heads of each term, or None.
      metrics: a recorded loss -> our metric.
      outputs: prefix of the recorded teacher's outputs.
    """

    prefix: str
    method: student.Student
    heads: dict[str, int]
    metrics: dict[str, str]
    outputs: str


class RecordedTeacher:
    """A teacher whose outputs are its parameters."""

    inputs = Inputs(("image",), ("image",), None)
    num_classes = 0

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """The recorded outputs."""
        del batch
        return Output(**variables.params)


@dataclasses.dataclass(frozen=True)
class Sampled(terms.Term):
    """A term with recorded draws.

    Attributes:
      term: what is computed.
      drawn: instead of its own `sample`.
    """

    term: Any = None
    drawn: Any = None

    def sample(self, key: jax.Array, fold: terms.Fold | None) -> Any:
        """The recorded draws."""
        return self.drawn

    def __call__(self, params: Any, state: Any, inputs: terms.TermInputs) -> Any:
        """See `terms.Term`."""
        return self.term(params, state, inputs)


def sampled(method: student.Student, drawn: Mapping[str, Any]) -> student.Student:
    """A student whose terms take recorded draws."""
    wrapped = tuple(
        Sampled(t.name, t.weight, t.source, term=t, drawn=drawn.get(t.name))
        for t in method.terms
    )
    return dataclasses.replace(method, terms=wrapped)


def relation(name: str, weight: float) -> terms.Term:
    """A term without memory by its name in the recordings."""
    if name == "feats_kl":
        return features_kl.FeaturesKL("r", weight, head=False)
    functions: dict[str, Any] = {
        "pkt": pkt.probabilistic_transfer,
        "sp": sp.similarity_preserving,
        "rkd": lambda **sides: rkd.relational(
            **sides,
            distance_weight=rkd.DISTANCE_WEIGHT,
            angle_weight=rkd.ANGLE_WEIGHT,
        ),
    }

    def of(s: terms.Side, t: terms.Side) -> jax.Array:
        return functions[name](student=s.features, teacher=t.features)

    return terms.Pairwise(name="r", weight=weight, of=of)


def layers_of(case: Case) -> Layers:
    """Layers of the student and its heads by PyTorch name."""
    layers = dict(networks.STUDENT_LAYERS)
    for name, number in case.heads.items():
        for layer, path in banks.LAYERS.items():
            layers[f"{number}.{layer}"] = ("heads", name, *path)
    return layers


def step_rows(
    z: Mapping[str, np.ndarray],
    case: Case,
    metrics: Mapping[str, Any],
    outputs: Mapping[str, Any],
    where: str,
) -> list[Row]:
    """Rows of outputs, losses and weights of one step."""
    rows = [
        row("outputs", value, z[key], "step output", where=f"{key}, {where}")
        for name, value in outputs.items()
        for key in (f"student/{name}", name)
        if key in z
    ]
    for theirs, ours in case.metrics.items():
        recorded = z[f"loss/{theirs}"]
        if recorded.size > 1:
            recorded = recorded.mean()
        quantity = "total" if theirs == "total" else "losses"
        at = f"{theirs}, {where}"
        rows.append(loss_row(quantity, metrics[ours], recorded, "step loss", at))
    if "weights/scale" in z:
        weights = [
            metrics[f"weight_{t.name}"] / ((t.weight or 0.0) * case.method.factor)
            for t in case.method.terms
        ]
        recorded = z["weights/scale"][:-1]
        rows.append(row("weights", weights, recorded, "step weight", where=where))
    if "mask" in z:
        kept = [
            metrics[f"weight_{t.name}"] / (t.weight or 0.0) for t in case.method.terms
        ]
        mean = z["mask"].mean(axis=0)
        rows.append(row("weights", kept, mean, "step weight", where=where))
        mask = combine.agrees_sample(jnp.asarray(z["grads"]))
        rows.append(row("masks", mask, z["mask"], "equal", where=where))
    return rows


def after_rows(
    z: Mapping[str, np.ndarray], case: Case, variables: Variables, where: str
) -> list[Row]:
    """Rows of parameters, statistics, heads and banks after one step."""
    copies = {
        "student": (variables.params, variables.state["batch_stats"]),
    }
    if "average" in variables.state:
        average = variables.state["average"]
        copies["ema"] = (average["params"], average["batch_stats"])
    rows: list[Row] = []
    for copy, (params, statistics) in copies.items():
        rows += networks.after_rows(
            copy,
            torch_layout.under(dict(z), f"after/{copy}/"),
            {"params": params, "batch_stats": statistics},
            networks.STUDENT_LAYERS,
            "parameter, student",
            where,
        )
    layers = layers_of(case)
    for name, theirs in torch_layout.under(dict(z), "after/heads/").items():
        layer, _, leaf = name.rpartition(".")
        number = name.partition(".")[0]
        term = {str(n): t for t, n in case.heads.items()}.get(number)
        if term is None:
            continue
        at = f"{name} after {where}"
        if leaf in banks.BANKS:
            ours = variables.state["terms"][term][banks.BANKS[leaf]]
            rows.append(row("banks", ours, theirs, "step bank", where=at))
        elif layer in layers:
            got = torch_layout.from_flax(name, {"params": variables.params}, layers)
            rows.append(
                row(
                    "head parameters",
                    got,
                    theirs,
                    "parameter, student",
                    scale=1.0,
                    where=at,
                )
            )
    for name, head in case.heads.items():
        key = f"Z/{head}"
        if key in z:
            ours = variables.state["terms"][name]["Z"] / z[key]
            rows.append(row("Z", ours, np.ones(2), "Z", where=where))
    return rows

"""Replays the losses with memory banks over several calls."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.distill import crd, dc, hkd, terms
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import torch_layout
from fof_jax.parity.rows.distillation_tolerances import (
    grouped,
    loss_row,
    row,
)
from fof_jax.parity.rows.torch_layout import Layers, Recording

# PyTorch name of a bank -> ours.
BANKS = {
    "memory_v1": "student",
    "memory_v2": "teacher",
    "memory_l": "student",
    "memory_ab": "teacher",
}
LAYERS: Layers = {
    "embed_s.linear": ("student",),
    "embed_t.linear": ("teacher",),
    "gnn_s.conv1.lin": ("graph_student",),
    "gnn_t.conv1.lin": ("graph_teacher",),
}
# Two candidates whose relation differences are nearer than this may change places by
# rounding: the recorded order is taken then, and the differences are compared.
NEAR = 1e-4


@dataclasses.dataclass(frozen=True)
class RecordedDC(dc.DC):
    """DC that takes a recorded order where ours may differ from it by rounding.

    Attributes:
      single: the published form for one row, which weights positives P2-fold.
    """

    single: bool = False

    def choose(
        self, state: Any, student: Any, teacher: Any, sample: Any
    ) -> tuple[jax.Array, jax.Array]:
        """See `dc.DC`."""
        positive, negative = super().choose(state, student, teacher, sample)
        if "order_pos" in sample:
            taken = sample["order_pos"][:, sample["ranks"]].at[:, 0].set(0)
            positive = jnp.where(sample["near_pos"], taken, positive)
        if "order_neg" in sample:
            taken = self.positives + sample["order_neg"][:, : self.kept_negatives]
            negative = jnp.where(sample["near_neg"], taken, negative)
        return positive, negative

    def __call__(
        self, params: Any, state: Any, inputs: terms.TermInputs
    ) -> tuple[jax.Array, Any]:
        """See `dc.DC`."""
        value, new = super().__call__(params, state, inputs)
        if not self.single:
            return value, new
        student, teacher = self.embed(params, inputs)
        positive, negative = self.choose(state, student, teacher, inputs.sample)
        idx = jnp.take_along_axis(inputs.sample["idx"], positive, axis=1)
        c = negative.shape[1] / state["student"].shape[0] + crd.EPSILON
        sides = ((student, "teacher"), (teacher, "student"))
        for side, (anchor, bank) in enumerate(sides):
            x = jnp.exp(state[bank][idx] @ anchor[0] / self.tau) / new["Z"][side]
            hits = -jnp.log(x / (x + c))
            value = value + hits.sum() - hits.mean()
        return value, new


def dc_sample(z: dict[str, np.ndarray], term: dc.DC, suffix: str = "") -> Any:
    """What a recording says about the draws of one call of DC."""
    sample = {"idx": z["idx"], "ranks": np.arange(term.kept_positives)}
    if f"draw{suffix}" in z:
        sample["ranks"] = z[f"draw{suffix}"]
    for side in ("pos", "neg"):
        if f"order_{side}{suffix}" in z:
            sample[f"order_{side}"] = z[f"order_{side}{suffix}"]
            sample[f"near_{side}"] = z[f"gap_{side}{suffix}"] < NEAR
    return jax.tree.map(jnp.asarray, sample)


def cases(recording: Recording) -> list[str]:
    """Bank cases of a recording of units."""
    prefixes = (key.split("/")[0] for key in recording if "/init/contrast." in key)
    return list(dict.fromkeys(prefixes))


def term_of(case: str, cfg: dict[str, Any]) -> crd.BankTerm:
    """The term that a case's name and constants describe."""
    common = {
        "name": case,
        "weight": 1.0,
        "width": cfg["feat_dim"],
        "tau": cfg["nce_t"],
        "negatives": cfg["nce_k"],
    }
    if case.startswith("hkd"):
        return hkd.HKD(**common)
    common["momentum"] = cfg["nce_m"]
    if case.startswith("crd"):
        return crd.CRD(**common)
    x22 = "x22" in case
    return RecordedDC(
        **common,
        positives=cfg["nce_p"],
        kept_positives=cfg["nce_p2"],
        kept_negatives=cfg["nce_k2"] if x22 else None,
        mode=cfg["select_pos_mode"],
        swapped=x22 and "noswap" not in case,
        single=cfg["batch_size"] == 1 and cfg["sample_KD"] != "True",
    )


def replay(recording: Recording) -> list[Row]:
    """Compares losses, gradients, Z, rankings, graphs and banks of every call.

    Source: methods/distillation.md, "Formulas" (CRD, DC, HKD), "Names".
    """
    rows: list[Row] = []
    for case in cases(recording):
        rows += grouped(_case(recording, case), f"{case} ")
    return rows


def _case(recording: Recording, case: str) -> list[Row]:
    cfg = torch_layout.config(recording, case)
    term = term_of(case, cfg)
    initial = torch_layout.under(recording, f"{case}/init/")
    heads = {k: v for k, v in initial.items() if not k.startswith("contrast.")}
    params = jax.tree.map(jnp.asarray, torch_layout.to_flax(heads, LAYERS)["params"])
    state = initial_banks(initial)
    rows: list[Row] = []
    step = 0
    while f"{case}/step{step}/fs" in recording:
        z = torch_layout.under(recording, f"{case}/step{step}/")
        new_rows, state = _call(term, params, state, z, f"call {step}")
        rows += new_rows
        step += 1
    return rows


def initial_banks(tensors: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Banks by PyTorch name as a state with Z unset."""
    state = {"Z": jnp.zeros(2)}
    for name, value in tensors.items():
        leaf = name.rpartition(".")[2]
        if leaf in BANKS:
            state[BANKS[leaf]] = jnp.asarray(value)
    if "memory_l" in {name.rpartition(".")[2] for name in tensors}:
        del state["Z"]
    return state


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(
    term: crd.BankTerm,
    each: bool,
    params: Any,
    state: Any,
    student: terms.Side,
    inputs: terms.TermInputs,
    factor: jax.Array,
) -> Any:
    def loss(params: Any, fs: jax.Array) -> tuple[jax.Array, Any]:
        own = inputs._replace(student=student._replace(features=fs))
        small = isinstance(term, hkd.HKD) and len(fs) < hkd.NEIGHBORS
        if small and own.row is not None:
            # The published code leaves the banks alone then; ours refuses the batch.
            e_s, e_t = term.embed(params, own)
            value = hkd.individual(
                student=e_s,
                teacher=e_t,
                banks=state,
                row=own.row,
                idx=own.sample,
                tau=term.tau,
            )
            new = state
        else:
            value, new = term(params, state, own)
        value = value * factor
        return (value.sum() if each else value.mean()), (value, new)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        params, student.features
    )


def _call(
    term: crd.BankTerm, params: Any, state: Any, z: dict[str, np.ndarray], where: str
) -> tuple[list[Row], Any]:
    no_logits = np.zeros((len(z["fs"]), 1), np.float32)
    ys, yt = (jnp.asarray(z.get(name, no_logits)) for name in ("ys", "yt"))
    sample = dc_sample(z, term) if isinstance(term, dc.DC) else jnp.asarray(z["idx"])
    student = terms.Side(jnp.asarray(z["fs"]), ys)
    inputs = terms.TermInputs(
        student=student,
        teacher=terms.Side(jnp.asarray(z["ft"]), yt),
        sample=sample,
        row=jnp.asarray(z["y"]),
        epoch=jnp.zeros((), jnp.int32),
    )
    factor = jnp.asarray(z.get("epoch", np.float32(1)))
    (_, (value, new)), (g_heads, g_fs) = _gradient(
        term, z["loss"].size > 1, params, state, student, inputs, factor
    )
    if z["loss"].size == 1:
        value = value.mean()
    rows = [
        loss_row("loss", value, z["loss"], "bank loss", where),
        row("gradients", g_fs, z["grad_fs"], "bank gradient", where=f"fs, {where}"),
    ]
    for name, theirs in torch_layout.under(z, "grad/").items():
        ours = torch_layout.from_flax(name, {"params": g_heads}, LAYERS)
        rows.append(
            row("gradients", ours, theirs, "bank gradient", where=f"{name}, {where}")
        )
    if "Z" in z:
        rows.append(row("Z", new["Z"] / z["Z"], np.ones(2), "Z", where=where))
    for name, theirs in torch_layout.under(z, "after/").items():
        rows.append(row("banks", new[BANKS[name]], theirs, "bank", where=where))
    if isinstance(term, dc.DC):
        rows += _ranking(term, params, state, inputs, z, where)
    for side, logits in (("s", ys), ("t", yt)):
        if f"edges_{side}" in z:
            rows.append(_graph(logits, z[f"edges_{side}"], where))
    return rows, new


@functools.partial(jax.jit, static_argnums=0)
def _difference(
    term: dc.DC, params: Any, state: Any, inputs: terms.TermInputs
) -> jax.Array:
    student, teacher = term.embed(params, inputs)
    return dc.relation_difference(
        student=student,
        teacher=teacher,
        banks=state,
        idx=inputs.sample["idx"],
        swapped=term.swapped,
    )


def _ranking(
    term: dc.DC,
    params: Any,
    state: Any,
    inputs: terms.TermInputs,
    z: dict[str, np.ndarray],
    where: str,
) -> list[Row]:
    """Our differences, ranked, against ours in the recorded order."""
    difference = np.asarray(_difference(term, params, state, inputs))
    parts = {
        "pos": -difference[:, : term.positives],
        "neg": difference[:, term.positives :],
    }
    return [
        row(
            "ranking",
            np.sort(values, axis=1),
            np.take_along_axis(values, z[f"order_{side}"], axis=1),
            "ranking",
            scale=1.0,
            where=where,
        )
        for side, values in parts.items()
        if f"order_{side}" in z
    ]


def _graph(logits: jax.Array, edges: np.ndarray, where: str) -> Row:
    ours = np.asarray(hkd.neighbors(logits), np.float64)
    theirs = np.zeros_like(ours)
    sender, receiver = edges
    theirs[receiver, sender] = 1
    return row("graph", ours, theirs, "equal", scale=1.0, where=where)

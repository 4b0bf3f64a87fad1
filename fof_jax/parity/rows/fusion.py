"""Replays recordings of the omics network and the fusion modules of Table II."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.classification import cross_entropy
from fof_jax.methods.fusion.hfbsurv import factorized_bilinear
from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import (
    fusion_compare,
    fusion_modules,
    fusion_steps,
    torch_layout,
)
from fof_jax.parity.rows.fusion_modules import Called, Replay
from fof_jax.parity.rows.recorded_draws import recorded_draws
from fof_jax.parity.rows.torch_layout import Path, Recording
from fof_jax.training.published_optimizers import l1_norm


def kind(recording: Recording) -> str | None:
    """What a recording is of: "modules", "steps" or None for another format."""
    cases = _cases(recording)
    if any(fusion_steps.matches(recording, case) for case in cases):
        return "steps"
    if any(fusion_modules.find(recording, case) for case in cases):
        return "modules"
    return None


def recognizes(recording: Recording) -> bool:
    """Whether a recording is of the omics network or a fusion."""
    return kind(recording) is not None


def replay(recording: Recording) -> list[Row]:
    """Compares a recording with this package.

    Args:
      recording: arrays by name, of one of the formats of methods/fusion.md.

    Returns:
      a row for each case, mode and kind of quantity.

    Raises:
      ValueError: a case is of no known format.

    Source: methods/fusion.md.
    """
    rows: list[Row] = []
    for case in _cases(recording):
        if case == "mfb":
            rows += _pooled_product(recording)
        elif fusion_steps.matches(recording, case):
            rows += fusion_steps.replay(recording, case)
        else:
            rows += _module_case(recording, case)
    return rows


def _cases(recording: Recording) -> list[str]:
    return list(dict.fromkeys(key.partition("/")[0] for key in recording))


def _module_case(recording: Recording, case: str) -> list[Row]:
    family = fusion_modules.find(recording, case)
    if family is None:
        raise ValueError(
            f"parity: case {case!r} is of no known fusion format. Expected the cfg/ "
            "entries of methods/fusion.md."
        )
    replayed = fusion_modules.build(family, torch_layout.config(recording, case))
    tensors = torch_layout.parameters(recording, case)
    rows = [_count(recording, case, replayed)]
    for mode in ("eval", "train"):
        if any(key.startswith(f"{case}/{mode}/") for key in recording):
            rows += _mode(recording, case, mode, replayed, tensors)
    return rows


def _count(recording: Recording, case: str, replayed: Replay) -> Row:
    """The number of parameters that our module initializes."""
    inputs = _inputs(recording, case)

    def shapes() -> Any:
        keys = {"params": jax.random.key(0)}
        return replayed.module.init(keys, inputs, False, method=replayed.call)

    ours = jax.eval_shape(shapes)["params"]
    size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(ours))
    # The recorded numbers are of all parameters and, without constants, the trainable.
    recorded = recording[f"{case}/count"][1]
    return comparison.row(f"{case} count", size, recorded, 0.0, scale=1.0)


def _inputs(recording: Recording, case: str) -> dict[str, jax.Array]:
    recorded = torch_layout.under(recording, f"{case}/in/")
    recorded["label"] = recorded["label"].astype(np.int32)
    return {name: jnp.asarray(value) for name, value in recorded.items()}


def _mode(
    recording: Recording,
    case: str,
    mode: str,
    replayed: Replay,
    tensors: Mapping[str, np.ndarray],
) -> list[Row]:
    prefix = f"{case}/{mode}/"
    recorded = torch_layout.under(recording, prefix)
    buffers = torch_layout.under(recording, f"{case}/buffer/")
    variables = torch_layout.to_flax({**tensors, **buffers}, replayed.layers)
    inputs = _inputs(recording, case)
    label = inputs.pop("label")
    held = {n: inputs.pop(n) for n in ("known",) if n in inputs}
    masks = {
        replayed.masks[name]: jnp.asarray(mask)
        for name, mask in torch_layout.masks(recording, f"{prefix}mask/").items()
    }
    draws = {
        f"sample_noise/{ours}": jnp.asarray(recorded[f"noise/{name}"])
        for name, ours in (("image", "image"), ("omic", "omics"))
        if f"noise/{name}" in recorded
    }
    if "dropped" in recorded:
        draws["sample_dropped"] = jnp.asarray(recorded["dropped"].astype(np.int32))
    cfg = torch_layout.config(recording, case)
    constants = _constants(tensors, replayed.l1)

    def loss(params: Any, given: Any) -> tuple[jax.Array, Any]:
        called, updated = replayed.module.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            {**given, **held},
            mode == "train",
            method=replayed.call,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
        )
        losses, total = _losses(called, label, cfg)
        if "lambda_l1" in cfg:
            losses["l1"] = l1_norm(params, subtree=replayed.l1) + constants
            total = total + cfg["lambda_l1"] * losses["l1"]
        return total, (called, {**losses, "total": total}, updated)

    with recorded_draws(masks, draws):
        graded = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        (_, (called, losses, updated)), (gradient, given) = graded(
            variables["params"], inputs
        )
    captured = updated["intermediates"]
    outputs = {**called.outputs, **replayed.outputs(captured)}
    return [
        *fusion_compare.outputs(
            f"{case} {mode}", recorded, outputs, captured, replayed
        ),
        fusion_compare.losses_row(f"{case} {mode}", recorded, losses),
        *fusion_compare.gradients(
            f"{case} {mode}", recorded, gradient, given, replayed
        ),
        *fusion_compare.statistics(f"{case} {mode}", recorded, updated, replayed),
    ]


def _constants(tensors: Mapping[str, np.ndarray], l1: Path) -> float:
    """L1 norm of the constants that the published classes count as parameters."""
    norm = 0.0
    for name, value in tensors.items():
        *outer, leaf = name.split(".")
        if leaf in torch_layout.CONSTANTS and bool(outer) == bool(l1):
            norm += float(np.abs(value).sum())
    return norm


def _losses(
    called: Called, grade: jax.Array, cfg: Mapping[str, Any]
) -> tuple[dict[str, Any], jax.Array]:
    losses = dict(called.losses)
    losses["ce"] = cross_entropy(logits=called.outputs["logits"], grade=grade)
    total = losses["ce"] + called.extra
    if "cut_fuse_grad" in cfg:
        for branch in ("path", "omic"):
            logits = called.outputs[f"logits_{branch}"]
            losses[branch] = cross_entropy(logits=logits, grade=grade)
            total = total + losses[branch]
    return losses, total


def _pooled_product(recording: Recording) -> list[Row]:
    """The pooling of HFBSurv alone, with entries that are exactly 0."""
    recorded = torch_layout.under(recording, "mfb/")
    rank = int(recorded["rank"])

    def weighted(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = factorized_bilinear(product=a * b, rank=rank)
        return (out * recorded["weight"]).sum(), out

    (_, out), gradients = jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True)(
        jnp.asarray(recorded["a"]), jnp.asarray(recorded["b"])
    )
    tolerance = fusion_compare.TOLERANCES["gradients, hfb"]
    return [
        comparison.row(
            "mfb outputs", out, recorded["out"], fusion_compare.TOLERANCES["outputs"]
        ),
        *(
            comparison.row(f"mfb gradient {n}", g, recorded[f"grad_{n}"], tolerance)
            for n, g in zip("ab", gradients, strict=True)
        ),
    ]

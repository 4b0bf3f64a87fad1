"""Replays recordings of the omics network and the fusion modules of Table II."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax import comparison
from fof_jax.comparison import Row
from fof_jax.methods.classification import cross_entropy
from fof_jax.methods.fusion.hfbsurv import factorized_bilinear
from fof_jax.parity.rows import fusion_modules, fusion_steps, torch_layout
from fof_jax.parity.rows.fusion_modules import Called, Replay
from fof_jax.parity.rows.recorded_draws import recorded_draws
from fof_jax.parity.rows.torch_layout import Path, Recording
from fof_jax.training.published_optimizers import l1_norm

# Largest deviation that an honest float32 replay of a float32 recording may show, as a
# share of the array's maximum; of a gradient's or, where it is larger, 1e-2 of the
# largest gradient of the case.
TOLERANCES = {
    "outputs": 1e-5,  # features, logits, every layer's output
    "losses": 5e-6,  # relative
    "gradients": 1e-5,
    "input gradients": 2e-5,
    "statistics": 5e-6,  # after the call
    "vanishing gradients": 1e-6,  # absolute, of the largest gradient of the case
    "no gradient": 0.0,
    "gradients, foaa": 2e-5,  # scalars that are sums of many cancelling terms
    "gradients, ddm": 2e-5,
    "gradients, hfb": 5e-5,  # 1 / sqrt(x) near 0
    "input gradients, hfb": 5e-5,
    # A channel whose variance over four rows is near 0 amplifies rounding: 1.1e-5 was
    # seen in gradients, 5.3e-6 in outputs and 8.7e-7 in vanishing ones.
    "outputs, batch norm": 3e-5,
    "gradients, batch norm": 5e-5,
    "input gradients, batch norm": 5e-5,
    "vanishing gradients, batch norm": 1e-5,
}
GRADIENT_FLOOR = 1e-2  # see above


def kind(recording: Recording) -> str | None:
    """What a recording is of: "modules", "steps" or None for another format."""
    cases = _cases(recording)
    if any(fusion_steps.matches(recording, case) for case in cases):
        return "steps"
    if any(fusion_modules.find(recording, case) for case in cases):
        return "modules"
    return None


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


def _tolerance(kind: str, replayed: Replay) -> float:
    return TOLERANCES.get(f"{kind}, {replayed.tolerances}", TOLERANCES[kind])


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
    count = sum(
        t.size
        for name, t in tensors.items()
        if name.rpartition(".")[2] not in torch_layout.CONSTANTS
    )
    rows = [_count(recording, case, replayed, tensors, count)]
    for mode in ("eval", "train"):
        if any(key.startswith(f"{case}/{mode}/") for key in recording):
            rows += _mode(recording, case, mode, replayed, tensors)
    return rows


def _count(
    recording: Recording,
    case: str,
    replayed: Replay,
    tensors: Mapping[str, np.ndarray],
    recorded: int,
) -> Row:
    """The number of parameters that our module initializes."""
    inputs = _inputs(recording, case)

    def shapes() -> Any:
        keys = {"params": jax.random.key(0)}
        return replayed.module.init(keys, inputs, False, method=replayed.call)

    ours = jax.eval_shape(shapes)["params"]
    size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(ours))
    del tensors
    return comparison.row(f"{case} count", size, recorded, 0.0, scale=1)


def _inputs(recording: Recording, case: str) -> dict[str, np.ndarray]:
    return torch_layout.under(recording, f"{case}/in/")


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
        replayed.masks[name]: mask
        for name, mask in torch_layout.masks(recording, f"{prefix}mask/").items()
    }
    draws = {
        f"sample_noise/{ours}": recorded[f"noise/{name}"]
        for name, ours in (("image", "image"), ("omic", "omics"))
        if f"noise/{name}" in recorded
    }
    if "dropped" in recorded:
        draws["sample_dropped"] = recorded["dropped"].astype(np.int32)
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
        *_outputs(f"{case} {mode}", recorded, outputs, captured, replayed),
        _losses_row(f"{case} {mode}", recorded, losses),
        *_gradients(f"{case} {mode}", recorded, gradient, given, replayed),
        *_statistics(f"{case} {mode}", recorded, updated, replayed),
    ]


def _constants(tensors: Mapping[str, np.ndarray], l1: Path) -> float:
    """L1 norm of the constants that the published classes count as parameters."""
    found = 0.0
    for name, value in tensors.items():
        *outer, leaf = name.split(".")
        if leaf in torch_layout.CONSTANTS and bool(outer) == bool(l1):
            found += float(np.abs(value).sum())
    return found


def _losses(
    called: Called, label: np.ndarray, cfg: Mapping[str, Any]
) -> tuple[dict[str, Any], jax.Array]:
    grade = jnp.asarray(label, jnp.int32)
    losses = dict(called.losses)
    losses["ce"] = cross_entropy(logits=called.outputs["logits"], grade=grade)
    total = losses["ce"] + called.extra
    if "cut_fuse_grad" in cfg:
        for branch in ("path", "omic"):
            logits = called.outputs[f"logits_{branch}"]
            losses[branch] = cross_entropy(logits=logits, grade=grade)
            total = total + losses[branch]
    return losses, total


def _outputs(
    title: str,
    recorded: Recording,
    outputs: dict[str, Any],
    captured: Any,
    replayed: Replay,
) -> Iterator[Row]:
    tolerance = _tolerance("outputs", replayed)
    rows = []
    outputs = {**outputs, "log_softmax": jax.nn.log_softmax(outputs["logits"])}
    # What the survival codes return.
    outputs["published"] = 6 * jax.nn.sigmoid(outputs["logits"]) - 3
    for name, want in torch_layout.under(recorded, "out/").items():
        got = _sampled(name, np.asarray(outputs[name.partition("@")[0]]))
        rows.append(comparison.row("", got, want, tolerance, where=name))
    yield comparison.worst(rows, f"{title} outputs")
    rows = []
    for name, want in torch_layout.under(recorded, "mid/").items():
        layer, _, call = name.partition("@")[0].partition("#")
        if layer not in replayed.layers:
            continue  # an activation
        calls = _captured(captured, replayed.layers[layer])
        # Published classes may apply a layer twice to one input.
        got = _sampled(name, np.asarray(calls[min(int(call or 0), len(calls) - 1)]))
        rows.append(comparison.row("", got, want, tolerance, where=name))
    if rows:
        yield comparison.worst(rows, f"{title} layers")


def _captured(captured: Any, path: Path) -> tuple[Any, ...]:
    for key in path:
        captured = captured[key]
    return captured["__call__"]


def _losses_row(title: str, recorded: Recording, losses: dict[str, Any]) -> Row:
    rows = [
        comparison.row("", losses[name], want, TOLERANCES["losses"], where=name)
        for name, want in torch_layout.under(recorded, "loss/").items()
    ]
    return comparison.worst(rows, f"{title} losses")


def _gradients(
    title: str, recorded: Recording, gradient: Any, given: Any, replayed: Replay
) -> Iterator[Row]:
    want = torch_layout.under(recorded, "grad/")
    largest = max(np.abs(v).max() for k, v in want.items() if "@sum" not in k)
    tolerance = _tolerance("gradients", replayed)
    vanishing = set(recorded["grad_zero"].tolist())
    collections = {"params": gradient}
    rows, zeros = [], []
    for name, value in want.items():
        tensor = name.partition("@")[0]
        got = torch_layout.from_flax(tensor, collections, replayed.layers)
        if got is None:
            continue
        if tensor in vanishing:
            size = np.abs(got).max()
            zero = _tolerance("vanishing gradients", replayed)
            zeros.append(comparison.row("", size, 0, zero, scale=largest, where=tensor))
            continue
        rows.append(_gradient(name, got, value, tolerance, largest))
    yield comparison.worst(rows, f"{title} gradients")
    if zeros:
        yield comparison.worst(zeros, f"{title} vanishing gradients")
    rows = []
    for name in recorded["grad_none"].tolist():
        got = torch_layout.from_flax(name, collections, replayed.layers)
        if got is not None:
            zero = TOLERANCES["no gradient"]
            rows.append(comparison.row("", got, 0 * got, zero, where=name))
    if rows:
        yield comparison.worst(rows, f"{title} no gradient")
    tolerance = _tolerance("input gradients", replayed)
    rows = [
        _gradient(name, np.asarray(given[name.partition("@")[0]]), v, tolerance, 0.0)
        for name, v in torch_layout.under(recorded, "grad_in/").items()
    ]
    yield comparison.worst(rows, f"{title} input gradients")


def _gradient(
    name: str, got: np.ndarray, want: np.ndarray, tolerance: float, largest: float
) -> Row:
    scale = max(float(np.abs(want).max()), GRADIENT_FLOOR * largest) or 1.0
    if name.endswith("@sum"):  # sum and sum of squares, each by its own size
        scale = 1.0
        size = np.abs(got).astype(np.float64)
        norm = np.array([size.sum(), (size**2).sum()]) + 1e-30
        return comparison.row(
            "", _sampled(name, got) / norm, want / norm, tolerance, scale=1, where=name
        )
    return comparison.row(
        "", _sampled(name, got), want, tolerance, scale=scale, where=name
    )


def _sampled(name: str, value: np.ndarray) -> np.ndarray:
    """What is stored of a big array: every S-th entry, or its two sums."""
    part = name.partition("@")[2]
    if part.startswith("flat"):
        return value.ravel()[:: int(part.removeprefix("flat"))]
    if part == "sum":
        wide = value.astype(np.float64)
        return np.array([wide.sum(), (wide**2).sum()])
    return value


def _statistics(
    title: str, recorded: Recording, updated: Any, replayed: Replay
) -> Iterator[Row]:
    rows = []
    for name, want in torch_layout.under(recorded, "buffer_after/").items():
        got = torch_layout.from_flax(name, updated, replayed.layers)
        if got is not None:
            tolerance = TOLERANCES["statistics"]
            rows.append(comparison.row("", got, want, tolerance, where=name))
    if rows:
        yield comparison.worst(rows, f"{title} statistics")


def _pooled_product(recording: Recording) -> list[Row]:
    """The pooling of HFBSurv alone, with entries that are exactly 0."""
    found = torch_layout.under(recording, "mfb/")
    rank = int(found["rank"])

    def weighted(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = factorized_bilinear(product=a * b, rank=rank)
        return (out * found["weight"]).sum(), out

    (_, out), gradients = jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True)(
        jnp.asarray(found["a"]), jnp.asarray(found["b"])
    )
    tolerance = TOLERANCES["gradients, hfb"]
    return [
        comparison.row("mfb outputs", out, found["out"], TOLERANCES["outputs"]),
        *(
            comparison.row(f"mfb gradient {n}", g, found[f"grad_{n}"], tolerance)
            for n, g in zip("ab", gradients, strict=True)
        ),
    ]

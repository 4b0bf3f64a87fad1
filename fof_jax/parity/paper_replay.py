"""Replays recordings of the paper's equations.

The replay calls the functions of training, in the order of training, on the arrays that
`paper_recording` reads.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.paper import losses
from fof_jax.methods.paper import method as paper_method
from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row
from fof_jax.parity.paper_recording import Recording, named
from fof_jax.training import optimizer, parallel
from fof_jax.training import state as training_state
from fof_jax.types import Batch, Params, StepContext, Variables

# Largest deviation of a correct float32 replay of a float64 recording.
TOLERANCES = {
    "array": 1e-5,  # of the array's maximum: tokens, alpha, A, features, logits, …
    "mask": 0.0,  # equal
    "gradient": 1e-4,  # of the tensor's maximum, at least 1e-3 of the largest gradient
    "first loss": 1e-6,  # relative
    "losses": 3e-5,  # relative, over all steps
    "rate": 1e-6,  # relative
    # Of the sum of the learning rates. Adam normalizes gradients, so that rounding of
    # a gradient near its eps moves the parameter by a fraction of the rate.
    "parameters": 0.05,
    # Absolute, on elements with a step-0 gradient of 0 or over 1e-6, which are not
    # affected by that. Only this row detects a wrong weight decay.
    "well-conditioned parameters": 2e-6,
}
# Its exact gradient is 0, because softmax is invariant to it: Adam amplifies rounding.
NO_GRADIENT = "attention.key.bias"
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # of every recording


def compare(
    quantity: str,
    got: np.ndarray | jax.Array,
    expected: np.ndarray,
    kind: str,
    scale: float | None,
) -> Row:
    """Compares a computed with a recorded array.

    Args:
      quantity: name.
      got, expected: computed and recorded array.
      kind: key of `TOLERANCES`.
      scale: divisor of the differences; None for the recorded maximum.

    Raises:
      ValueError: the shapes differ.
    """
    tolerance = TOLERANCES[kind]
    return comparison.row(quantity, got, expected, tolerance, scale=scale, kind=kind)


def replay(path: Path, **encoder_options: Any) -> list[Row]:
    """Compares a `paper_*` recording with this package.

    Args:
      path: the recording.
      encoder_options: fields of `vit.ViT`, such as `remat`, that must not change the
        result.

    Raises:
      ValueError: not such a recording.
      FileNotFoundError: the file does not exist.
    """
    recording = Recording(path)
    method = recording.method(**encoder_options)
    variables = Variables(params=recording.params(method), state={})
    first = recording.batch(0)
    return [
        *_first_step(recording, method, variables, first),
        *_all_steps(recording, method, variables),
    ]


def _first_step(
    recording: Recording,
    method: paper_method.FocusOnFocus,
    variables: Variables,
    batch: Batch,
) -> Iterator[Row]:
    views = jax.jit(method.views)(variables, batch)
    arrays = {
        "cam/tokens": views.tokens,
        "cam/gradient": views.activation.gradient,
        "cam/alpha": views.activation.alpha,
        "cam/relu_map": views.activation.relu_map,
        "cam/A": views.activation.A,
    }
    for name in ("glb", "pos", "neg"):
        arrays[f"features/{name}"] = getattr(views, name).feature
        arrays[f"logits/{name}"] = getattr(views, name).logits
    features = [views.glb.feature, views.pos.feature, views.neg.feature]
    normal = np.zeros_like(batch.biomarkers)
    projections = jax.jit(method.biomarker_projections)(
        variables, jnp.concatenate(features)
    )
    arrays["projections"] = projections
    alignment = functools.partial(
        losses.alignment,
        tau=method.tau,
        normalize_positives=method.normalize_positives,
    )
    arrays["loss/mca_per_biomarker"] = jax.jit(alignment)(
        projections=projections,
        status=np.concatenate([batch.biomarkers, batch.biomarkers, normal]),
        known=np.concatenate([batch.known, batch.known, np.ones_like(batch.known)]),
    )
    for name, got in arrays.items():
        yield compare(name, got, recording[f"t0/{name}"], "array", None)
    yield compare("mask", views.keep, recording["t0/mask"], "mask", 1.0)

    def loss(params: Params, batch: Batch) -> jax.Array:
        variables = Variables(params=params, state={})
        ctx = StepContext(key=jax.random.key(0))  # the method is deterministic
        return method.loss(variables, batch, ctx)[0]

    gradient = jax.jit(jax.grad(loss))(variables.params, batch)
    expected = recording.under("t0/grad")
    largest = max(float(np.abs(g).max()) for g in expected.values())
    for name, got in named(gradient, method).items():
        scale = max(float(np.abs(expected[name]).max()), 1e-3 * largest)
        yield compare(f"grad/{name}", got, expected[name], "gradient", scale)


def _all_steps(
    recording: Recording, method: paper_method.FocusOnFocus, variables: Variables
) -> Iterator[Row]:
    number = recording.number
    adamw = optimizer.adamw(
        beta1=BETA1,
        beta2=BETA2,
        eps=EPS,
        weight_decay=number("weight_decay"),
    )
    devices = jax.local_devices()[:1]
    step = parallel.train_step(method, adamw, lambda b: b, jax.random.key(0), devices)
    state = training_state.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(jnp.copy, variables.params),  # the step donates its input
        state={},
        opt_state=adamw.init(variables.params),
    )
    steps = int(number("steps"))
    rates = [
        optimizer.cosine(
            t, learning_rate=number("lr"), total_steps=int(number("total"))
        )
        for t in range(steps)
    ]
    history: list[Mapping[str, jax.Array]] = []
    after: dict[int, dict[str, np.ndarray]] = {}
    for t in range(steps):
        batch = parallel.to_devices(recording.batch(t), 1)
        schedule = training_state.Schedule(learning_rate=np.float32(rates[t]))
        state, metrics = step(state, batch, schedule, {})
        history.append(jax.device_get(metrics))
        if f"after{t + 1}/classifier.bias" in recording:
            after[t + 1] = named(jax.device_get(state.params), method)

    for name in ("cls_glb", "cls_pos", "cls_neg", "cls", "frl", "mca", "total"):
        expected = recording[f"steps/loss_{name}"]
        got = np.array([float(h[name]) for h in history])
        difference = np.abs(got - expected)
        # Eq. (5) is exactly 0 without known biomarkers: compared absolutely.
        relative = difference / np.where(expected == 0, 1, np.abs(expected))
        for label, kind, worst in (
            (f"step 0 loss/{name}", "first loss", relative[0]),
            (f"all steps loss/{name}", "losses", relative.max()),
        ):
            last = 1 if kind == "first loss" else steps
            largest = difference[:last].max()
            yield Row(label, float(largest), float(worst), TOLERANCES[kind], kind)
    yield compare("lr", np.array(rates), recording["steps/lr"], "rate", None)
    for t, params in after.items():
        yield from _parameters(recording, t, params, math.fsum(rates[:t]))


def _parameters(
    recording: Recording, t: int, params: dict[str, np.ndarray], summed_rate: float
) -> Iterator[Row]:
    for name, got in params.items():
        if name.endswith(NO_GRADIENT):
            continue
        expected = recording[f"after{t}/{name}"]
        label = f"after {t}/{name}"
        yield compare(label, got, expected, "parameters", summed_rate)
        gradient = np.abs(recording[f"t0/grad/{name}"])
        stable = (gradient == 0) | (gradient > 1e-6)
        yield compare(
            f"{label} (well-conditioned)",
            np.where(stable, got, 0),
            np.where(stable, expected, 0),
            "well-conditioned parameters",
            1.0,
        )

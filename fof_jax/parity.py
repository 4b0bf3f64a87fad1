"""Replays recordings of the objective, quantity by quantity.

A recording is an .npz: parameters, five batches, every intermediate of the first step,
the losses of all steps, parameters after the first and the last. What runs here are
the functions that training calls, in the order in which it calls them.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax import comparison, optimizer, parallel, vit
from fof_jax.comparison import Row
from fof_jax.paper import objective
from fof_jax.pretrained import names, tree
from fof_jax.shapes import Batch, Params, Variables

# Largest deviation that an honest float32 replay of a float64 recording may show.
TOLERANCES = {
    "array": 1e-5,  # of the array's maximum: tokens, alpha, A, features, logits, …
    "mask": 0.0,  # equal
    "gradient": 1e-4,  # of max(the tensor's, 1e-3 of the largest of all tensors)
    "first loss": 1e-6,  # relative
    "losses": 3e-5,  # relative, over all steps
    "rate": 1e-6,  # relative
    # Of the summed learning rates, absolute. Adam divides a gradient by its own size,
    # so rounding of a gradient near its eps moves the parameter by a share of the rate.
    "parameters": 0.05,
    # Absolute, on elements where that does not happen: step-0 gradient 0 or over 1e-6.
    # A wrong weight decay shows here and nowhere else.
    "well-conditioned parameters": 2e-6,
}
# Its exact gradient is 0 (softmax does not see it): Adam turns rounding into steps.
NO_GRADIENT = "attention.key.bias"
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # of every recording
_ENCODER = "vit."  # in front of the names in recordings
CAM_BLOCK = -2


def compare(
    quantity: str,
    got: np.ndarray | jax.Array,
    want: np.ndarray,
    kind: str,
    unit: float | None,
) -> Row:
    """A row from two arrays.

    Args:
      quantity: name.
      got, want: ours and the recorded.
      kind: key of `TOLERANCES`.
      unit: what a difference is divided by; None for the recorded maximum.

    Raises:
      ValueError: the shapes differ.
    """
    tolerance = TOLERANCES[kind]
    return comparison.row(quantity, got, want, tolerance, scale=unit, kind=kind)


class Recording:
    """The arrays of one file, by name, with clear errors for what is not there."""

    def __init__(self, path: Path):
        """Reads the file.

        Raises:
          ValueError: it is no .npz archive of plain arrays.
          FileNotFoundError: it does not exist.
        """
        self.path = path
        self._arrays = comparison.load(path)

    def __getitem__(self, name: str) -> np.ndarray:
        """The array `name`."""
        if name not in self._arrays:
            raise ValueError(
                f"golden: {self.path} has no array {name!r}; it holds "
                f"{len(self._arrays)} others. Is it a recording of this family?"
            )
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        """Whether the array is there."""
        return name in self._arrays

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays PREFIX/NAME, by NAME."""
        prefix += "/"
        n = len(prefix)
        return {k[n:]: a for k, a in self._arrays.items() if k.startswith(prefix)}

    def number(self, name: str) -> float:
        """The scalar cfg/NAME."""
        return float(self[f"cfg/{name}"].item())


def replay(path: Path) -> list[Row]:
    """Compares a `paper_*` recording with this program.

    Raises:
      ValueError: the file is not such a recording.
      FileNotFoundError: it does not exist.
    """
    recording = Recording(path)
    method = _method(recording)
    variables = Variables(params=_params(recording, method), state={})
    first = _batch(recording, 0)
    return [
        *_first_step(recording, method, variables, first),
        *_all_steps(recording, method, variables),
    ]


def _method(recording: Recording) -> objective.FocusOnFocus:
    number = recording.number
    side = int(number("image"))
    height = recording["batch0/image"].shape[2]
    width = recording["batch0/image"].shape[3]
    if side not in (height, width):
        raise ValueError(
            f"golden: {recording.path} says images of {side} and holds "
            f"{height} x {width}."
        )
    encoder = vit.ViT(
        size=vit.Size(
            width=int(number("hidden")),
            depth=int(number("layers")),
            heads=int(number("heads")),
            mlp=int(number("mlp")),
        ),
        patch=int(number("patch")),
        image_size=(height, width),
        layer_norm_eps=number("layer_norm_eps"),
    )
    return objective.build(
        encoder=encoder,
        num_classes=int(number("num_classes")),
        num_biomarkers=recording["batch0/biomarkers"].shape[1],
        cam_block=CAM_BLOCK,
        theta=number("theta"),
        tau=number("tau"),
        lambda_frl=number("lambda_frl"),
        lambda_mca=number("lambda_mca"),
        mca_normalize_positives=False,
        frl=True,
    )


def _params(recording: Recording, method: objective.FocusOnFocus) -> Params:
    tensors = {
        name.removeprefix(_ENCODER): a for name, a in recording.under("init").items()
    }
    h, w = method.network.encoder.grid
    n = method.network.num_biomarkers
    return jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32),
        {
            "encoder": tree.encoder_from(tensors, names.HF_VIT, patches=h * w),
            "classifier": {
                "kernel": recording["init/classifier.weight"].T,
                "bias": recording["init/classifier.bias"],
            },
            "projectors": np.stack(
                [recording[f"init/projectors.{i}.weight"].T for i in range(n)]
            ),
        },
    )


def _named(params: Params, method: objective.FocusOnFocus) -> dict[str, np.ndarray]:
    """Our tree under the recording's names; also for gradients."""
    patch = method.network.encoder.patch
    encoder = tree.encoder_to(params["encoder"], names.HF_VIT, patch=patch)
    return {
        **{f"{_ENCODER}{name}": a for name, a in encoder.items()},
        "classifier.weight": np.asarray(params["classifier"]["kernel"]).T,
        "classifier.bias": np.asarray(params["classifier"]["bias"]),
        **{
            f"projectors.{i}.weight": np.asarray(kernel).T
            for i, kernel in enumerate(params["projectors"])
        },
    }


def _batch(recording: Recording, step: int) -> Batch:
    image = recording[f"batch{step}/image"].transpose(0, 2, 3, 1)
    rows = image.shape[0]
    return Batch(
        image=np.asarray(image, np.float32),
        grade=np.asarray(recording[f"batch{step}/grade"], np.int32),
        biomarkers=np.asarray(recording[f"batch{step}/biomarkers"], np.int32),
        known=np.asarray(recording[f"batch{step}/known"], bool),
        floats=np.zeros((rows, 0), np.float32),
        index=np.arange(rows, dtype=np.int32),
        epoch=np.zeros(rows, np.int32),
        valid=np.ones(rows, bool),
    )


def _first_step(
    recording: Recording,
    method: objective.FocusOnFocus,
    variables: Variables,
    batch: Batch,
) -> Iterator[Row]:
    seen = jax.jit(method.views)(variables, batch)
    arrays = {
        "cam/tokens": seen.tokens,
        "cam/gradient": seen.activation.gradient,
        "cam/alpha": seen.activation.alpha,
        "cam/relu_map": seen.activation.relu_map,
        "cam/A": seen.activation.A,
    }
    for name in ("glb", "pos", "neg"):
        arrays[f"features/{name}"] = getattr(seen, name).feature
        arrays[f"logits/{name}"] = getattr(seen, name).logits
    three = [seen.glb.feature, seen.pos.feature, seen.neg.feature]
    normal = np.zeros_like(batch.biomarkers)
    projections, each = jax.jit(method.mca)(
        variables,
        jnp.concatenate(three),
        np.concatenate([batch.biomarkers, batch.biomarkers, normal]),
        np.concatenate([batch.known, batch.known, np.ones_like(batch.known)]),
    )
    arrays["projections"] = projections
    arrays["loss/mca_per_biomarker"] = each
    for name, got in arrays.items():
        yield compare(name, got, recording[f"t0/{name}"], "array", None)
    yield compare("mask", seen.keep, recording["t0/mask"], "mask", 1.0)

    def loss(params: Params, batch: Batch) -> jax.Array:
        given = Variables(params=params, state={})
        key = jax.random.key(0)  # the method draws nothing
        return method.loss(given, batch, key, gather=lambda a: a)[0]

    gradient = jax.jit(jax.grad(loss))(variables.params, batch)
    want = recording.under("t0/grad")
    largest = max(float(np.abs(g).max()) for g in want.values())
    for name, got in _named(gradient, method).items():
        unit = max(float(np.abs(want[name]).max()), 1e-3 * largest)
        yield compare(f"grad/{name}", got, want[name], "gradient", unit)


def _all_steps(
    recording: Recording, method: objective.FocusOnFocus, variables: Variables
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
    state = parallel.TrainState(
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
        batch = parallel.to_devices(_batch(recording, t), 1)
        state, metrics = step(state, batch, np.float32(rates[t]))
        history.append(jax.device_get(metrics))
        if f"after{t + 1}/classifier.bias" in recording:
            after[t + 1] = _named(jax.device_get(state.params), method)

    for name in ("cls_glb", "cls_pos", "cls_neg", "cls", "frl", "mca", "total"):
        want = recording[f"steps/loss_{name}"]
        got = np.array([float(h[name]) for h in history])
        # Eq. (5) is exactly 0 where nothing is known: compared absolutely.
        relative = np.abs(got - want) / np.where(want == 0, 1, np.abs(want))
        for label, kind, worst in (
            (f"step 0 loss/{name}", "first loss", relative[0]),
            (f"all steps loss/{name}", "losses", relative.max()),
        ):
            last = 1 if kind == "first loss" else steps
            largest = np.abs(got - want)[:last].max()
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
        want = recording[f"after{t}/{name}"]
        label = f"after {t}/{name}"
        yield compare(label, got, want, "parameters", summed_rate)
        gradient = np.abs(recording[f"t0/grad/{name}"])
        steady = (gradient == 0) | (gradient > 1e-6)
        yield compare(
            f"{label} (well-conditioned)",
            np.where(steady, got, 0),
            np.where(steady, want, 0),
            "well-conditioned parameters",
            1.0,
        )

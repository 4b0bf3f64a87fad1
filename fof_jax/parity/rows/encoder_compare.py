"""Compares the passes and steps of an encoder recording with what it holds."""

from typing import Any

import numpy as np

from fof_jax.models.pretrained import torch_layers
from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import encoder_passes
from fof_jax.parity.rows import encoder_tolerances as tolerances
from fof_jax.parity.rows.encoder_cases import Case, Recording
from fof_jax.types import Batch

# A unit is undecided between the sides of its ReLU where its value is at most this
# many times the largest difference of the layer between the two programs.
EDGE = 2.0


def of_pass(
    z: Recording, case: Case, mode: str, passed: encoder_passes.Pass
) -> list[Row]:
    """Rows of one pass: outputs, loss, gradients, gradient of the image.

    Args:
      z: the recording.
      case: of the recording.
      mode: "eval" or "train", as the recorded names begin.
      passed: ours.

    Raises:
      ValueError: the recording has an output that the replay does not know.
    """
    family, compared, undecided = case.family, [], False
    recorded = tolerances.stored(z, f"{mode}/")
    for name, theirs in recorded.items():
        if name.startswith(("grad", "loss", "buffers")):
            continue
        if name not in passed.outputs:
            raise ValueError(
                f"parity: the recording has an output {name!r} that the replay of "
                f"{family} does not know."
            )
        ours, value = tolerances.pair(passed.outputs[name], theirs)
        bound = tolerances.tolerance(mode, family)
        compared.append(comparison.row("", ours, value, bound, where=name))
        if name.startswith("classifier."):  # of VGG's head, after ReLU
            before = f"classifier.{int(name.partition('.')[2]) - 1}"
            edge = EDGE * np.abs(ours - value).max()
            undecided |= bool((np.abs(passed.outputs[before]) <= edge).any())
    rows = [comparison.worst(compared, f"{mode} outputs")]
    if "loss" in recorded:
        name, bound = f"{mode} loss", tolerances.tolerance(f"{mode} loss", family)
        rows.append(comparison.row(name, passed.loss, z[f"{mode}/loss"], bound))
    undecided &= mode == "eval"
    rows += _gradients(z, case, mode, passed, undecided)
    if "grad_image" in recorded:
        rows.append(
            _image_gradient(case, mode, passed, recorded["grad_image"], undecided)
        )
    return rows


def _gradients(
    z: Recording, case: Case, mode: str, passed: encoder_passes.Pass, undecided: bool
) -> list[Row]:
    bound = tolerances.tolerance(f"{mode} gradient", case.family)
    norm_bound = tolerances.tolerance("norm", case.family)
    if undecided:
        bound = norm_bound = tolerances.TOLERANCES["eval gradient, undecided"]
    names, stats = z[f"{mode}/grad_names"], z[f"{mode}/grad_stats"]
    theirs = tolerances.stored(z, f"{mode}/grad/")
    largest = float(stats[:, 2].max())
    rows = tolerances.gradient_rows(passed.gradients, theirs, largest, bound)
    norms = tolerances.norm_rows(passed.gradients, names, stats[:, 1], norm_bound)
    return [
        comparison.worst(rows, f"{mode} gradients"),
        comparison.worst(norms, f"{mode} gradient norms"),
    ]


def _image_gradient(
    case: Case,
    mode: str,
    passed: encoder_passes.Pass,
    recorded: tuple[np.ndarray, int],
    undecided: bool,
) -> Row:
    """All elements; of VGG, whose trunk always has a ReLU that flips, 99% of them."""
    ours, theirs = tolerances.pair(passed.image_gradient, recorded)
    bound = tolerances.tolerance(f"{mode} image", case.family)
    name = f"{mode} image gradient"
    if case.family != "vgg19bn":
        return comparison.row(name, ours, theirs, bound)
    if undecided:
        bound = tolerances.TOLERANCES["eval gradient, undecided"]
    scale = float(np.abs(theirs).max())
    return tolerances.quantile_row(f"{name}, 99%", ours, theirs, bound, scale)


def statistics(
    z: Recording, case: Case, state: Any, prefix: str, kind: str, chaotic: bool = False
) -> list[Row]:
    """The worst of the running statistics, if there are any.

    Args:
      z, case: the recording and its case.
      state: after the step.
      prefix: "train" or "after3", as the recorded names begin.
      kind: of the tolerance.
      chaotic: see `is_chaotic`.
    """
    rows = []
    for name, theirs in tolerances.stored(z, f"{prefix}/buffers/").items():
        ours = torch_layers.from_flax(name, state.state, case.layers)
        if ours is not None:
            bound = tolerances.tolerance(kind, case.family, chaotic=chaotic)
            pair = tolerances.pair(ours, theirs)
            rows.append(comparison.row("", *pair, bound, where=name))
    return [comparison.worst(rows, f"{prefix} statistics")] if rows else []


def firm(
    z: Recording, case: Case, start: Any, later: Any, gradients: dict[str, np.ndarray]
) -> Row:
    """Parameters after one step, where the gradient decides the direction."""
    before, moved = (encoder_passes.published(case, s.params) for s in (start, later))
    g = {n: np.abs(v + case.decay * before[n]) for n, v in gradients.items()}
    largest = max(float(v.max()) for v in g.values())
    rows = []
    for name, theirs in tolerances.stored(z, "after1/").items():
        if name not in moved:
            continue
        floor = max(float(g[name].max()), tolerances.FIRM_OF_ALL * largest)
        ours, value = tolerances.pair(moved[name], theirs)
        size, _ = tolerances.pair(g[name], theirs)
        firm = size >= tolerances.FIRM * floor
        bound = tolerances.TOLERANCES["after 1"]
        ours = np.where(firm, ours, value)
        rows.append(comparison.row("", ours, value, bound, scale=1.0, where=name))
    return comparison.worst(rows, "after 1 firm parameters")


def is_chaotic(z: Recording) -> bool:
    """Whether the recorded float32 losses leave the float64 ones by the usual bound."""
    exact = z["steps/loss64"]
    off = np.abs(z["steps/loss"] - exact) / np.abs(exact)
    return bool(off.max() > tolerances.TOLERANCES["loss"])


def steps(z: Recording, case: Case, losses: list[float]) -> list[Row]:
    """Losses and rates of the three steps."""
    rates = np.array([case.rate(step) for step in range(encoder_passes.STEPS)])
    bound = tolerances.tolerance("loss", case.family, chaotic=is_chaotic(z))
    theirs = z["steps/loss"]
    return [
        comparison.row(
            "losses of 3 steps",
            np.array(losses) / theirs,
            np.ones(encoder_passes.STEPS),
            bound,
            scale=1.0,
        ),
        comparison.row("rates", rates, z["steps/lr"], tolerances.TOLERANCES["rate"]),
    ]


def after(z: Recording, case: Case, state: Any, batch: Batch) -> list[Row]:
    """Parameters, statistics and evaluation after three steps."""
    chaotic, family = is_chaotic(z), case.family
    moved = encoder_passes.published(case, state.params)
    pairs = [
        tolerances.pair(moved[name], theirs)
        for name, theirs in tolerances.stored(z, "after3/").items()
        if name in moved
    ]
    ours, theirs = (np.concatenate([p[i].ravel() for p in pairs]) for i in (0, 1))
    bound = tolerances.tolerance("after 3", family, chaotic=chaotic)
    summed = float(z["steps/lr"].sum())
    norms = tolerances.norm_rows(
        moved,
        z["after3/names"],
        z["after3/stats"][:, 1],
        tolerances.tolerance("after 3 norm", family, chaotic=chaotic),
        floor=0.0,
    )
    logits = encoder_passes.evaluate(case, state, batch).outputs["logits"]
    return [
        tolerances.quantile_row("after 3 parameters, 99%", ours, theirs, bound, 1.0),
        comparison.row(
            "after 3 parameters, all",
            ours,
            theirs,
            tolerances.TOLERANCES["bound"],
            scale=summed,
        ),
        comparison.worst(norms, "after 3 norms"),
        *statistics(z, case, state, "after3", "after 3 statistics", chaotic),
        comparison.row(
            "after 3 eval logits",
            logits,
            z["after3/eval_logits"],
            tolerances.tolerance("after 3 logits", family, chaotic=chaotic),
        ),
    ]

"""Replays recorded training steps of Pathomic Fusion, two-stage and single-stage."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fof_jax import comparison
from fof_jax.comparison import Row
from fof_jax.methods.classification import cross_entropy
from fof_jax.methods.fusion.network import ImageProjection, Network
from fof_jax.methods.fusion.pathomic import KroneckerFusion
from fof_jax.models.omics import MaxNet
from fof_jax.parity.rows import fusion_modules, torch_layout
from fof_jax.parity.rows.recorded_draws import recorded_draws
from fof_jax.parity.rows.torch_layout import Path, Recording
from fof_jax.training import published_optimizers

# As in `fusion`; parameters and averages absolute, after the last recorded step.
TOLERANCES = {
    "outputs": 1e-5,
    "losses": 5e-6,
    # Batch statistics over 8 rows amplify rounding: 1e-5 was seen between float32 and
    # float64 of the published code.
    "losses, single-stage": 3e-5,
    "outputs, single-stage": 3e-5,
    "rate": 1e-9,
    "gradients": 2e-5,
    "parameters": 5e-6,
    "parameters, single-stage": 2e-5,
    "statistics": 2e-4,
    "steps": 0.0,
}
GRADIENT_FLOOR = 1e-2
EPS = 1e-8


class _State(NamedTuple):
    params: Any
    statistics: Any
    optimizer: Any
    average: Any
    average_statistics: Any


class _Trainer(NamedTuple):
    network: Network
    layers: dict[str, Path]
    masks: dict[str, Path]
    form: str  # of the tolerances
    frozen_epochs: dict[Path, int | None]


def matches(recording: Recording, case: str) -> bool:
    """Whether a case is a recording of training steps of this format."""
    return f"{case}/cfg/niter_decay" in recording and f"{case}/steps/lr" in recording


def replay(recording: Recording, case: str) -> list[Row]:
    """Runs the recorded steps and compares each.

    Args:
      recording: arrays by name.
      case: prefix of the names.

    Returns:
      rows for rates, losses, outputs, gradients, parameters and statistics.

    Raises:
      ValueError: a tensor has no counterpart.

    Source: methods/fusion.md "Training-step files"; corrections 8, 9, 19.
    """
    cfg = torch_layout.config(recording, case)
    trainer = _trainer(cfg)
    optimizer = published_optimizers.adam_l2(
        beta1=cfg["beta1"],
        beta2=cfg["beta2"],
        eps=EPS,
        weight_decay=cfg["weight_decay"],
        frozen_epochs=trainer.frozen_epochs,
    )
    state = _initial(recording, case, trainer, optimizer)
    comparisons: dict[str, list[Row]] = {}
    for step in range(cfg["steps"]):
        epoch = step + cfg["epoch_count"] - 1
        rate = published_optimizers.linear_epochs(
            epoch,
            learning_rate=cfg["lr"],
            constant_epochs=cfg["niter"],
            decay_epochs=cfg["niter_decay"],
        )
        (losses, outputs, gradient), state = _step(
            recording, case, cfg, trainer, state, step
        )
        direction, moments = optimizer.update(
            gradient, state.optimizer, state.params, epoch=epoch
        )
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)  # noqa: B023
        average = state.average
        if average is not None:
            average = published_optimizers.moving_average(
                average, params, step=step, decay=cfg["ema_decay"]
            )
        state = state._replace(params=params, optimizer=moments, average=average)
        losses["lr"] = rate
        _compare_step(comparisons, recording, case, step, losses, outputs, trainer)
        _compare_gradients(comparisons, recording, case, step, gradient, trainer)
        _compare_after(comparisons, recording, case, step + 1, state, trainer)
    _compare_counts(comparisons, recording, case, state, trainer)
    return [
        comparison.worst(rows, f"{case} {quantity}")
        for quantity, rows in comparisons.items()
    ]


def _trainer(cfg: Mapping[str, Any]) -> _Trainer:
    single = "ema" in cfg
    fusion = KroneckerFusion(
        features=cfg["mmhid"],
        rate=cfg["dropout_rate"],
        gates=(bool(cfg["path_gate"]), bool(cfg["omic_gate"])),
        scales=(cfg["path_scale"], cfg["omic_scale"]),
        skip=bool(cfg["skip"]),
        bilinear=bool(cfg["use_bilinear"]),
        batch_norm=single,
    )
    omics = MaxNet(cfg["omic_dim"], 3, cfg["dropout_rate"], rectify=single)
    layers = {
        **fusion_modules.omics_layers("omic_net.", ("omics_network",)),
        **fusion_modules.kronecker_layers(("fusion",), single),
    }
    masks = {
        **fusion_modules.omics_masks("omic_net.", ("omics_network",)),
        **fusion_modules.kronecker_masks(("fusion",), single),
    }
    frozen: dict[Path, int | None] = {("fusion", n): None for n in fusion.unused}
    encoder: nn.Module = fusion_modules.Given()
    if not single:
        # Epochs of the recording count from 1.
        frozen[("omics_network",)] = cfg["unfreeze_epoch"] - 1
        network = Network(encoder, fusion, omics)
        return _Trainer(network, layers, masks, "two-stage", frozen)
    network = Network(
        image_encoder=fusion_modules.StandIn(),
        fusion=fusion,
        omics_network=omics,
        projection=ImageProjection(cfg["path_dim"], batch_norm=True),
        image_classes=3,
        cut_gradient=bool(cfg["cut_fuse_grad"]),
    )
    layers |= fusion_modules.stand_in_layers()
    return _Trainer(network, layers, masks, "single-stage", frozen)


def _initial(
    recording: Recording, case: str, trainer: _Trainer, optimizer: Any
) -> _State:
    def variables(parameters: str, buffers: str) -> dict[str, Any]:
        tensors = torch_layout.under(recording, f"{case}/{parameters}/")
        tensors |= torch_layout.under(recording, f"{case}/{buffers}/")
        return torch_layout.to_flax(tensors, trainer.layers)

    ours = variables("init", "buffer")
    params = jax.tree.map(jnp.asarray, ours["params"])
    average = average_statistics = None
    if bool(recording.get(f"{case}/cfg/ema", False)):
        theirs = variables("ema_init", "ema_buffer")
        average, average_statistics = theirs["params"], theirs["batch_stats"]
    return _State(
        params,
        ours["batch_stats"],
        optimizer.init(params),
        average,
        average_statistics,
    )


def _step(
    recording: Recording,
    case: str,
    cfg: Mapping[str, Any],
    trainer: _Trainer,
    state: _State,
    step: int,
) -> tuple[tuple[dict[str, Any], dict[str, Any], Any], _State]:
    batch = torch_layout.under(recording, f"{case}/batch{step}/")
    grade = jnp.asarray(batch["label"], jnp.int32)
    # The constants of the published classes are in their norm.
    constants = sum(
        float(np.abs(recording[f"{case}/init/omic_net.{name}"]).sum())
        for name in torch_layout.CONSTANTS
    )

    def forward(
        params: Any, statistics: Any, image: np.ndarray, masks: str
    ) -> tuple[dict[str, Any], Any]:
        drawn = {
            trainer.masks[name]: mask
            for name, mask in torch_layout.masks(batch, f"{masks}/").items()
        }
        if image.ndim == 4:
            image = np.moveaxis(image, 1, 3)
        with recorded_draws(drawn):
            return trainer.network.apply(
                {"params": params, "batch_stats": statistics},
                image,
                batch["omic"],
                method=_logits,
                mutable=["batch_stats"],
            )

    kept = state
    if state.average is not None:
        teacher, updated = forward(
            state.average, state.average_statistics, batch["image2"], "ema_mask"
        )
        kept = kept._replace(average_statistics=updated["batch_stats"])

    def loss(params: Any) -> tuple[jax.Array, Any]:
        out, updated = forward(params, state.statistics, batch["image"], "mask")
        reg = constants + published_optimizers.l1_norm(
            params, subtree=("omics_network",)
        )
        losses = {"reg": reg}
        branches = {"nll": "logits"}
        if trainer.form == "single-stage":
            branches = {"path": "path", "omic": "omic", "fuse": "logits"}
        for name, logits in branches.items():
            losses[name] = cross_entropy(logits=out[logits], grade=grade)
        total = sum(losses[name] for name in branches) + cfg["lambda_reg"] * reg
        if trainer.form == "single-stage":
            losses["kd"] = jnp.zeros(())
        if state.average is not None:
            divergences = [
                _divergence(teacher[name], out[name]) for name in branches.values()
            ]
            losses["kd"] = cfg["KD_weight"] * sum(divergences)
            total = total + losses["kd"]
        return total, ({**losses, "total": total}, out, updated)

    gradient, (losses, out, updated) = jax.jit(jax.grad(loss, has_aux=True))(
        state.params
    )
    if "batch_stats" in updated:
        kept = kept._replace(statistics=updated["batch_stats"])
    outputs = {
        "log_softmax": jax.nn.log_softmax(out["logits"]),
        "feature": out["feature"],
    }
    if trainer.form == "single-stage":
        outputs["path_feature"] = out["path_feature"]
        outputs["omic_feature"] = out["omic_feature"]
        for branch in ("path", "omic"):
            outputs[f"log_softmax_{branch}"] = jax.nn.log_softmax(out[branch])
    return (losses, outputs, gradient), kept


def _logits(network: Any, image: jax.Array, omics: jax.Array) -> dict[str, Any]:
    out = network.fuse(network.encode(image, train=True), omics, train=True)
    return {
        "logits": out.fused.logits,
        "path": out.image_logits,
        "omic": out.omics_logits,
        "feature": out.fused.features,
        "path_feature": out.image_features,
        "omic_feature": out.omics_features,
    }


def _divergence(teacher: jax.Array, student: jax.Array) -> jax.Array:
    """KL(softmax teacher || softmax student), summed over classes, mean over rows."""
    target = jax.nn.log_softmax(jax.lax.stop_gradient(teacher))
    difference = target - jax.nn.log_softmax(student)
    return (jnp.exp(target) * difference).sum() / teacher.shape[0]


def _tolerance(kind: str, trainer: _Trainer) -> float:
    return TOLERANCES.get(f"{kind}, {trainer.form}", TOLERANCES[kind])


def _compare_step(
    comparisons: dict[str, list[Row]],
    recording: Recording,
    case: str,
    step: int,
    losses: dict[str, Any],
    outputs: dict[str, Any],
    trainer: _Trainer,
) -> None:
    for name, value in losses.items():
        kind = "rate" if name == "lr" else "losses"
        want = recording[f"{case}/steps/{name}"][step]
        row = comparison.row(
            "", value, want, _tolerance(kind, trainer), where=f"{name} of step {step}"
        )
        comparisons.setdefault(kind, []).append(row)
    for name, value in outputs.items():
        key = f"{case}/steps/{name}{step}"
        if key in recording:
            row = comparison.row(
                "", value, recording[key], _tolerance("outputs", trainer), where=key
            )
            comparisons.setdefault("outputs", []).append(row)


def _compare_gradients(
    comparisons: dict[str, list[Row]],
    recording: Recording,
    case: str,
    step: int,
    gradient: Any,
    trainer: _Trainer,
) -> None:
    want = torch_layout.under(recording, f"{case}/grad{step}/")
    if not want:
        return
    largest = max(float(np.abs(value).max()) for value in want.values())
    ignored = _vanishing(recording, case)
    for name, value in want.items():
        got = torch_layout.from_flax(name, {"params": gradient}, trainer.layers)
        if got is None or name in ignored:
            continue
        scale = max(float(np.abs(value).max()), GRADIENT_FLOOR * largest)
        row = comparison.row(
            "",
            got,
            value,
            _tolerance("gradients", trainer),
            scale=scale,
            where=f"{name} of step {step}",
        )
        comparisons.setdefault("gradients", []).append(row)


def _compare_after(
    comparisons: dict[str, list[Row]],
    recording: Recording,
    case: str,
    steps: int,
    state: _State,
    trainer: _Trainer,
) -> None:
    ignored = _vanishing(recording, case)
    for prefix, kind, params, statistics in (
        ("after", "parameters", state.params, None),
        ("buffer_after", "statistics", None, state.statistics),
        ("ema_after", "averages", state.average, None),
        ("ema_buffer_after", "average statistics", None, state.average_statistics),
    ):
        found = torch_layout.under(recording, f"{case}/{prefix}{steps}/")
        for name, want in found.items():
            collections = {"params": params, "batch_stats": statistics}
            got = torch_layout.from_flax(name, collections, trainer.layers)
            if got is None or name in ignored:
                continue
            of = "statistics" if "statistics" in kind else "parameters"
            scale = 1.0 if of == "parameters" else None
            where = f"{name} after {steps} steps"
            tolerance = _tolerance(of, trainer)
            row = comparison.row("", got, want, tolerance, scale=scale, where=where)
            comparisons.setdefault(kind, []).append(row)


def _compare_counts(
    comparisons: dict[str, list[Row]],
    recording: Recording,
    case: str,
    state: _State,
    trainer: _Trainer,
) -> None:
    """Steps that Adam has taken on each tensor."""
    if f"{case}/adam_step" not in recording:
        return
    counts = {"params": state.optimizer.count}
    for name, want in json.loads(str(recording[f"{case}/adam_step"])).items():
        got = torch_layout.from_flax(name, counts, trainer.layers)
        if got is not None:
            row = comparison.row("", got, want, TOLERANCES["steps"], where=name)
            comparisons.setdefault("steps of each tensor", []).append(row)


def _vanishing(recording: Recording, case: str) -> set[str]:
    """Biases before a BatchNorm: Adam moves them by rounding."""
    return set(recording.get(f"{case}/grad_zero", np.array([], str)).tolist())

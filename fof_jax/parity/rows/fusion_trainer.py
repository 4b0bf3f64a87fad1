"""The training step of the recorded runs of Pathomic Fusion."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fof_jax.methods.classification import cross_entropy
from fof_jax.methods.fusion.network import ImageProjection, Network
from fof_jax.methods.fusion.pathomic import KroneckerFusion
from fof_jax.models.omics import MaxNet
from fof_jax.parity.rows import fusion_layers, stand_in, torch_layout
from fof_jax.parity.rows.recorded_draws import recorded_draws
from fof_jax.parity.rows.torch_layout import Path, Recording
from fof_jax.training import published_optimizers


class State(NamedTuple):
    """Parameters, statistics and moments; a moving average or None."""

    params: Any
    statistics: Any
    optimizer: Any
    average: Any
    average_statistics: Any


class Trainer(NamedTuple):
    """Network of a case, names of its layers, tolerances, and what it freezes."""

    network: Network
    layers: dict[str, Path]
    masks: dict[str, Path]
    form: str
    frozen_epochs: dict[Path, int | None]


def build(cfg: Mapping[str, Any]) -> Trainer:
    """The trainer of a case."""
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
        **fusion_layers.omics_layers("omic_net.", ("omics_network",)),
        **fusion_layers.kronecker_layers(("fusion",), single),
    }
    masks = {
        **fusion_layers.omics_masks("omic_net.", ("omics_network",)),
        **fusion_layers.kronecker_masks(("fusion",), single),
    }
    frozen: dict[Path, int | None] = {("fusion", n): None for n in fusion.unused}
    encoder: nn.Module = stand_in.Given()
    if not single:
        # Epochs of the recording count from 1.
        frozen[("omics_network",)] = cfg["unfreeze_epoch"] - 1
        network = Network(encoder, fusion, omics)
        return Trainer(network, layers, masks, "two-stage", frozen)
    network = Network(
        image_encoder=stand_in.StandIn(),
        fusion=fusion,
        omics_network=omics,
        projection=ImageProjection(cfg["path_dim"], batch_norm=True),
        image_classes=3,
        cut_gradient=bool(cfg["cut_fuse_grad"]),
    )
    layers |= fusion_layers.stand_in_layers()
    return Trainer(network, layers, masks, "single-stage", frozen)


def initial(recording: Recording, case: str, trainer: Trainer, optimizer: Any) -> State:
    """The state before the first step."""

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
    return State(
        params,
        ours["batch_stats"],
        optimizer.init(params),
        average,
        average_statistics,
    )


def compile_step(cfg: Mapping[str, Any], trainer: Trainer, constants: float) -> Any:
    """The losses, outputs and gradient of a step, and the statistics after it.

    Args:
      cfg: constants of the case.
      trainer: of the case.
      constants: L1 norm of the untrained numbers that the recorded norm includes.

    Returns:
      a compiled function of a `State` and the arrays of a batch.
    """

    def step(state: State, batch: dict[str, Any]) -> Any:
        teacher, average_statistics = None, state.average_statistics
        if state.average is not None:
            teacher, average_statistics = _forward(
                trainer, state.average, average_statistics, batch, "image2", "ema_mask"
            )

        def loss(params: Any) -> tuple[jax.Array, Any]:
            out, statistics = _forward(
                trainer, params, state.statistics, batch, "image", "mask"
            )
            losses, total = _losses(cfg, trainer, out, teacher, batch["label"])
            reg = published_optimizers.l1_norm(params, subtree=("omics_network",))
            losses["reg"] = reg + constants
            losses["total"] = total + cfg["lambda_reg"] * losses["reg"]
            return losses["total"], (losses, out, statistics)

        gradient, (losses, out, statistics) = jax.grad(loss, has_aux=True)(state.params)
        return losses, _outputs(trainer, out), gradient, statistics, average_statistics

    return jax.jit(step)


def _forward(
    trainer: Trainer,
    params: Any,
    statistics: Any,
    batch: dict[str, Any],
    image: str,
    masks: str,
) -> tuple[dict[str, Any], Any]:
    pixels = jnp.asarray(batch[image])
    if pixels.ndim == 4:
        pixels = jnp.moveaxis(pixels, 1, 3)
    else:  # a feature, as an image of one pixel
        pixels = pixels[:, None, None]
    drawn = {
        trainer.masks[name]: mask
        for name, mask in torch_layout.masks(batch, f"{masks}/").items()
    }
    out: Any
    updated: Any
    with recorded_draws(drawn):
        out, updated = trainer.network.apply(
            {"params": params, "batch_stats": statistics},
            pixels,
            batch["omic"],
            method=_call,
            mutable=["batch_stats"],
        )
    return out, updated.get("batch_stats", {})


def _call(network: Any, image: jax.Array, omics: jax.Array) -> dict[str, Any]:
    out = network.fuse(network.encode(image, train=True), omics, train=True)
    return {
        "fuse": out.fused.logits,
        "path": out.image_logits,
        "omic": out.omics_logits,
        "feature": out.fused.features,
        "path_feature": out.image_features,
        "omic_feature": out.omics_features,
    }


def _losses(
    cfg: Mapping[str, Any],
    trainer: Trainer,
    out: dict[str, Any],
    teacher: dict[str, Any] | None,
    label: Any,
) -> tuple[dict[str, Any], jax.Array]:
    grade = jnp.asarray(label, jnp.int32)
    if trainer.form == "two-stage":
        nll = cross_entropy(logits=out["fuse"], grade=grade)
        return {"nll": nll}, nll
    branches = ("path", "omic", "fuse")
    losses = {b: cross_entropy(logits=out[b], grade=grade) for b in branches}
    losses["kd"] = jnp.zeros(())
    if teacher is not None:
        terms = [_divergence(teacher[b], out[b]) for b in branches]
        losses["kd"] = cfg["KD_weight"] * jnp.stack(terms).sum()
    return losses, jnp.stack([losses[name] for name in losses]).sum()


def _outputs(trainer: Trainer, out: dict[str, Any]) -> dict[str, Any]:
    outputs = {
        "log_softmax": jax.nn.log_softmax(out["fuse"]),
        "feature": out["feature"],
    }
    if trainer.form == "single-stage":
        for branch in ("path", "omic"):
            outputs[f"{branch}_feature"] = out[f"{branch}_feature"]
            outputs[f"log_softmax_{branch}"] = jax.nn.log_softmax(out[branch])
    return outputs


def _divergence(teacher: jax.Array, student: jax.Array) -> jax.Array:
    """KL(softmax teacher || softmax student), summed over classes, mean over rows."""
    target = jax.nn.log_softmax(jax.lax.stop_gradient(teacher))
    difference = target - jax.nn.log_softmax(student)
    return (jnp.exp(target) * difference).sum() / teacher.shape[0]

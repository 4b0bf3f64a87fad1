"""The network of an encoder recording, its published names, masks and intermediates."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from fof_jax.methods.distill.student_network import StudentNetwork
from fof_jax.methods.image import ImageClassifier
from fof_jax.models import resnet, swin, vgg
from fof_jax.models.pretrained import image_encoder_names as names
from fof_jax.models.pretrained.torch_layers import Layers, Path
from fof_jax.training import optimizer as optimizers
from fof_jax.training import published_optimizers

Recording = Mapping[str, np.ndarray]
Observed = dict[str, jax.Array]


class Case(NamedTuple):
    """A recorded case.

    Attributes:
      family: `cfg/family`.
      method: encoder and classifier.
      layers: paths of the published layers.
      masks: recorded masks of a step by module.
      observe: captured outputs of modules to arrays by recorded name, in PyTorch's
        layout.
      optimizer: without the rate.
      rate: of step 0, 1, 2.
      decay: L2 coefficient that enters the moments; 0 for AdamW.
    """

    family: str
    method: ImageClassifier
    layers: Layers
    masks: Callable[[Recording, int], dict[Path, Any]]
    observe: Callable[[Mapping[str, Any]], Observed]
    optimizer: optax.GradientTransformation
    rate: Callable[[int], float]
    decay: float


def build(z: Recording) -> Case:
    """The case of a recording, from its cfg/ entries."""
    return FAMILIES[str(z["cfg/family"])](z)


def with_encoder(case: Case, encoder: nn.Module) -> Case:
    """A case on another form of its encoder with the same parameters."""
    network = case.method.network.clone(encoder=encoder)
    return case._replace(method=ImageClassifier(network))


def _case(
    z: Recording, encoder: nn.Module, layers: Layers, classifier: str, **fields: Any
) -> Case:
    layers = {name: ("encoder", *path) for name, path in layers.items()}
    network = StudentNetwork(encoder=encoder, num_classes=int(z["cfg/classes"]))
    return Case(
        family=str(z["cfg/family"]),
        method=ImageClassifier(network),
        layers={**layers, classifier: ("classifier",)},
        **fields,
    )


def _resnet(z: Recording) -> Case:
    encoder = resnet.ResNet(
        features=int(z["cfg/path_dim"]), blocks=tuple(z["cfg/layers"].tolist())
    )
    return _case(
        z,
        encoder,
        names.resnet_layers(encoder),
        "fc_new2",
        masks=lambda z, step: {},
        observe=lambda captured: _observe_resnet(encoder, captured),
        **_adam_l2(z, ()),
    )


def _vgg(z: Recording) -> Case:
    encoder = vgg.VGG(
        features=int(z["cfg/path_dim"]), widths=tuple(z["cfg/trunk"].tolist())
    )

    def masks(z: Recording, step: int) -> dict[Path, Any]:
        # The dropouts of the published `classifier` stand at 2, 5 and 8.
        return {
            ("encoder", "head", f"dropout{i}"): z[f"batch{step}/dropout/{3 * i + 2}"]
            for i in range(len(vgg.RATES))
        }

    return _case(
        z,
        encoder,
        names.vgg_layers(encoder),
        "linear",
        masks=masks,
        observe=lambda captured: _observe_vgg(encoder, captured),
        **_adam_l2(z, (("encoder", "trunk"),)),
    )


def _swin(z: Recording) -> Case:
    size = swin.Size(
        width=int(z["cfg/embed"]),
        depths=tuple(z["cfg/depths"].tolist()),
        heads=tuple(z["cfg/heads"].tolist()),
        drop_path=float(z["cfg/drop_path"]),
    )
    encoder = swin.SwinV2(size=size, window=int(z["cfg/window"]))
    blocks = [
        f"stage{stage}_block{block}"
        for stage, depth in enumerate(size.depths)
        for block in range(depth)
    ]

    def masks(z: Recording, step: int) -> dict[Path, Any]:
        drawn = z[f"batch{step}/drop_path"]
        return {
            ("encoder", block, branch): drawn[i, j]
            for i, block in enumerate(blocks)
            for j, branch in enumerate(("drop_attention", "drop_mlp"))
        }

    adamw = optimizers.adamw(
        beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=float(z["cfg/weight_decay"])
    )
    lr, total = float(z["cfg/lr"]), int(z["cfg/total"])
    return _case(
        z,
        encoder,
        names.swin_layers(encoder),
        "head",
        masks=masks,
        observe=lambda captured: _observe_swin(encoder, captured),
        optimizer=adamw,
        rate=lambda s: optimizers.cosine(s, learning_rate=lr, total_steps=total),
        decay=0.0,
    )


FAMILIES: dict[str, Callable[[Recording], Case]] = {
    "resnet18": _resnet,
    "vgg19bn": _vgg,
    "swinv2": _swin,
}


def _adam_l2(z: Recording, untrained: tuple[Path, ...]) -> dict[str, Any]:
    """Optimizer, rate and decay of both forms of PathCNN."""
    decay, lr, first = (float(z[f"cfg/{n}"]) for n in ("weight_decay", "lr", "epoch0"))
    adam = published_optimizers.adam_l2(
        beta1=float(z["cfg/beta1"]),
        beta2=float(z["cfg/beta2"]),
        eps=1e-8,
        weight_decay=decay,
    )

    def rate(step: int) -> float:
        return published_optimizers.linear_epochs(
            int(first) + step,
            learning_rate=lr,
            constant_epochs=int(z["cfg/niter"]),
            decay_epochs=int(z["cfg/niter_decay"]),
        )

    optimizer = optimizers.without(adam, untrained)
    return {"optimizer": optimizer, "rate": rate, "decay": decay}


def _observe_resnet(encoder: resnet.ResNet, captured: Mapping[str, Any]) -> Observed:
    outputs = {name: _output(captured, name) for name in ("conv1", "bn1")}
    outputs["maxpool"] = resnet.max_pool(jax.nn.relu(outputs["bn1"]))
    for stage, count in enumerate(encoder.blocks, 1):
        for block in range(count):
            inner = captured[f"layer{stage}_{block}"]
            outputs[f"layer{stage}.{block}"] = _output(
                captured, f"layer{stage}_{block}"
            )
            if "downsample_bn" in inner:
                name = f"layer{stage}.{block}.downsample"
                outputs[name] = _output(inner, "downsample_bn")
        last = outputs[f"layer{stage}.{block}"].mean(axis=(1, 2))
        outputs[f"feat_f{stage}"] = last
    outputs = {n: _channels_first(x) if x.ndim == 4 else x for n, x in outputs.items()}
    return outputs | {
        "pooled": last,
        "fc_new1.0": _output(captured, "projection"),
        "fc_new1.1": _output(captured, "projection_bn"),
    }


def _observe_vgg(encoder: vgg.VGG, captured: Mapping[str, Any]) -> Observed:
    trunk, outputs, position, number = captured["trunk"], {}, 0, 0
    x = jnp.zeros(())
    for width in encoder.widths:
        if width:
            outputs[f"features.{position}"] = _output(trunk, f"conv{number}")
            outputs[f"features.{position + 1}"] = _output(trunk, f"bn{number}")
            x = jax.nn.relu(outputs[f"features.{position + 1}"])
            position, number = position + 2, number + 1
        else:
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        outputs[f"features.{position}"] = x
        position += 1
    outputs["avgpool"] = vgg.adaptive_average_pool(_output(captured, "trunk"))
    outputs = {name: _channels_first(value) for name, value in outputs.items()}
    for i in range(len(vgg.RATES)):
        hidden = _output(captured["head"], f"linear{i}")
        outputs[f"classifier.{3 * i}"] = hidden
        outputs[f"classifier.{3 * i + 1}"] = jax.nn.relu(hidden)
    return outputs


def _observe_swin(encoder: swin.SwinV2, captured: Mapping[str, Any]) -> Observed:
    outputs = {"patch_embed": _output(captured, "patch_norm")}
    for stage, depth in enumerate(encoder.size.depths):
        for block in range(depth):
            name, path = f"layers.{stage}.blocks.{block}", f"stage{stage}_block{block}"
            outputs[name] = _output(captured, path)
            outputs[f"{name}.attn"] = _output(captured[path], "attn")
        if f"merge{stage}" in captured:
            outputs[f"layers.{stage}.downsample"] = _output(captured, f"merge{stage}")
    outputs["norm"] = _output(captured, "norm")
    return {  # maps [B, H, W, C] to tokens [B, L, C]
        name: x.reshape(x.shape[0], -1, x.shape[-1]) for name, x in outputs.items()
    }


def _output(captured: Mapping[str, Any], name: str) -> jax.Array:
    return captured[name]["__call__"][0]


def _channels_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)

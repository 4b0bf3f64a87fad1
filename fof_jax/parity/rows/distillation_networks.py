"""The stand-in networks of the distillation recordings, and their PyTorch names."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fof_jax.methods.distill import dgkd_network
from fof_jax.methods.fusion.network import ImageProjection, Network
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import fusion_layers, torch_layout
from fof_jax.parity.rows.distillation_tolerances import VANISHING, row
from fof_jax.parity.rows.torch_layout import Layers, Path, Recording
from fof_jax.types import Batch

STATISTICS = ("running_mean", "running_var")


class Flatten(nn.Module):
    """The image encoder of the teacher's recordings: pixels in C, H, W order."""

    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Pixels of an NHWC image; `train` is ignored."""
        del train
        return image.transpose(0, 3, 1, 2).reshape(image.shape[0], -1)


class Encoder(nn.Module):
    """The student's image encoder: pixels, Linear, BatchNorm, ReLU.

    Attributes:
      features: width.
    """

    features: int

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Features of an NHWC image."""
        pixels = Flatten()(image, train=train)
        projection = ImageProjection(self.features, batch_norm=True, name="projection")
        return projection(pixels, train=train)


STUDENT_LAYERS: Layers = {
    "fc_new1.0": ("encoder", "projection", "linear"),
    "fc_new1.1": ("encoder", "projection", "norm"),
    "fc_new2": ("classifier",),
}
TEACHER_LAYERS: Layers = {
    **fusion_layers.omics_layers("omic_net.", ("omics_network",)),
    **fusion_layers.kronecker_layers(("fusion",), True),
    "path_net.fc_new1.0": ("projection", "linear"),
    "path_net.fc_new1.1": ("projection", "norm"),
    "path_net.fc_new2": ("image_classifier",),
}
TEACHER_MASKS: dict[str, Path] = {
    name.removesuffix("#0"): path
    for name, path in {
        **fusion_layers.omics_masks("omic_net.", ("omics_network",)),
        **fusion_layers.kronecker_masks(("fusion",), True),
    }.items()
}
# A recorded output of the teacher -> ours, of a NetworkOutput.
OUTPUTS = {
    "fuse_feat": lambda out: out.fused.features,
    "path_feat": lambda out: out.image_features,
    "omic_feat": lambda out: out.omics_features,
    "logits_fuse": lambda out: out.fused.logits,
    "logits_path": lambda out: out.image_logits,
    "logits_omic": lambda out: out.omics_logits,
}


def teacher_network(
    tensors: Mapping[str, np.ndarray], cfg: Mapping[str, Any]
) -> Network:
    """The network of a teacher's tensors; dropout and the cut come from constants."""
    hidden = (tensors[f"omic_net.encoder.{i}.0.bias"].size for i in range(3))
    return dgkd_network.network(
        encoder=Flatten(),
        num_classes=len(tensors["classifier.0.bias"]),
        features=len(tensors["path_net.fc_new1.0.bias"]),
        fused=len(tensors["fusion.encoder2.0.bias"]),
        rate=float(cfg.get("dropout_rate", 0.0)),
        cut_gradient=bool(cfg.get("cut_fuse_grad", True)),
        widths=tuple(hidden),
    )


def variables(tensors: Mapping[str, np.ndarray], layers: Layers) -> dict[str, Any]:
    """`params` and `batch_stats` of tensors by PyTorch name, on the device."""
    return jax.tree.map(jnp.asarray, torch_layout.to_flax(tensors, layers))


def batch_of(recording: Recording, step: int, epoch: int) -> Batch:
    """A recorded batch; images are channels last."""
    z = torch_layout.under(recording, f"batch{step}/")
    size = len(z["grade"])
    index = z.get("index", np.zeros(size, np.int32))

    def image(name: str) -> Any:
        return None if name not in z else jnp.asarray(np.moveaxis(z[name], 1, 3))

    return Batch(
        image=image("image"),
        second_view=image("image2"),
        grade=jnp.asarray(z["grade"], jnp.int32),
        index=jnp.asarray(index, jnp.int32),
        omics=jnp.asarray(z["omic"]) if "omic" in z else None,
        epoch=jnp.full(size, epoch, jnp.int32),
        biomarkers=jnp.zeros((size, 0), jnp.int32),
        known=jnp.zeros((size, 0), bool),
        floats=jnp.zeros((size, 0)),
        valid=jnp.ones(size, bool),
    )


def masks(recording: Recording, prefix: str) -> dict[str, Any]:
    """Recorded dropout masks of one network, by PyTorch module."""
    recorded = torch_layout.under(recording, prefix)
    return {name: jnp.asarray(mask, bool) for name, mask in recorded.items()}


@contextmanager
def dropping(*copies: Mapping[str, Any]) -> Iterator[None]:
    """Random masks replaced by recorded ones; each copy of the network in turn."""
    left = {
        path: [copy[name] for copy in copies if name in copy]
        for name, path in TEACHER_MASKS.items()
    }

    def interceptor(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "sample_mask":
            return next_fun(*args, **kwargs)
        return left[context.module.path].pop(0)

    with nn.intercept_methods(interceptor):
        yield


def after_rows(
    quantity: str,
    theirs: Mapping[str, np.ndarray],
    ours: Mapping[str, Any],
    layers: Layers,
    kind: str,
    where: str,
) -> list[Row]:
    """Rows of parameters, and of batch statistics, after a step."""
    rows: list[Row] = []
    for name, value in theirs.items():
        if name.endswith(VANISHING):
            continue
        got = torch_layout.from_flax(name, ours, layers)
        if got is None:
            continue
        at = f"{name} after {where}"
        leaf = name.rpartition(".")[2]
        if leaf in STATISTICS:
            mean = leaf == "running_mean"
            moved = "statistics, mean" if mean else "statistics"
            rows.append(row(f"{quantity} statistics", got, value, moved, where=at))
        else:
            rows.append(
                row(f"{quantity} parameters", got, value, kind, scale=1.0, where=at)
            )
    return rows

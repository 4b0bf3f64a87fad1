"""Reads recordings of the authors' code as method, variables and batches."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.release import method, state_dict
from fof_jax.models import vit
from fof_jax.types import Batch, Variables

Recording = Mapping[str, np.ndarray]

# Constants of the authors' configuration; `cfg/*` of a recording overrides them.
CONSTANTS = {
    "tau": 0.07,
    "theta": 0.5,
    "lambda_region": 0.2,
    "lambda_dis_gene": 0.2,
    "lambda_float_gene": 5.0,
    "lambda_neg": 1.0,
    "ema_decay": 0.999,
    "weight_decay": 0.01,
    "layer_norm_eps": 1e-12,
    "cam_block": -2,
}


def method_of(z: Recording, **changes: Any) -> method.Release:
    """Builds the method with a recording's sizes and constants.

    Args:
      z: a recording of optimizer steps.
      changes: arguments of `method.build` that override the recording.
    """
    c = constants(z)
    genes, floats = z["batch0/dis_gene"].shape[1], z["batch0/float_gene"].shape[1]
    size = vit.Size(
        width=c["hidden"], depth=c["layers"], heads=c["heads"], mlp=c["mlp"]
    )
    side = z["batch0/view1"].shape[2:]
    encoder = vit.ViT(
        size=size,
        patch=c["patch"],
        image_size=(int(side[0]), int(side[1])),
        layer_norm_eps=c["layer_norm_eps"],
    )
    numbers = [name for name in inspect.signature(method.build).parameters if name in c]
    options = {
        "encoder": encoder,
        "num_classes": c["num_classes"],
        "num_biomarkers": genes,
        "num_floats": floats,
        "world_size_emulated": 1,
        "data_label_transform": "raw",
        "data_label_means": (),
        "data_label_stds": (),
        **{name: c[name] for name in numbers},
    }
    return method.build(**(options | changes))


def constants(z: Recording) -> dict[str, Any]:
    """`CONSTANTS` overridden by `cfg/*`, as Python numbers."""
    cfg = {k[4:]: z[k].item() for k in z if k.startswith("cfg/") and z[k].size == 1}
    return CONSTANTS | cfg


def variables_of(z: Recording, prefix: str = "init/") -> Variables:
    """Recorded parameters and state."""
    named = {k[len(prefix) :]: z[k] for k in z if k.startswith(prefix)}
    return jax.tree.map(jnp.asarray, state_dict.from_state_dict(named))


def batch_of(z: Recording, number: int) -> Batch:
    """A recorded batch, with channels last."""
    prefix = f"batch{number}/"
    rows = z[prefix + "grade"].shape[0]
    genes = jnp.asarray(z[prefix + "dis_gene"].astype(np.int32))
    return Batch(
        image=jnp.asarray(z[prefix + "view1"].transpose(0, 2, 3, 1)),
        second_view=jnp.asarray(z[prefix + "view2"].transpose(0, 2, 3, 1)),
        grade=jnp.asarray(z[prefix + "grade"].astype(np.int32)),
        biomarkers=genes,
        known=jnp.ones_like(genes, bool),
        floats=jnp.asarray(z[prefix + "float_gene"]),
        index=jnp.arange(rows),
        epoch=jnp.zeros(rows, jnp.int32),
        valid=jnp.ones(rows, bool),
    )

"""Reads recordings of the authors' code as method, variables and batches."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.release import method, model, state_dict
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
      changes: fields of `Release` that override the recording.
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
    return dataclasses.replace(
        method.Release(
            network=model.Model(
                encoder=encoder,
                num_classes=c["num_classes"],
                cam_block=c["cam_block"],
            ),
            projectors=model.Projectors(num_biomarkers=genes),
            theta=c["theta"],
            tau=c["tau"],
            lambda_region=c["lambda_region"],
            lambda_dis_gene=c["lambda_dis_gene"] if genes else 0.0,
            lambda_float_gene=c["lambda_float_gene"] if floats else 0.0,
            lambda_neg=c["lambda_neg"],
            ema_decay=c["ema_decay"],
            world_size_emulated=1,
            label_transform="raw",
            label_means=(),
            label_stds=(),
        ),
        **changes,
    )


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

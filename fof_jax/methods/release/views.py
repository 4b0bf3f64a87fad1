"""The three views of a batch: whole, masked by the focus map, masked inversely."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fof_jax.methods.release import cam, model
from fof_jax.types import Batch, Params

Reference = Float[Array, "B D"] | None  # recorded directions, see `cam`


@flax.struct.dataclass
class Views:
    """The three views of a batch and how they came about.

    Attributes:
      tokens: the residual stream that the map is taken from.
      activation: the map.
      hide: True where the positive view hides the patch and the negative shows it.
      glb: view 1, whole; pos: view 2, masked (Q9); neg: view 1, masked inversely.
    """

    tokens: Float[Array, "B P D"]
    activation: cam.Activation
    hide: Bool[Array, "B h w"]
    glb: model.Output
    pos: model.Output
    neg: model.Output


def apply(
    network: model.Model,
    params: Params,
    *arguments: jax.Array,
    method: str = "__call__",
) -> Any:
    """A method of the model with its parameters."""
    return network.apply({"params": params}, *arguments, method=method)


def make(
    network: model.Model,
    params: Params,
    batch: Batch,
    *,
    theta: float,
    reference: Reference = None,
) -> Views:
    """Global forward, map, mask, and one forward of both masked views.

    The map reuses the global forward and differentiates the tail only; the authors
    run the whole network forwards and backwards for it (item 12).

    Args:
      network: the model.
      params: its parameters.
      batch: with `second_view`.
      theta: see `cam.hide_mask`.
      reference: directions whose signs a replay takes over.

    Raises:
      ValueError: the batch has one colour view only.
    """
    if batch.second_view is None:
        raise ValueError(
            "release: the batch has no second colour view, expected two draws of "
            "each crop. Build the loader with the method's colour_views (2)."
        )
    first = apply(network, params, batch.image, method="embed")
    second = apply(network, params, batch.second_view, method="embed")
    tokens = apply(network, params, first, method="head")
    glb = apply(network, params, tokens, method="tail")
    activation = focus_map(network, params, tokens, batch.grade, reference)
    hide = cam.hide_mask(activation.A, patch=network.encoder.patch, theta=theta)
    # Q9: the positive view is the second colour draw, not a part of the first.
    pos = apply(network, params, second, hide, method="mask")
    neg = apply(network, params, first, ~hide, method="mask")
    both = apply(network, params, jnp.concatenate([pos, neg]), method="head")
    both = apply(network, params, both, method="tail")
    b = batch.image.shape[0]
    return Views(
        tokens=tokens,
        activation=activation,
        hide=hide,
        glb=glb,
        pos=jax.tree.map(lambda a: a[:b], both),
        neg=jax.tree.map(lambda a: a[b:], both),
    )


def focus_map(
    network: model.Model,
    params: Params,
    tokens: Float[Array, "B P D"],
    target: Int[Array, " B"],
    reference: Reference = None,
) -> cam.Activation:
    """The map of some classes from the tokens of the block that it is taken from.

    Args:
      network: the model.
      params: its parameters.
      tokens: what `head` returns.
      target: classes.
      reference: see `make`.
    """
    frozen = lax.stop_gradient(params)
    return cam.principal_component_map(
        logits_of=lambda v: apply(network, frozen, v, method="tail").global_logits,
        tokens=tokens,
        target=target,
        grid=network.encoder.grid,
        image_size=network.encoder.image_size,
        reference=reference,
    )

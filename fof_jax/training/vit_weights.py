"""Fits the weights of a ViT to the class token and the grid of another."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fof_jax.models import vit
from fof_jax.models.pretrained import position_embedding
from fof_jax.types import Params


def fit(
    tree: Params,
    initial: Params,
    encoder: vit.ViT,
    about: dict[str, Any],
    *,
    class_token: str,
    pos_embed: str,
    pos_resize: str,
    log: Callable[[str], None],
) -> Params:
    """Weights of an encoder with the class token and the grid of another.

    Args:
      tree: the weights.
      initial: those of `encoder`, initialized.
      encoder: which they are to fit.
      about: of the weights, from about.json.
      class_token, pos_embed, pos_resize, log: as in
        `init_weights.initial_variables`.
    """
    tree = dict(tree)
    if about.get("class_token") and class_token == "drop":
        log("init.checkpoint: encoder class token left out (init.class_token=drop)")
        tree["ahead"] = np.asarray(tree["ahead"])[1:]
        if not len(tree["ahead"]):
            del tree["ahead"]
    width = np.shape(initial["position"])[1]
    if np.shape(tree["position"])[1] == width:
        tree["position"] = _position(
            tree["position"],
            initial["position"],
            about.get("grid"),
            encoder.grid,
            pos_embed=pos_embed,
            pos_resize=pos_resize,
            log=log,
        )
    return tree


def _position(
    source: np.ndarray,
    initial: Any,
    grid: list[int] | None,
    to: tuple[int, int],
    *,
    pos_embed: str,
    pos_resize: str,
    log: Callable[[str], None],
) -> np.ndarray:
    side = math.isqrt(len(source))
    h, w = grid or (side, side)  # runs have square images
    if (h, w) == to:
        return source
    sizes = f"{h} x {w} -> {to[0]} x {to[1]}"
    if pos_embed == "redraw":
        out, how = np.asarray(initial), "initialized anew"
    else:
        out = position_embedding.resize(
            np.asarray(source), grid=(h, w), to=to, method=pos_resize
        )
        how = pos_resize
    before, after = (float(np.sqrt(np.mean(np.square(a)))) for a in (source, out))
    log(
        f"init.checkpoint: encoder position {sizes}, {how}; root mean square "
        f"{before:.4f} -> {after:.4f}"
    )
    return out

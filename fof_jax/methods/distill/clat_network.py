"""CLAT's networks after the image encoder: image head, omics network, gated fusion.

Plain functions of parameters and BatchNorm statistics, both nested dicts. They take the
rows of the whole batch, so that BatchNorm needs no axis name: callers gather the
encoder's output of all devices first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fof_jax.methods.distill import clat_layers
from fof_jax.methods.distill.clat_layers import Tree, dense

OMIC_WIDTHS = (64, 48, 32)  # then the common width


class Branch(NamedTuple):
    """Features after ReLU, and logits, of one branch."""

    features: Float[Array, "B D"]
    logits: Float[Array, "B K"]


class Branches(NamedTuple):
    """The three branches of the multimodal network."""

    image: Branch
    omic: Branch
    fused: Branch


def image_head(
    params: Tree, statistics: Tree, encoded: Float[Array, "B E"], *, train: bool
) -> tuple[Branch, Tree]:
    """Linear, BatchNorm, ReLU to the distilled feature, and a linear classifier."""
    hidden, statistics = clat_layers.batch_norm(
        dense(encoded, params["hidden"]), params["norm"], statistics, train=train
    )
    features = jax.nn.relu(hidden)
    return Branch(features, dense(features, params["classifier"])), statistics


def omic_network(
    params: Tree,
    omics: Float[Array, "B M"],
    *,
    rate: float = 0.0,
    key: jax.Array | None = None,
) -> Branch:
    """Four dense layers with ELU and AlphaDropout; ReLU on the last is the feature."""
    x = omics
    for i, layer in enumerate(params["layers"]):
        layer_key = None if key is None else jax.random.fold_in(key, i)
        x = clat_layers.alpha_dropout(jax.nn.elu(dense(x, layer)), rate, layer_key)
    features = jax.nn.relu(x)
    return Branch(features, dense(features, params["classifier"]))


def gated_fusion(
    params: Tree,
    statistics: Tree,
    image: Float[Array, "B D"],
    omic: Float[Array, "B D"],
    *,
    train: bool,
    rate: float = 0.0,
    key: jax.Array | None = None,
) -> tuple[Float[Array, "B D"], Tree]:
    """Both modalities gated by each other, their Kronecker product, two dense layers.

    Args:
      params: see `init_fusion`.
      statistics: of the two BatchNorms.
      image, omic: features after ReLU.
      train: batch statistics.
      rate, key: of dropout; no key is no dropout.

    Returns:
      The fused feature and the new statistics.

    Source: methods/clat_pathgcn.md, "CLAT, the stand-in encoder"; METHODS.md 5.0.
    """
    keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
    image, omic = jax.nn.relu(image), jax.nn.relu(omic)
    rows, one = len(image), jnp.ones((len(image), 1))
    gated = []
    for i, v in ((1, image), (2, omic)):
        hidden = jax.nn.relu(dense(v, params[f"h{i}"]))
        z = params[f"z{i}"]
        gate = jnp.einsum("bi,oij,bj->bo", image, z["kernel"], omic) + z["bias"][None]
        o = jax.nn.relu(dense(jax.nn.sigmoid(gate) * hidden, params[f"o{i}"]))
        gated.append(
            jnp.concatenate([clat_layers.dropout(o, rate, keys[i - 1]), one], axis=1)
        )
    product = jnp.einsum("bi,bj->bij", *gated).reshape(rows, -1)
    x = clat_layers.dropout(product, rate, keys[2])
    statistics = dict(statistics)
    for i in (1, 2):
        x, statistics[f"norm{i}"] = clat_layers.batch_norm(
            dense(x, params[f"encoder{i}"]),
            params[f"norm{i}"],
            statistics[f"norm{i}"],
            train=train,
        )
        x = clat_layers.dropout(jax.nn.relu(x), rate, keys[2 + i])
    return x, statistics


def multimodal(
    params: Tree,
    statistics: Tree,
    encoded: Float[Array, "B E"],
    omics: Float[Array, "B M"],
    *,
    train: bool,
    rate: float = 0.0,
    key: jax.Array | None = None,
) -> tuple[Branches, Tree]:
    """The three branches; gradients of the fused one run into both others.

    Args:
      params, statistics: see `init_multimodal`.
      encoded: the image encoder's output.
      omics: standardized.
      train: batch statistics instead of running ones.
      rate, key: of dropout; no key is no dropout.

    Returns:
      Branches, and the statistics after this call.
    """
    keys = (None, None) if key is None else jax.random.split(key)
    image, image_statistics = image_head(
        params["image"], statistics["image"], encoded, train=train
    )
    omic = omic_network(params["omic"], omics, rate=rate, key=keys[0])
    features, fusion_statistics = gated_fusion(
        params["fusion"],
        statistics["fusion"],
        image.features,
        omic.features,
        train=train,
        rate=rate,
        key=keys[1],
    )
    fused = Branch(features, dense(features, params["classifier"]))
    after = {"image": image_statistics, "fusion": fusion_statistics}
    return Branches(image, omic, fused), after


def init_image_head(
    key: jax.Array, *, encoded: int, width: int, classes: int
) -> tuple[Tree, Tree]:
    """Parameters and statistics of `image_head`."""
    first, second = jax.random.split(key)
    norm, statistics = clat_layers.init_norm(width)
    params = {
        "hidden": clat_layers.init_linear(first, encoded, width),
        "norm": norm,
        "classifier": clat_layers.init_linear(second, width, classes),
    }
    return params, statistics


def init_omic_network(key: jax.Array, *, omics: int, width: int, classes: int) -> Tree:
    """Parameters of `omic_network`: N(0, 1/fan_in), no bias."""
    sizes = (omics, *OMIC_WIDTHS, width)
    *layers, last = jax.random.split(key, len(sizes))
    return {
        "layers": [
            clat_layers.init_normal_linear(k, fan_in, out)
            for k, fan_in, out in zip(layers, sizes, sizes[1:], strict=False)
        ],
        "classifier": clat_layers.init_normal_linear(last, width, classes),
    }


def init_fusion(key: jax.Array, *, width: int) -> tuple[Tree, Tree]:
    """Parameters and statistics of `gated_fusion`."""
    keys = iter(jax.random.split(key, 10))
    params: Tree = {}
    for i in (1, 2):
        params[f"h{i}"] = clat_layers.init_normal_linear(next(keys), width, width)
        params[f"z{i}"] = {
            "kernel": clat_layers.uniform(next(keys), (width, width, width), width),
            "bias": clat_layers.uniform(next(keys), (width,), width),
        }
        params[f"o{i}"] = clat_layers.init_normal_linear(next(keys), width, width)
    params["encoder1"] = clat_layers.init_normal_linear(
        next(keys), (width + 1) ** 2, width
    )
    params["encoder2"] = clat_layers.init_normal_linear(next(keys), width, width)
    params["norm1"], statistics = clat_layers.init_norm(width)
    params["norm2"], _ = clat_layers.init_norm(width)
    return params, {"norm1": statistics, "norm2": statistics}


def init_multimodal(
    key: jax.Array, *, encoded: int, omics: int, width: int, classes: int
) -> tuple[Tree, Tree]:
    """Parameters and statistics of `multimodal`, distributed as published."""
    image, omic, fusion, last = jax.random.split(key, 4)
    head, head_statistics = init_image_head(
        image, encoded=encoded, width=width, classes=classes
    )
    fusion_params, fusion_statistics = init_fusion(fusion, width=width)
    params = {
        "image": head,
        "omic": init_omic_network(omic, omics=omics, width=width, classes=classes),
        "fusion": fusion_params,
        "classifier": clat_layers.init_linear(last, width, classes),
    }
    return params, {"image": head_statistics, "fusion": fusion_statistics}

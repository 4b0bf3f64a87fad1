"""Encoder tokens at nuclei, as columns of cell graphs beside the 12 of the builder."""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from PIL import Image

from fof_jax.data.augment import pipeline
from fof_jax.data.graphs import record
from fof_jax.methods import encoder
from fof_jax.models import vit
from fof_jax.training import vit_weights, weights
from fof_jax.types import Params


@dataclasses.dataclass(frozen=True, eq=False)
class TokenColumns:
    """Adds the token of the patch at each nucleus; created by `load`.

    Attributes:
      network: a Vision Transformer.
      params: its weights.
      color: as in `pipeline.normalize`.
      about: JSON values that identify the columns.
    """

    network: vit.ViT
    params: Params
    color: bool
    about: dict[str, Any]

    def __call__(
        self, rgb: Annotated[np.ndarray, "uint8 [H, W, 3]"], graph: record.CellGraph
    ) -> record.CellGraph:
        """The graph with columns `token_0` … appended.

        Args:
          rgb: the region, which is resized to the encoder's image size.
          graph: of it; centroids are in its pixels.
        """
        height, width = self.network.image_size
        resized = Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)
        tokens = np.asarray(self._tokens(jnp.asarray(np.asarray(resized))[None]))[0]
        return record.append_tokens(graph, tokens, size=rgb.shape[:2])

    @functools.cached_property
    def _tokens(self) -> Any:
        def apply(image: jax.Array) -> Float[jax.Array, "B h w D"]:
            pixels = pipeline.normalize(image, color=self.color)
            tokens: Any = self.network.apply({"params": self.params}, pixels)
            tokens = tokens[:, self.network.num_prefix :]
            return tokens.reshape(len(tokens), *self.network.grid, -1)

        return jax.jit(apply)


def load(config: ConfigDict, folder: str) -> TokenColumns:
    """The encoder of a folder of weights, at `data.image_size`.

    Args:
      config: of the run; its encoder is taken where the folder does not name one.
      folder: what `import` made, or a fold of a run with a ViT.

    Raises:
      ValueError: the folder has no weights of such an encoder.
    """
    source, about = weights.read(Path(folder)), weights.about(Path(folder))
    encoder_about = about.get("encoder", {})
    token_config = ConfigDict(config.to_dict())
    token_config.encoder = encoder_about.get("variant") or config.encoder
    token_config.init.class_token = (
        "keep" if encoder_about.get("class_token") else "drop"
    )
    token_config.pooling = "patches"
    encoder_params = _encoder_of(source.params)
    network = encoder.find_vit(token_config)
    if encoder_params is None or network is None:
        raise ValueError(
            f"pathgcn.tokens: {folder} holds no ViT, expected weights of `import` or a "
            "fold of a run whose encoder is one. Pass another --config.pathgcn.tokens."
        )
    pixels = jax.ShapeDtypeStruct((1, *network.image_size, 3), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), pixels)["params"]
    fitted = vit_weights.fit(
        encoder_params,
        jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes),
        network,
        encoder_about,
        class_token=token_config.init.class_token,
        pos_embed="interpolate",
        pos_resize=config.init.pos_resize,
        log=lambda line: None,
    )
    expected, there = (_shapes(tree) for tree in (shapes, fitted))
    if expected != there:
        raise ValueError(
            f"pathgcn.tokens: the encoder in {folder} is not {token_config.encoder}. "
            "Pass its variant as --config.encoder."
        )
    identity = {
        "encoder": token_config.encoder,
        "image_size": int(config.data.image_size),
        "color": bool(config.data.color),
        "weights": weights.digest(source)[:16],
        "folder": str(Path(folder).resolve()),
    }
    return TokenColumns(network, fitted, bool(config.data.color), identity)


def rebuild(config: ConfigDict, about: dict[str, Any]) -> TokenColumns:
    """The columns that a model's graphs had, for prediction.

    Args:
      config: of the run.
      about: of `TokenColumns`, from model.json.

    Raises:
      ValueError: the weights are gone or others.
    """
    folder = about["folder"]
    token_config = ConfigDict(config.to_dict())
    token_config.encoder = about["encoder"]
    if not Path(folder).exists():
        raise ValueError(
            f"pathgcn.tokens: the model's graphs have tokens of the encoder in "
            f"{folder}, which does not exist. Bring the folder back."
        )
    columns = load(token_config, folder)
    if columns.about["weights"] != about["weights"]:
        raise ValueError(
            f"pathgcn.tokens: {folder} holds other weights than those of the model's "
            "graphs. Bring them back."
        )
    return columns


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}


def _encoder_of(params: Params) -> Params | None:
    """The subtree of the encoder, at the top or one level below."""
    for tree in (params, *params.values()):
        if isinstance(tree, dict) and "encoder" in tree:
            return tree["encoder"]
    return None

"""Features of the tiles of images and slides, by a trained or an imported encoder."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from fof_jax.data import images
from fof_jax.data.augment import pipeline
from fof_jax.data.bags import writing
from fof_jax.inference import components, load, slide_file, slides
from fof_jax.inference.compiled import BATCH, in_batches
from fof_jax.inference.inputs import ImageInput
from fof_jax.models import vit
from fof_jax.training import weights

_SHUFFLE = 42  # seed


@dataclasses.dataclass(frozen=True, eq=False)
class TileEncoder:
    """What turns tiles into features.

    Attributes:
      encode: uint8 tiles [n, S, S, 3] to features [n, D].
      side: S, pixels.
      longest: longest side of a training image; larger tiled TIFFs are slides.
      name: of the encoder.
      digest: of its parameters.
    """

    encode: Callable[[UInt8[np.ndarray, "n S S 3"]], Float[np.ndarray, "n D"]]
    side: int
    longest: int
    name: str
    digest: str


@dataclasses.dataclass(frozen=True)
class Variant:
    """How an imported encoder is used; a trained model is used as it was trained.

    Attributes:
      color: False for grayscale, standardized per tile (`data.color`).
      class_token: False drops it (`init.class_token`).
      shuffled: permutes the values of each tensor: a control without the training.
    """

    color: bool = True
    class_token: bool = True
    shuffled: bool = False


def read_encoder(
    folder: Path, *, tile: int | None = None, variant: Variant | None = None
) -> TileEncoder:
    """Reads an imported encoder, or the encoder of a trained fold.

    Features are those that a classifier receives: of an imported encoder the mean of
    its patches after the last LayerNorm, of a trained model its v.

    Args:
      folder: of `import`, a fold of a run, or a step of it.
      tile: side of a tile in pixels. None: the size that the encoder was trained at,
        or the mean side of the run's images.
      variant: of an imported encoder; None for the usual one.

    Raises:
      ValueError: neither of them; a variant of a trained model; a run of several
        folds; a tile that is no multiple of the patch; a model that needs more than an
        image.
    """
    if weights.about(folder).get("method") == "encoder":
        return _imported(folder, tile, variant or Variant())
    if variant not in (None, Variant()):
        raise ValueError(
            f"features: --gray, --drop_class_token and --shuffle are for imported "
            f"encoders, and {folder} is a trained model. Leave them out."
        )
    model = load.load_trained(folder)
    if len(model.folds) > 1:
        raise ValueError(
            f"features: {folder} is a run of {len(model.folds)} folds, each a model of "
            f"its own. Pass one of them: {model.fold_names[0]}."
        )
    if model.omic_names or "image" not in model.method.inputs.test:
        raise ValueError(
            f"features: method {model.config.method!r} needs "
            f"{', '.join(model.method.inputs.test)}, expected a model of images alone."
        )
    (variables,) = model.folds.values()
    return TileEncoder(
        lambda tiles: model.features(list(tiles))[0],
        slides.tile_side(model) if tile is None else tile,
        max(model.sides or (model.image_size,)),
        f"{model.config.method} {model.config.encoder}",
        _digest(variables.params),
    )


def _imported(folder: Path, tile: int | None, variant: Variant) -> TileEncoder:
    size = None if tile is None else (tile, tile)
    encoder, params = components.imported(folder, image_size=size)
    name = weights.about(folder)["encoder"]["variant"]
    if not variant.class_token and encoder.class_token:
        params = {**params, "ahead": params["ahead"][1:]}
        if not encoder.size.registers:
            del params["ahead"]
        encoder = encoder.clone(class_token=False)
    if variant.shuffled:
        rng = np.random.default_rng(_SHUFFLE)
        params = jax.tree.map(
            lambda a: rng.permutation(np.ravel(a)).reshape(a.shape), params
        )

    @jax.jit
    def pooled(batch):
        x = pipeline.normalize(batch, color=variant.color)
        return encoder.apply({"params": params}, x, method=_pool)

    side = int(encoder.image_size[0])
    return TileEncoder(
        lambda tiles: in_batches(pooled, tiles), side, side, name, _digest(params)
    )


def _pool(encoder: vit.ViT, x: jax.Array) -> jax.Array:
    return encoder.pool(encoder(x))


def _digest(params: object) -> str:
    hasher = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        hasher.update(np.asarray(leaf).tobytes())
    return hasher.hexdigest()[:16]


def of_file(
    encoder: TileEncoder,
    image: ImageInput,
    *,
    mpp: float,
    slide_mpp: float | None = None,
    image_mpp: float | None = None,
    whole: bool = False,
) -> writing.Patches:
    """Features of the tiles of one image or slide.

    An image is cut into whole tiles from its upper left corner on, without overlap; a
    narrower one is padded with white at its right and lower border. Of a slide the
    tiles with tissue are taken.

    Args:
      encoder: of `read_encoder`.
      image: the file.
      mpp: micrometers per pixel of the tiles of a slide.
      slide_mpp: of a slide at level 0, if its file does not state it.
      image_mpp: micrometers per pixel of an image; None if unknown.
      whole: True takes an image as one tile, resized to a square.

    Raises:
      ValueError: not a supported image or slide, or a slide without tissue.
    """
    side, name = encoder.side, Path(image.name).stem
    if slide_file.is_slide(image.path, encoder.longest):
        with slides.open_tiles(
            image.path, side=side, mpp=mpp, slide_mpp=slide_mpp
        ) as tiles:
            count = len(tiles.corners)
            return writing.Patches(
                features=_encoded(encoder, (tiles.read(i) for i in range(count))),
                corners=tiles.corners,
                patch_size=tiles.full,
                pixels=side,
                encoder=encoder.name,
                name=name,
                size=tiles.size,
                mpp=tiles.mpp,
            )
    pixels = images.read(image.path)
    height, width = pixels.shape[:2]
    if whole:
        size = (side, side)
        small = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        return writing.Patches(
            features=_encoded(encoder, iter([np.array(small)])),
            corners=np.zeros((1, 2), np.int64),
            patch_size=max(height, width),
            pixels=side,
            encoder=encoder.name,
            name=name,
            size=(width, height),
            mpp=image_mpp,
        )
    missing = [(0, max(0, side - n)) for n in (height, width)]
    padded = np.pad(pixels, [*missing, (0, 0)], constant_values=255)
    corners = [
        (left, top)
        for top in range(0, padded.shape[0] - side + 1, side)
        for left in range(0, padded.shape[1] - side + 1, side)
    ]
    cut = (padded[y : y + side, x : x + side] for x, y in corners)
    return writing.Patches(
        features=_encoded(encoder, cut),
        corners=np.array(corners, np.int64),
        patch_size=side,
        pixels=side,
        encoder=encoder.name,
        name=name,
        size=(width, height),
        mpp=image_mpp,
    )


def _encoded(encoder: TileEncoder, tiles: Iterator[np.ndarray]) -> np.ndarray:
    """Features of tiles, of which a batch is in memory at a time."""
    parts, batch = [], []
    for tile in tiles:
        batch.append(tile)
        if len(batch) == BATCH:
            parts.append(encoder.encode(np.stack(batch)))
            batch = []
    if batch:
        parts.append(encoder.encode(np.stack(batch)))
    return np.concatenate(parts).astype(np.float32)

"""Augmentation on the device, inside the compiled step (P11); and a look at it.

One resampling an image: crop, flips, displacement and what the authors' code does to
places are composed into one field of coordinates and the pixels are gathered once.
Colour follows, on [0, 1] values, in the fixed order of `data.colour`. The draw of a
record depends on the seed, its index and its epoch alone, so it is the same whatever
the batch, the number of workers or the number of devices.
"""

import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8
from PIL import Image, ImageDraw

from fof_jax.data.augment.color import augment_color, luma, standardize
from fof_jax.data.augment.geometry import coordinates, warp
from fof_jax.data.augment.options import (
    COLORS,
    FLIPS,
    JITTER,
    MOVES,
    TINTS,
    Augmentation,
)
from fof_jax.data.augment.release_ops import mirrored, rearrange
from fof_jax.types import Batch

Number = float | int
Triple = tuple[Number, Number, Number]

# Mean and deviation of the RGB channels of ImageNet, in units of full scale.
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
SECOND_VIEWS = (None, "color", "crop")


@jax.named_scope("augment")
def augment(
    batch: Batch,
    seed_key: jax.Array,
    *,
    spec: Augmentation,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
    color: bool = True,
    second_view: str | None = None,
) -> Batch:
    """Draw, crop, bend, colour and normalize the images of a batch.

    The key of row i is fold_in(fold_in(seed_key, index[i]), epoch[i]). Pure; goes
    under jit and pmap on the local batch.

    Args:
      batch: `image` is uint8 RGB, [B, H, W, 3].
      seed_key: one key for the whole run.
      spec: the amounts.
      mean: per channel, in units of full scale; not used where `color` is False.
      std: likewise.
      color: False for greyscale, as in `normalize`; jitter comes before it. Saturation
        and hue then do nothing, and of brightness and contrast only clipping is left.
      second_view: fills `Batch.second_view`: "color" with another color jitter of the
        same crop, "crop" with another crop; None leaves it empty.

    Returns:
      The batch with `image` (and `second_view`) float32 [B, H, W, 3], normalized.

    Raises:
      ValueError: images that are not uint8 RGB; a second view that does not exist.
    """
    _check(batch.image)
    if second_view not in SECOND_VIEWS:
        raise ValueError(
            f"second_view is {second_view!r}; expected one of {SECOND_VIEWS}."
        )

    draw = partial(
        _views, spec=spec, mean=mean, std=std, color=color, second_view=second_view
    )
    views = jax.vmap(draw, in_axes=(0, 0, 0, None))(
        batch.image, batch.index, batch.epoch, seed_key
    )
    second = None if second_view is None else views[1]
    return dataclasses.replace(batch, image=views[0], second_view=second)


def _views(image, index, epoch, seed_key, *, spec, mean, std, color, second_view):
    """`augment` for one record: one image, or two with a second view."""
    amounts = vars(spec)
    color_options = {name: amounts[name] for name in COLORS}
    moves = {name: amounts[name] for name in MOVES}
    geometry = {n: amounts[n] for n in amounts if n not in (*COLORS, *MOVES)}
    key = jax.random.fold_in(jax.random.fold_in(seed_key, index), epoch)
    k_space, k_first, k_second = jax.random.split(key, 3)
    height, width, _ = image.shape

    def crop(k_space: jax.Array) -> jax.Array:
        where = coordinates(k_space, height=height, width=width, **geometry)
        if any(moves.values()):
            k_move = jax.random.fold_in(k_space, 1)
            inside = mirrored(where, (height, width))
            where = rearrange(k_move, inside, height=height, width=width, **moves)
        return warp(image if color else luma(image), where)  # [H, W, 3 | 1]

    def finish(pixels: jax.Array, key: jax.Array) -> jax.Array:
        return _finish(
            augment_color(pixels, key, **color_options), mean=mean, std=std, color=color
        )

    pixels = crop(k_space)
    views = [finish(pixels, k_first)]
    if second_view == "crop":
        pixels = crop(jax.random.fold_in(k_space, 2))
    if second_view is not None:
        views.append(finish(pixels, k_second))
    return views


def normalize(
    image: Shaped[Array, "B H W 3"],
    *,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
    color: bool = True,
) -> Float[Array, "B H W 3"]:
    """Bring images to the form that the model sees, without augmentation.

    Args:
      image: RGB, 0-255.
      mean: per channel, in units of full scale.
      std: likewise.
      color: True for (image / 255 - mean) / std. False for the BT.601 luma, brought
        to mean 0 and deviation 1 within each image (a constant image becomes 0) and
        repeated to three channels.

    Returns:
      float32, normalized.

    Raises:
      ValueError: images that are not uint8 RGB.
    """
    _check(image)

    def one(picture):
        pixels = picture if color else luma(picture)
        return _finish(
            pixels.astype(jnp.float32) / 255, mean=mean, std=std, color=color
        )

    return jax.vmap(one)(image)


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    names: Sequence[str],
    path: str | Path,
    *,
    spec: Augmentation,
    seed: int,
    draws: int = 6,
    color: bool = True,
    side: int = 256,
) -> None:
    """Write a picture of what the augmentation does to some images.

    A row an image: the original, `draws` draws of the whole augmentation (epochs 0,
    1, …), then draw 0 taken apart: each operation alone, flips always done.

    Args:
      images: RGB, 0-255, [H, W, 3]; sizes may differ. Augmented at their own size.
      names: one an image, written under its row's first picture.
      path: PNG to write; written whole or not at all.
      spec: the amounts. Operations that are off have no column.
      seed: seed of the run; image i is drawn as record i.
      draws: columns of whole draws.
      color: as in `augment`; greyscale is shown at -3 to 3 deviations.
      side: width and height of a cell in the sheet, pixels.

    Raises:
      ValueError: no images, or not one name an image.
    """
    if not images or len(images) != len(names):
        raise ValueError(
            f"A contact sheet got {len(images)} images and {len(names)} names; "
            "expected one or more images and a name each. Pass both lists whole."
        )
    columns = [("original", Augmentation.off(), 0)]
    columns += [(f"draw {epoch}", spec, epoch) for epoch in range(draws)]
    columns += [(f"{name} only", alone, 0) for name, alone in _alone(spec).items()]
    pad, text = 4, 16  # pixels between cells, and for a line of text
    sheet = Image.new(
        "RGB",
        (len(columns) * (side + pad), text + len(images) * (side + text + pad)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for j, (label, _, _) in enumerate(columns):
        draw.text((j * (side + pad) + 2, 1), label, fill="black")
    key = jax.random.key(seed)
    for i, (image, name) in enumerate(zip(images, names, strict=True)):
        top = text + i * (side + text + pad)
        for j, (_, amounts, epoch) in enumerate(columns):
            view = _shown(image, i, epoch, key, spec=amounts, color=color)
            cell = Image.fromarray(np.asarray(view)).resize((side, side))
            sheet.paste(cell, (j * (side + pad), top))
        draw.text((2, top + side + 1), name, fill="black")
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.tmp")
    sheet.save(unfinished, format="PNG")
    os.replace(unfinished, path)


@partial(jax.jit, static_argnames=("spec", "color"))
def _shown(image, index, epoch, key, *, spec, color):
    """One draw as 0-255, for the eye."""
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # leaves [0, 1] as it is
    draw = _views(
        image, index, epoch, key, spec=spec, color=color, second_view=None, **plain
    )
    view = draw[0] if color else draw[0] / 6 + 0.5
    return jnp.round(jnp.clip(view, 0, 1) * 255).astype(jnp.uint8)


def _alone(spec: Augmentation) -> dict[str, Augmentation]:
    """Each operation of `spec` that is on, by itself, and certain to be done."""
    off = dataclasses.replace(Augmentation.off(), elastic_cells=spec.elastic_cells)
    groups: dict[str, tuple[str, ...]] = {"crop": ("crop_area", "crop_aspect")}
    names_of = (*FLIPS, "elastic", *MOVES, "stain", *JITTER, *TINTS)
    groups |= {name: (name,) for name in names_of}
    alone = {}
    for label, names in groups.items():
        amounts: dict[str, Any] = {name: getattr(spec, name) for name in names}
        if label in (*FLIPS, *MOVES, *TINTS):
            amounts = {label: float(amounts[label] > 0)}
        alone[label] = dataclasses.replace(off, **amounts)
    return {label: one for label, one in alone.items() if one != off}


def _finish(image, *, mean, std, color):
    if not color:
        return jnp.broadcast_to(standardize(image), (*image.shape[:2], 3))
    middle = jnp.array(mean, jnp.float32).reshape(1, 1, 3)
    return (image - middle) / jnp.array(std, jnp.float32).reshape(1, 1, 3)


def _check(image) -> None:
    if image.dtype != jnp.uint8 or image.shape[-1] != 3:
        raise ValueError(
            f"Images are {image.dtype} with {image.shape[-1]} channels; expected "
            "uint8 RGB as the loader gives them. Augment or normalize a batch once."
        )

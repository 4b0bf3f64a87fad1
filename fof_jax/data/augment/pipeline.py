"""Augmentation pipeline of the compiled training step (P11), and a contact sheet.

All geometric operations are composed into one coordinate field, so each image is
resampled once. Color operations follow on [0, 1] values, in the order of `color.py`.
The random key of a record depends only on the seed, its index and its epoch, not on the
batch, the number of workers or devices.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8
from PIL import Image, ImageDraw

from fof_jax import files
from fof_jax.data.augment.color import augment_color, luma, standardize
from fof_jax.data.augment.geometry import coordinates, warp, warp_labels
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

# Mean and standard deviation of the RGB channels of ImageNet, in [0, 1].
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
    """Augments and normalizes the images of a batch.

    The key of row i is fold_in(fold_in(seed_key, index[i]), epoch[i]). Pure; works
    under jit and pmap on the local batch.

    Args:
      batch: `image` is uint8 RGB, [B, H, W, 3]; `superpixels`, if there are any, are
        moved with it. A batch without images stays as it is.
      seed_key: key of the run.
      spec: augmentation options.
      mean: per channel, in [0, 1]; unused if `color` is False.
      std: likewise.
      color: False for grayscale, as in `normalize`, after the jitter. Then saturation
        and hue have no effect, and brightness and contrast only clip.
      second_view: fills `Batch.second_view`: "color" with another color jitter of the
        same crop, "crop" with another crop; None leaves it empty.

    Returns:
      The batch with `image` (and `second_view`) float32 [B, H, W, 3], normalized.

    Raises:
      ValueError: images that are not uint8 RGB; an unknown second view.
    """
    if batch.image is None:
        return batch
    _check(batch.image)
    if second_view not in SECOND_VIEWS:
        raise ValueError(
            f"second_view is {second_view!r}; expected one of {SECOND_VIEWS}."
        )

    augment_one = partial(
        _views, spec=spec, mean=mean, std=std, color=color, second_view=second_view
    )
    views, labels = jax.vmap(augment_one, in_axes=(0, 0, 0, 0, None))(
        batch.image, batch.superpixels, batch.index, batch.epoch, seed_key
    )
    second = None if second_view is None else views[1]
    return dataclasses.replace(
        batch, image=views[0], superpixels=labels, second_view=second
    )


def _views(
    image, superpixels, index, epoch, seed_key, *, spec, mean, std, color, second_view
):
    """Augments one record: one image, or two with a second view, and superpixels."""
    options = vars(spec)
    color_options = {name: options[name] for name in COLORS}
    moves = {name: options[name] for name in MOVES}
    geometry = {n: options[n] for n in options if n not in (*COLORS, *MOVES)}
    key = jax.random.fold_in(jax.random.fold_in(seed_key, index), epoch)
    k_space, k_first, k_second = jax.random.split(key, 3)
    height, width, _ = image.shape

    def place(k_space: jax.Array) -> tuple[jax.Array, jax.Array]:
        where = coordinates(k_space, height=height, width=width, **geometry)
        if any(moves.values()):
            k_move = jax.random.fold_in(k_space, 1)
            inside = mirrored(where, (height, width))
            where = rearrange(k_move, inside, height=height, width=width, **moves)
        return where

    def crop(where: tuple[jax.Array, jax.Array]) -> jax.Array:
        return warp(image if color else luma(image), where)  # [H, W, 3 | 1]

    def finish(pixels: jax.Array, key: jax.Array) -> jax.Array:
        return _finish(
            augment_color(pixels, key, **color_options), mean=mean, std=std, color=color
        )

    where = place(k_space)
    pixels = crop(where)
    views = [finish(pixels, k_first)]
    if second_view == "crop":
        pixels = crop(place(jax.random.fold_in(k_space, 2)))
    if second_view is not None:
        views.append(finish(pixels, k_second))
    labels = None if superpixels is None else warp_labels(superpixels, where)
    return views, labels


def normalize(
    image: Shaped[Array, "B H W 3"],
    *,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
    color: bool = True,
) -> Float[Array, "B H W 3"]:
    """Normalizes images to the input range of the model, without augmentation.

    Args:
      image: RGB, 0-255.
      mean: per channel, in [0, 1].
      std: likewise.
      color: True for (image / 255 - mean) / std. False for BT.601 luma, standardized
        within each image (constant images become 0) and replicated to three channels.

    Returns:
      float32, normalized.

    Raises:
      ValueError: images that are not uint8 RGB.
    """
    _check(image)

    def one(image):
        pixels = image if color else luma(image)
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
    """Writes a contact sheet of augmented images.

    One row per image: the original, `draws` samples of the full augmentation (epochs
    0, 1, …), then each operation of sample 0 separately, with flips always applied.

    Args:
      images: RGB, 0-255, [H, W, 3]; sizes may differ. Augmented at their own size.
      names: captions, one per image.
      path: PNG to write.
      spec: augmentation options; operations that are off have no column.
      seed: seed of the run; image i is augmented as record i.
      draws: number of samples of the full augmentation.
      color: as in `augment`; grayscale is shown at -3 to 3 standard deviations.
      side: width and height of a cell in pixels.

    Raises:
      ValueError: no images, or not one name per image.
    """
    if not images or len(images) != len(names):
        raise ValueError(
            f"A contact sheet got {len(images)} images and {len(names)} names; "
            "expected at least one image and one name per image."
        )
    columns = [("original", Augmentation.off(), 0)]
    columns += [(f"draw {epoch}", spec, epoch) for epoch in range(draws)]
    columns += [(f"{name} only", alone, 0) for name, alone in _alone(spec).items()]
    pad, text = 4, 16  # gap between cells and height of a caption, in pixels
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
        for j, (_, options, epoch) in enumerate(columns):
            view = _rendered(image, i, epoch, key, spec=options, color=color)
            cell = Image.fromarray(np.asarray(view)).resize((side, side))
            sheet.paste(cell, (j * (side + pad), top))
        draw.text((2, top + side + 1), name, fill="black")
    files.write_with(Path(path), lambda file: sheet.save(file, format="PNG"))


@partial(jax.jit, static_argnames=("spec", "color"))
def _rendered(image, index, epoch, key, *, spec, color):
    """One augmented image as uint8, for display."""
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # identity on [0, 1]
    options = {"spec": spec, "color": color, "second_view": None, **plain}
    views, _ = _views(image, None, index, epoch, key, **options)
    view = views[0] if color else views[0] / 6 + 0.5
    return jnp.round(jnp.clip(view, 0, 1) * 255).astype(jnp.uint8)


def _alone(spec: Augmentation) -> dict[str, Augmentation]:
    """Isolates each active operation of `spec` and applies it with probability 1."""
    off = dataclasses.replace(Augmentation.off(), elastic_cells=spec.elastic_cells)
    groups: dict[str, tuple[str, ...]] = {"crop": ("crop_area", "crop_aspect")}
    names_of = (*FLIPS, "elastic", *MOVES, "stain", *JITTER, *TINTS)
    groups |= {name: (name,) for name in names_of}
    alone = {}
    for label, names in groups.items():
        options: dict[str, Any] = {name: getattr(spec, name) for name in names}
        if label in (*FLIPS, *MOVES, *TINTS):
            options = {label: float(options[label] > 0)}
        alone[label] = dataclasses.replace(off, **options)
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

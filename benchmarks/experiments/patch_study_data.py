"""Images as bags: the patches of each, encoded once by a frozen encoder."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8
from ml_collections import ConfigDict

from benchmarks.experiments.bag_study_data import Bags
from fof_jax import files
from fof_jax.data import images, metadata, splits, squares
from fof_jax.data.augment import pipeline
from fof_jax.data.bags.reading import BagValues
from fof_jax.data.cohort import Row, read_cohort
from fof_jax.inference import components
from fof_jax.inference.compiled import BATCH
from fof_jax.types import Params

COVERED = 0.5  # of a patch that the mask has to cover
Pixels = UInt8[np.ndarray, "S S 3"]


def read(config: ConfigDict, cache: Path) -> Bags:
    """All images of a table as bags of P patches, in the folds of training on them.

    Args:
      config: of configs/cohort.py: `data.table` of images with masks, its columns,
        `data.image_size`, `data.color`, `data.scheme`, and the encoder's weights as
        `init.checkpoint`.
      cache: folder for the features, which are computed the first time.
    """
    data = config.data
    biomarkers = tuple(data.biomarkers)
    cohort = read_cohort(
        data.table,
        classes=tuple(data.classes),
        biomarkers=biomarkers,
        biomarkers_per=data.biomarkers_per,
    )
    side = data.image_size
    features, grid = _features(
        cohort.rows, Path(config.init.checkpoint), cache, color=data.color, side=side
    )
    down, across = np.divmod(np.arange(grid * grid), grid)
    coords = np.stack([across, down], axis=1).astype(np.float32)
    columns = metadata.from_cohort(cohort)
    fold = np.zeros(len(columns), int)
    for number, (_, tested) in enumerate(
        splits.make_splits(columns, scheme=data.scheme, seed=config.seed).folds
    ):
        fold[tested] = number
    return Bags(
        values=[BagValues(one, coords) for one in features],
        masks=[patch_mask(row.mask, side, grid) for row in cohort.rows],
        grade=columns.grades,
        biomarkers=columns.biomarker_values,
        known=columns.known,
        fold=fold,
        patient=np.unique(columns.patients, return_inverse=True)[1],
        names=biomarkers,
    )


def patch_mask(path: Path | None, side: int, grid: int) -> Bool[np.ndarray, " P"]:
    """Patches of which the mask covers half or more; none without a mask."""
    if path is None:
        return np.zeros(grid * grid, bool)
    mask = squares.decode_mask(
        images.encode_mask(path), side, small="resize", name=path.name, corner=None
    )
    patch = side // grid
    covered = mask.reshape(grid, patch, grid, patch).mean(axis=(1, 3))
    return covered.reshape(-1) >= COVERED


def _features(
    rows: Sequence[Row], weights: Path, cache: Path, *, color: bool, side: int
) -> tuple[Float[np.ndarray, "n P D"], int]:
    """Normalized tokens of the patches after the last block; patches of one side."""
    encoder, params = components.imported(weights, image_size=(side, side))
    grid = side // encoder.patch

    @jax.jit
    def patches(tiles):
        x = pipeline.normalize(tiles, color=color)
        return encoder.apply({"params": params}, x)[:, encoder.num_prefix :]

    path = cache / f"{_digest(rows, params, color, side)}.npy"
    if not path.exists():
        parts = []
        for first in range(0, len(rows), BATCH):
            tiles = [_pixels(row, side) for row in rows[first : first + BATCH]]
            missing = BATCH - len(tiles)
            filled = np.stack([*tiles, *(missing * tiles[-1:])])
            parts.append(np.asarray(patches(filled))[: len(tiles)])
            if first % 400 == 0:
                print(f"encoded {first} of {len(rows)} images", flush=True)
        files.write_with(path, lambda file: np.save(file, np.concatenate(parts)))
    return np.load(path, mmap_mode="r"), grid


def _pixels(row: Row, side: int) -> Pixels:
    pixels = images.read(row.image)
    return squares.fit_region(
        pixels, side, small="resize", name=row.image.name, corner=None
    )


def _digest(rows: Sequence[Row], params: Params, color: bool, side: int) -> str:
    """Of all that the features depend on; of an image its path, size and time."""
    hasher = hashlib.sha256(f"{color} {side}".encode())
    for row in rows:
        stat = row.image.stat()
        hasher.update(f"{row.image} {stat.st_size} {stat.st_mtime_ns}".encode())
    for leaf in jax.tree.leaves(params):
        hasher.update(np.asarray(leaf).tobytes())
    return hasher.hexdigest()[:16]

"""Superpixels of a store: SLIC's areas, the file, and that they move with the image."""

import dataclasses
import multiprocessing
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fof_jax.data import squares, superpixels
from fof_jax.data.augment import options, pipeline
from fof_jax.data.cohort import read_cohort
from fof_jax.data.errors import MissingDataError
from fof_jax.data.loader import train_batches
from fof_jax.data.read_options import ReadOptions
from fof_jax.data.store import build_store, open_store
from fof_jax.types import Batch
from tests.support.cohort_files import BIOMARKERS, CLASSES, write_cohort_files


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("superpixels")
    table = write_cohort_files(folder, 4)
    cohort = read_cohort(table, classes=CLASSES, biomarkers=BIOMARKERS)
    build_store(cohort, directory=folder / "data", name="cohort", image_size=20)
    return open_store(folder / "data", "cohort")


def textured(side=1024):
    """A region with soft structures of 1 to 1/16 of its side."""
    rng = np.random.default_rng(0)
    total = np.zeros((side, side, 3))
    for cells in (4, 16, 64):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        total += np.asarray(smooth) / 3
    return total.astype(np.uint8)


def test_a_region_has_about_100_superpixels_of_about_one_percent():
    labels = superpixels.segment(textured(), 100)
    assert labels.shape == (256, 256)
    area = np.bincount(labels.ravel()) / labels.size
    assert (area > 0).all()
    assert 80 <= len(area) <= 110
    assert 0.008 < np.median(area) < 0.013
    assert area.max() < 0.03


def test_superpixels_end_at_an_edge():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 27:] = 200
    labels = superpixels.segment(pixels, 25)
    # An edge between two pixels of 256 is blurred by the enlargement and by SLIC.
    left, right = labels[:, : 4 * 27 - 6], labels[:, 4 * 27 + 6 :]
    assert not set(left.ravel()) & set(right.ravel())


def test_more_than_a_byte_holds_are_refused():
    with pytest.raises(ValueError, match="at most 255"):
        superpixels.segment(textured(256), 900)


def test_maps_are_computed_once_and_mapped(store, monkeypatch):
    calls = []
    maps = superpixels.open_maps(store, 9, lambda *done: calls.append(done))
    assert calls == [(k, 4) for k in (1, 2, 3, 4)]
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)  # not installed
    again = superpixels.open_maps(store, 9)
    assert isinstance(again.labels, np.memmap)
    for i in range(4):
        expected = maps.labels[i]
        np.testing.assert_array_equal(again.labels[i], expected)
    assert len(pickle.dumps(again)) < len(pickle.dumps(store)) + 1000
    with pytest.raises(ValueError, match=r"pip install 'fof-jax\[superpixels\]'"):
        superpixels.open_maps(store, 16)
    assert superpixels.open_maps(store, 0) is None


def _open(store, queue):
    queue.put(np.array(superpixels.open_maps(store, 12).labels).sum())


@pytest.mark.slow  # two processes that import everything
def test_two_processes_compute_them_once(store):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    both = [context.Process(target=_open, args=(store, queue)) for _ in range(2)]
    for process in both:
        process.start()
    sums = {queue.get(timeout=60) for _ in both}
    for process in both:
        process.join()
    assert len(sums) == 1
    assert not list(store.folder.glob(".superpixels_12*"))


def test_a_file_of_another_store_is_refused(store):
    path = store.folder / "superpixels_7.npy"
    np.save(path, np.zeros((3, 256, 256), np.uint8))
    with pytest.raises(MissingDataError, match="Remove it"):
        superpixels.open_maps(store, 7)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MissingDataError, match="is damaged"):
        superpixels.open_maps(store, 7)
    path.unlink()


@pytest.mark.parametrize("small", ["resize", "pad"])
@pytest.mark.parametrize("corner", [None, (0.2, 0.9)])
@pytest.mark.parametrize(("height", "width"), [(512, 512), (300, 700), (40, 90)])
def test_labels_are_read_as_images_are(small, corner, height, width):
    # An image that shows its own labels: what is read of both must agree.
    grid = np.arange(16, dtype=np.uint8).reshape(4, 4)
    labels = np.repeat(np.repeat(grid, 64, 0), 64, 1)
    whole = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
    shown = np.repeat(np.asarray(whole)[..., None] * 10, 3, axis=2)
    read = {"small": small, "name": "a", "corner": corner}
    image = squares.fit_region(shown, 64, **read)[..., 0]
    ours = squares.fit_labels(labels, (height, width), 64, fill=255, **read)
    inside = ours < 255
    assert (image[~inside] == 255).all()
    # Scaled pixels mix what is within two of them, and bicubic ones overshoot by less
    # than half of the 10 between two labels.
    inner = inside & away_from_borders(ours, 3)
    assert inner.mean() > 0.1
    np.testing.assert_allclose(image[inner], 10.0 * ours[inner], atol=4)
    if corner is not None and min(height, width) >= 64:  # not scaled
        np.testing.assert_array_equal(image[inside], 10 * ours[inside])


def away_from_borders(labels, distance):
    """True where all labels within a distance along each axis are equal."""
    padded = np.pad(labels.astype(int), distance, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * distance + 1,) * 2)
    return windows.min(axis=(2, 3)) == windows.max(axis=(2, 3))


def test_batches_hold_the_maps_of_their_rows_and_crops(store):
    maps = superpixels.open_maps(store, 9)
    crops = dataclasses.replace(store, options=ReadOptions(train_view="crop"))
    for source, side in ((store, 20), (crops, 12)):
        batch = next(
            train_batches(
                source,
                range(4),
                batch_size=4,
                epochs=1,
                seed=3,
                image_size=side,
                superpixels=superpixels.SuperpixelMaps(source, maps._path),
                workers=0,
            )
        )
        assert batch.superpixels.shape == (4, side, side)
        assert batch.superpixels.dtype == np.uint8
        for k, i in enumerate(batch.index):
            key = np.random.default_rng((3, int(i), 0)).random(2)
            expected = squares.fit_labels(
                maps.labels[i],
                tuple(store.sizes[i].tolist()),
                side,
                small="resize",
                name="",
                fill=255,
                corner=None if source is store else tuple(key.tolist()),
            )
            np.testing.assert_array_equal(batch.superpixels[k], expected)


def test_augmentation_moves_superpixels_with_the_image():
    # Smooth areas whose red is the label: interpolated only at borders.
    grid = np.arange(16, dtype=np.uint8).reshape(4, 4)
    labels = np.repeat(np.repeat(grid, 16, 0), 16, 1)
    image = np.repeat(labels[..., None] * 10, 3, axis=2)
    count = 8
    batch = Batch(
        image=np.repeat(image[None], count, axis=0),
        superpixels=np.repeat(labels[None], count, axis=0),
        index=np.arange(count, dtype=np.int32),
        epoch=np.zeros(count, np.int32),
    )
    spec = options.Augmentation(
        **vars(options.Augmentation.off())
        | {
            "crop_area": (0.3, 0.9),
            "crop_aspect": (0.7, 1.4),
            "flip_horizontal": 0.5,
            "flip_vertical": 0.5,
            "elastic": 0.05,
        }
    )
    out = jax.jit(
        lambda batch: pipeline.augment(
            batch,
            jax.random.key(0),
            spec=spec,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            second_view="crop",
        )
    )(jax.tree.map(jnp.asarray, batch))
    assert out.superpixels.dtype == jnp.uint8
    shown = np.asarray(out.image[..., 0]) * 255 / 10
    agrees = np.abs(shown - np.asarray(out.superpixels)) < 0.05
    assert agrees.mean() > 0.85  # all but the pixels at borders
    moved = (np.asarray(out.superpixels) != labels[None]).mean(axis=(1, 2))
    assert (moved > 0.05).all()

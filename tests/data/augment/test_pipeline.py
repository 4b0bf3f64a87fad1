"""Augmentation, against scipy, numpy loops and colorsys, none of which it uses.

Pixels are compared in gray levels (0-255) unless a test says otherwise. A float32
coordinate near 1000 is known to 6e-5 of a pixel, so on noise (steps of 255 levels
between neighbours) 0.02 levels is what rounding may do; at these sizes, 0.01.
"""

import colorsys
import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fof_jax.data.augment import color, geometry
from fof_jax.data.augment import pipeline as module
from fof_jax.data.augment.options import MOVES, TINTS
from fof_jax.data.augment.pipeline import (
    Augmentation,
    augment,
    contact_sheet,
    normalize,
)
from tests.support.augmented import (
    LEVELS,
    OFF,
    batch_of,
    compiled,
    gray,
    key,
    levels,
    noise,
)
from tests.support.compiled import run

# --- geometry ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(17, 23, 3), (32, 32, 1), (1, 5, 3)])
def test_warp_is_scipys_order_1_with_a_mirrored_border(shape):
    image = noise(*shape)
    h, w, _ = shape
    rng = np.random.default_rng(1)
    rows = rng.uniform(-0.2 * h, 1.2 * h, (h, w)).astype(np.float32)
    columns = rng.uniform(-0.2 * w, 1.2 * w, (h, w)).astype(np.float32)
    if h == 1:
        rows[:] = 0  # scipy's mirror of a single row is undefined
    ours = run(geometry.warp, image, (rows, columns))
    for c in range(shape[2]):
        theirs = ndimage.map_coordinates(
            image[..., c].astype(np.float64), [rows, columns], order=1, mode="mirror"
        )
        np.testing.assert_allclose(ours[..., c] * 255, theirs, atol=2e-3)


def test_displacement_is_a_cubic_b_spline_of_the_grid_and_bounded():
    h, w, cells, amount = 40, 24, 4, 0.03
    field = run(
        geometry.displacement, key(3), amount=amount, cells=cells, height=h, width=w
    )
    grid = np.asarray(jax.random.uniform(key(3), (98,), minval=-1.0))
    grid = grid.reshape(2, cells + 3, cells + 3)
    for axis in range(2):
        for r in (0, 7, 39):
            for c in (0, 11, 23):
                at = [(r + 0.5) / h * cells + 1, (c + 0.5) / w * cells + 1]
                # scipy's spline with prefilter off: the grid is its coefficients.
                theirs = ndimage.map_coordinates(
                    grid[axis].astype(np.float64),
                    [[at[0]], [at[1]]],
                    order=3,
                    prefilter=False,
                )[0]
                assert field[axis, r, c] == pytest.approx(amount * theirs, abs=1e-7)
    assert 0.1 * amount < np.abs(field).max() <= amount
    # Neighbouring pixels part by less than the bound of the slope: nothing folds.
    assert np.abs(np.diff(field, axis=1)).max() * h <= 2 * amount * cells


def test_the_crop_has_the_share_and_proportions_that_were_asked_for():
    options = {
        "crop_area": (0.5, 0.9),
        "crop_aspect": (0.8, 1.25),
        "flip_horizontal": 0.0,
        "flip_vertical": 0.0,
        "elastic": 0.0,
        "elastic_cells": 4,
    }
    draw = partial(geometry.coordinates, height=30, width=50, **options)
    draw = jax.jit(jax.vmap(draw))
    rows, columns = (np.asarray(a) for a in draw(jax.random.split(key(), 200)))
    share_r = rows[:, 1, 0] - rows[:, 0, 0]  # crop's side / image's side
    share_c = columns[:, 0, 1] - columns[:, 0, 0]
    area, aspect = share_r * share_c, share_c / share_r
    assert area.min() > 0.5 - 1e-4
    assert area.max() < 0.9 + 1e-4
    assert area.std() > 0.08
    assert aspect.min() > 0.8 - 1e-3
    assert aspect.max() < 1.25 + 1e-3
    assert aspect.std() > 0.05
    # Whole crops lie inside of the image: half a pixel of the crop beyond its centers.
    for at, share, side in ((rows, share_r, 30), (columns, share_c, 50)):
        ends = at.reshape(200, -1)
        assert (ends.min(axis=1) - share / 2).min() >= -0.5 - 1e-4
        assert (ends.max(axis=1) + share / 2).max() <= side - 0.5 + 1e-4
        assert ends.min(axis=1).std() > 0.3  # and not all at one place


def test_a_crop_reads_what_a_numpy_loop_reads():
    image = noise(9, 12, 3)
    spec = dataclasses.replace(OFF, crop_area=(0.5, 0.5), flip_horizontal=1.0)
    ours = levels(image[None], spec)[0]
    record = jax.random.fold_in(jax.random.fold_in(key(), 0), 0)
    frame = jax.random.split(jax.random.split(record, 3)[0])[0]
    share = np.sqrt(0.5)
    top, left = np.asarray(jax.random.uniform(frame, (6,)))[2:4] * (1 - share)
    for r in range(9):
        for c in range(12):
            y = top * 9 + (r + 0.5) * share - 0.5
            x = left * 12 + (12 - 0.5 - c) * share - 0.5
            y0, x0 = int(np.floor(y)), int(np.floor(x))
            total = np.zeros(3)
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(y - y0 - i)) * (1 - abs(x - x0 - j))
                inside = image[min(max(y0 + i, 0), 8), min(max(x0 + j, 0), 11)]
                total += weight * inside.astype(float)
            # At a mirrored border the half pixel outside is the row itself or the next.
            if 0 <= y <= 8 and 0 <= x <= 11:
                np.testing.assert_allclose(ours[r, c], total, atol=0.01)


@pytest.mark.parametrize(
    ("flip", "turned"),
    [
        ("flip_horizontal", np.s_[:, :, ::-1]),
        ("flip_vertical", np.s_[:, ::-1]),
    ],
)
def test_flips_are_exact(flip, turned):
    images = noise(2, 13, 20, 3)
    ours = levels(images, dataclasses.replace(OFF, **{flip: 1.0}))
    np.testing.assert_array_equal(ours, np.asarray(levels(images, OFF))[turned])


def test_a_flip_of_probability_a_half_is_done_half_of_the_time():
    image = np.broadcast_to(noise(2, 2, 3), (400, 2, 2, 3))
    ours = levels(image, dataclasses.replace(OFF, flip_horizontal=0.5))
    done = (np.abs(ours - image) > 0.5).any(axis=(1, 2, 3)).sum()
    assert 160 < done < 240  # 4 standard deviations


# --- color -----------------------------------------------------------------------


def test_hue_is_colorsys():
    image = noise(8, 8, 3) / np.float32(255)
    image[0, 0] = 0.5  # a gray, black, white and two equal maxima
    image[0, 1] = 0.0
    image[0, 2] = 1.0
    image[0, 3] = (0.7, 0.7, 0.1)
    rotate = jax.jit(color.rotate_hue)
    for turn in (-0.5, -0.02, 0.0, 0.02, 0.31, 0.5):
        ours = rotate(image, np.float32(turn))
        theirs = np.zeros_like(image)
        for at in np.ndindex(8, 8):
            h, s, v = colorsys.rgb_to_hsv(*image[at].astype(float))
            theirs[at] = colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)
        np.testing.assert_allclose(ours, theirs, atol=3e-6)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_is_the_blend_that_it_says(name):
    image = noise(6, 7, 3) / np.float32(255)
    amounts = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    ours = run(color.augment_color, image, key(5), **amounts | {name: 0.6})
    gray = (image * np.array([0.299, 0.587, 0.114])).sum(axis=2, keepdims=True)
    other = {"brightness": 0.0, "contrast": gray.mean(), "saturation": gray}[name]
    order = ["brightness", "contrast", "saturation", "hue"]
    sampled = jax.random.uniform(key(5), (4,), minval=-1.0)[order.index(name)]
    factor = 1 + 0.6 * float(sampled)
    assert abs(factor - 1) > 0.02  # else the test shows nothing
    theirs = np.clip(other + factor * (image - other), 0, 1)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_greys_black_and_white_stay_finite_gray():
    image = np.stack([np.full((4, 4, 3), v, np.uint8) for v in (0, 128, 255)])
    spec = dataclasses.replace(OFF, saturation=0.5, hue=0.5)
    np.testing.assert_allclose(levels(image, spec), image, atol=1e-3)


# --- normalization and grayscale --------------------------------------------------


def test_off_is_normalize_and_normalize_is_numpy():
    images = noise(3, 16, 20, 3)
    ours = jax.jit(lambda x: augment(batch_of(x), key(), spec=OFF).image)(images)
    np.testing.assert_array_equal(ours, jax.jit(normalize)(images))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(ours, (images / 255 - mean) / std, atol=1e-6)
    # One record through every operation at zero strength: bits, not tolerances.
    np.testing.assert_array_equal(levels(images, OFF).round(3), images)


def test_grayscale_is_luma_standardized_within_each_image():
    images = noise(2, 16, 16, 3)
    images[1] = images[1] // 8 + 90
    ours = run(normalize, images, color=False)
    for image, view in zip(images, ours, strict=True):
        luma = image.astype(float) @ [0.299, 0.587, 0.114]
        np.testing.assert_allclose(
            view[..., 0], (luma - luma.mean()) / luma.std(), atol=2e-4
        )
        # PIL's luma, rounded to whole levels, on the same scale.
        pil = np.asarray(Image.fromarray(image).convert("L"), float)
        np.testing.assert_allclose(
            view[..., 0] * luma.std() + luma.mean(), pil, atol=1.0
        )
        np.testing.assert_array_equal(view[..., 0], view[..., 1])
        np.testing.assert_array_equal(view[..., 0], view[..., 2])


@pytest.mark.parametrize("value", [0, 1, 77, 255])
def test_a_constant_image_is_zero_in_grayscale(value):
    images = np.full((1, 300, 300, 3), value, np.uint8)
    assert not np.any(run(normalize, images, color=False))
    sampled = gray(images, np.arange(1), spec=Augmentation())
    np.testing.assert_array_equal(sampled, np.zeros_like(sampled))


def test_one_pixel_off_is_not_constant():
    images = np.full((1, 256, 256, 3), 77, np.uint8)
    images[0, 3, 5] = 78
    view = run(normalize, images, color=False)
    assert view.std() == pytest.approx(1.0, abs=1e-3)


def test_grayscale_ignores_saturation_and_hue_and_undoes_mild_brightness():
    images = noise(2, 24, 24, 3) // 2 + 60  # far from the clipping ends
    wild = dataclasses.replace(
        OFF, brightness=0.1, contrast=0.1, saturation=1.0, hue=0.5
    )
    plain = run(normalize, images, color=False)
    sampled = gray(images, np.arange(2), spec=wild)
    np.testing.assert_allclose(sampled, plain, atol=1e-4)


# --- draws ------------------------------------------------------------------------


def test_a_record_has_one_draw_an_epoch_wherever_it_stands():
    images, spec = noise(4, 32, 32, 3), Augmentation()
    index, epoch = np.array([7, 3, 900, 12]), np.array([0, 5, 5, 1])
    whole = levels(images, spec, index=index, epoch=epoch, run=compiled)
    at = [2, 0, 3, 1]
    turned = levels(images[at], spec, index=index[at], epoch=epoch[at], run=compiled)
    np.testing.assert_allclose(turned, whole[at], atol=0.01)
    i = [1]  # alone in its batch: another program
    alone = levels(images[i], spec, index=index[i], epoch=epoch[i], run=compiled)
    np.testing.assert_allclose(alone, whole[i], atol=0.01)


def test_another_index_epoch_or_seed_is_another_draw():
    image = np.broadcast_to(noise(32, 32, 3), (4, 32, 32, 3))
    options = {"spec": Augmentation(), "index": [1, 2, 1, 1], "epoch": [0, 0, 1, 0]}
    sampled = levels(image, **options)
    np.testing.assert_array_equal(sampled[0], sampled[3])
    other = levels(image, **options, seed=1)[0]
    views = [*sampled[:3], other]
    for i in range(4):
        for j in range(i):
            assert np.abs(views[i] - views[j]).mean() > 3


@pytest.mark.slow  # operation by operation, a program each
def test_jit_is_no_jit():
    # Noise has steps of up to 255 levels between pixels, and equal or nearly equal
    # channels: where XLA computes a value twice and rounds it in two ways, a pixel
    # may come out wrong by 200 levels.
    images, spec = noise(4, 32, 32, 3), Augmentation()
    eager = augment(batch_of(images), key(), spec=spec, **LEVELS).image
    np.testing.assert_allclose(levels(images, spec, run=compiled), eager, atol=0.01)


def test_two_devices_are_one():
    assert jax.local_device_count() == 2
    images, spec = noise(4, 32, 32, 3), Augmentation()
    step = jax.pmap(partial(compiled, spec=spec), in_axes=(0, 0, 0, None))
    parts = (images, np.arange(4), np.zeros(4, int))
    two = step(*(a.reshape(2, 2, *a.shape[1:]) for a in parts), key())
    one = levels(images, spec, run=compiled)
    np.testing.assert_allclose(np.asarray(two).reshape(one.shape), one, atol=0.01)


@pytest.mark.parametrize(
    "names",
    [
        ("crop_area",),
        ("crop_area", "crop_aspect"),
        ("flip_horizontal",),
        ("flip_vertical",),
        ("brightness",),
        ("contrast",),
        ("saturation",),
        ("hue",),
        ("elastic",),
        ("elastic", "elastic_cells"),
        ("rotate90",),
        ("affine",),
        ("distort",),
        ("shuffle",),
        ("stain",),
        ("hue", "jitter"),
        ("rgb_shift",),
        ("channel_shuffle",),
        ("brightness_contrast",),
    ],
)
def test_every_amount_does_something(names):
    # The last name is the one under test; those before it stand already.
    paper = dataclasses.replace(Augmentation(), elastic_cells=6, jitter=0.5, stain=0.2)
    release = dict.fromkeys((*MOVES, *TINTS), 0.5)
    paper = dataclasses.replace(paper, **release)
    image = np.broadcast_to(noise(32, 32, 3), (8, 32, 32, 3))
    before = dataclasses.replace(OFF, **{n: getattr(paper, n) for n in names[:-1]})
    after = dataclasses.replace(before, **{names[-1]: getattr(paper, names[-1])})
    change = np.abs(levels(image, after) - levels(image, before)).mean()
    assert change > 0.5


def test_the_second_view_has_the_same_crop_under_other_colors():
    images = noise(4, 32, 32, 3)
    spec = dataclasses.replace(OFF, crop_area=(0.5, 0.5), brightness=0.2)
    both = jax.jit(lambda b: augment(b, key(), spec=spec, second_view="color"))(
        batch_of(images // 2)  # dark: nothing is clipped
    )
    single = run(augment, batch_of(images // 2), key(), spec=spec)
    assert single.second_view is None
    np.testing.assert_allclose(both.image, single.image, atol=1e-4)
    unit = np.array(module.IMAGENET_STD), np.array(module.IMAGENET_MEAN)
    first, second = (
        np.asarray(view) * unit[0] + unit[1] for view in (both.image, both.second_view)
    )
    for one, other in zip(first, second, strict=True):
        ratio = other.sum() / one.sum()  # brightness alone: one factor an image
        np.testing.assert_allclose(other, one * ratio, atol=1e-4)
        assert abs(ratio - 1) > 1e-3


def test_the_default_is_the_papers_and_is_hashable():
    assert Augmentation() == Augmentation.paper()
    assert hash(Augmentation()) != hash(Augmentation.off())


# --- errors -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "amounts",
    [
        {"crop_area": (0.0, 1.0)},
        {"crop_area": (0.9, 0.7)},
        {"crop_area": (0.7, 1.2)},
        {"crop_aspect": (1.1, 1.2)},
        {"flip_horizontal": 1.5},
        {"brightness": -0.1},
        {"hue": 0.6},
        {"hue": float("nan")},
        {"elastic": 0.3},
        {"elastic": 0.1, "elastic_cells": 4},
        {"elastic_cells": 0},
    ],
)
def test_an_amount_out_of_range_is_named(amounts):
    name = next(iter(amounts))
    with pytest.raises(ValueError, match=rf"augment\.{name}.*expected"):
        Augmentation(**amounts)


def test_images_are_augmented_once():
    batch = batch_of(noise(1, 8, 8, 3))
    done = jax.jit(partial(augment, spec=OFF))(batch, key())
    with pytest.raises(ValueError, match="float32 with 3 channels; expected"):
        augment(done, key(), spec=OFF)
    with pytest.raises(ValueError, match="float32 with 3 channels; expected"):
        normalize(done.image)
    with pytest.raises(ValueError, match="1 channels; expected"):
        augment(batch_of(noise(1, 8, 8, 1)), key(), spec=OFF)
    with pytest.raises(ValueError, match="second_view is .third."):
        augment(batch, key(), spec=OFF, second_view="third")


# --- contact sheet ----------------------------------------------------------------


def test_the_contact_sheet_shows_the_original_and_the_draws(tmp_path):
    images = [noise(32, 32, 3), noise(32, 32, 3, seed=1)]
    path = tmp_path / "sheet.png"
    spec = dataclasses.replace(OFF, crop_area=(0.7, 1), flip_horizontal=0.5, hue=0.1)
    contact_sheet(images, ["a", "b"], path, spec=spec, seed=4, draws=2, side=32)
    sheet = np.asarray(Image.open(path))
    columns = 1 + 2 + 3  # original, draws, crop, one flip, hue
    assert sheet.shape == (16 + 2 * (32 + 16 + 4), columns * (32 + 4), 3)
    cells = [sheet[16 : 16 + 32, j * 36 : j * 36 + 32] for j in range(columns)]
    np.testing.assert_array_equal(cells[0], images[0])
    sampled = levels(images[0][None], spec, epoch=[1], seed=4)[0]
    np.testing.assert_allclose(cells[2], sampled.clip(0, 255), atol=0.51)
    np.testing.assert_array_equal(cells[4], images[0][:, ::-1])
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_the_contact_sheet_in_grayscale_is_gray(tmp_path):
    path = tmp_path / "sheet.png"
    contact_sheet(
        [noise(16, 16, 3)], ["a"], path, spec=OFF, seed=0, draws=1, color=False, side=16
    )
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (16 + 16 + 16 + 4, 2 * 20, 3)
    np.testing.assert_array_equal(sheet[..., 0], sheet[..., 1])
    assert sheet[16:32, :16].std() > 20


def test_a_contact_sheet_requires_a_name_per_image(tmp_path):
    with pytest.raises(ValueError, match="1 images and 2 names"):
        contact_sheet(
            [noise(8, 8, 3)], ["a", "b"], tmp_path / "x.png", spec=OFF, seed=0
        )
    assert not list(tmp_path.iterdir())


def test_imagenets_constants():
    assert module.IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert module.IMAGENET_STD == (0.229, 0.224, 0.225)

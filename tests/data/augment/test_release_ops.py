"""The release's operations against scipy and NumPy loops; and its preset as a whole.

Coordinates are compared in pixels, pixels in gray levels (0-255).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fof_jax.data.augment import color, release_ops
from fof_jax.data.augment.geometry import warp
from fof_jax.data.augment.pipeline import Augmentation, augment
from tests.support.augmented import OFF, batch_of, gray, key, levels, noise

SIDE = 24
NONE = dict.fromkeys(("rotate90", "affine", "distort", "shuffle"), 0.0)


def grid(height=SIDE, width=SIDE):
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32)


def draws(n, *, side=SIDE, **chances):
    """Coordinates of n draws, [n, H, W] twice."""

    def one(k):
        return release_ops.rearrange(
            k, grid(side, side), height=side, width=side, **NONE | chances
        )

    rows, columns = jax.jit(jax.vmap(one))(jax.random.split(key(3), n))
    return np.asarray(rows), np.asarray(columns)


def test_quarter_turns_are_numpys():
    image = noise(SIDE, SIDE, 3)
    seen = set()
    for rows, columns in zip(*draws(40, rotate90=1.0), strict=True):
        view = image[rows.astype(int), columns.astype(int)]
        (k,) = [k for k in range(4) if (np.rot90(image, k) == view).all()]
        seen.add(k)
    assert seen == {0, 1, 2, 3}
    rows, _ = draws(200, rotate90=0.5)
    turned = (rows != np.asarray(grid()[0])).any(axis=(1, 2)).mean()
    assert 0.25 < turned < 0.5  # half of the time, a quarter of which is no turn
    with pytest.raises(ValueError, match="requires square images; these are 8x9"):
        release_ops.rearrange(
            key(), grid(8, 9), height=8, width=9, **NONE | {"rotate90": 0.5}
        )


def test_affine_is_scipys():
    image = noise(SIDE, SIDE, 1)
    angles, scales = [], []

    @jax.jit
    def moved(image, k):
        options = {"height": SIDE, "width": SIDE} | NONE | {"affine": 1.0}
        return warp(image, release_ops.rearrange(k, grid(), **options))

    for seed in range(6):
        k_move = jax.random.split(key(seed), 4)[2]
        u = np.asarray(jax.random.uniform(k_move, (4,), minval=-1.0), float)
        angle, scale = np.pi / 4 * u[0], 1 + 0.2 * u[1]
        angles.append(angle)
        scales.append(scale)
        turn = np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        center = np.full(2, (SIDE - 1) / 2)
        # x_in = turn (x_out - center - shift) / scale + center
        matrix = turn / scale
        offset = center - matrix @ (center + 0.0625 * SIDE * u[2:])
        theirs = ndimage.affine_transform(
            image[..., 0].astype(float), matrix, offset, order=1, mode="mirror"
        )
        ours = np.asarray(moved(image, key(seed)))[..., 0] * 255
        np.testing.assert_allclose(ours, theirs, atol=0.02)
    assert np.ptp(angles) > 0.5
    assert np.ptp(scales) > 0.1


@pytest.mark.parametrize("side", [24, 34])
def test_tiles_change_places_whole(side):
    counts = set()
    number = np.arange(side * side).reshape(side, side)
    for rows, columns in zip(*draws(30, side=side, shuffle=1.0), strict=True):
        view = number[rows.astype(int), columns.astype(int)]
        assert sorted(view.flat) == list(range(side * side))  # nothing lost or twice
        fits = []
        for n in (3, 7, 11):
            t = side // n
            tiles = {
                (i, j): number[i * t : i * t + t, j * t : j * t + t].tolist()
                for i in range(n)
                for j in range(n)
            }
            moved = [
                view[i * t : i * t + t, j * t : j * t + t].tolist() for i, j in tiles
            ]
            rest = np.ones((side, side), bool)
            rest[: n * t, : n * t] = False
            if sorted(moved) == sorted(tiles.values()) and (
                (view == number)[rest].all()
            ):
                fits.append(n)
        assert fits
        counts |= set(fits)
    assert counts == {3, 7, 11}


def test_the_three_distortions():
    rows, columns = draws(60, side=40, distort=1.0)
    at = np.arange(40.0)
    kinds = {"noise": 0, "grid": 0, "optical": 0}
    for r, c in zip(rows, columns, strict=True):
        down, across = r - at[:, None], c - at[None, :]
        if np.ptp(r, axis=1).max() < 1e-3 and np.ptp(c, axis=0).max() < 1e-3:
            kinds["grid"] += 1
            for line in (r[:, 0], c[0]):
                # Straight within each of five cells of eight pixels; ends stay.
                bends = np.diff(line, 2).reshape(-1)
                inside = [i for i in range(38) if i % 8 < 6]
                np.testing.assert_allclose(bends[inside], 0, atol=1e-4)
                widths = np.diff(line)[::8]
                assert widths.min() > 0.7 / 1.3
                assert widths.max() < 1.3 / 0.7
                assert line[0] == pytest.approx(widths[0] / 2 - 0.5, abs=1e-4)
        elif abs(down.mean() + 1) < 0.3 and down.std() < 0.25:
            kinds["noise"] += 1
            assert across.mean() == pytest.approx(-1, abs=0.3)
            assert down.std() == pytest.approx(2 / 17, rel=0.6)
        else:
            kinds["optical"] += 1
            y, x = at[:, None] / 40 - 0.5, at[None, :] / 40 - 0.5
            square = x**2 + y**2
            k = down[0, 0] / 40 / (y[0] * (square[0, 0] + square[0, 0] ** 2))
            assert abs(k) <= 0.05 + 1e-6
            factor = 1 + k * square + k * square**2
            np.testing.assert_allclose(r, (y * factor + 0.5) * 40, atol=1e-3)
            np.testing.assert_allclose(c, (x * factor + 0.5) * 40, atol=1e-3)
    assert min(kinds.values()) > 8


def test_the_elastic_noise_is_scipys_gaussian():
    ours = np.asarray(jax.jit(lambda k: release_ops._noise(k, (20, 30)))(key(2)))
    field = 2 * np.asarray(jax.random.normal(key(2), (2 * 20 * 30,)), float) - 1
    for axis in range(2):
        theirs = ndimage.gaussian_filter(
            field.reshape(2, 20, 30)[axis], 50, mode="reflect", radius=8
        )
        np.testing.assert_allclose(ours[axis], theirs, atol=1e-5)


def test_colours_of_the_release():
    image = noise(5, 6, 3) / np.float32(255)
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    seen: dict[str, list] = {"rgb_shift": [], "channel_shuffle": [],
                             "brightness_contrast": []}  # fmt: skip
    augmented = {
        name: jax.jit(functools.partial(color.augment_color, **off, **{name: 0.5}))
        for name in seen
    }
    for seed in range(40):
        k = key(seed)
        u = np.asarray(jax.random.uniform(jax.random.fold_in(k, 1), (16,), minval=-1.0))
        for name in seen:
            ours = augmented[name](image, k)
            theirs = {
                "rgb_shift": np.clip(image + 15 / 255 * u[7:10], 0, 1),
                "channel_shuffle": image[..., np.argsort(u[10:13])],
                "brightness_contrast": np.clip(
                    image * (1 + 0.2 * u[13]) + 0.2 * u[14], 0, 1
                ),
            }[name]
            done = np.abs(np.asarray(ours) - theirs).max() < 1e-6
            assert done or (np.asarray(ours) == image).all()
            seen[name].append(done)
    for done in seen.values():
        assert 8 < sum(done) < 34  # about half; no change of order counts as done


def test_jitter_is_done_as_often_as_it_says():
    image = np.broadcast_to(noise(2, 3, 3) // 2, (300, 2, 3, 3))
    sampled = levels(image, dataclasses.replace(OFF, brightness=0.4, jitter=0.5))
    done = (np.abs(sampled - image) > 0.01).any(axis=(1, 2, 3)).sum()
    assert 110 < done < 190  # 4.6 standard deviations


def test_the_release_preset_draws_anew_in_every_epoch():
    spec = Augmentation.release()
    assert spec != Augmentation.paper()
    image = np.broadcast_to(noise(33, 33, 3), (12, 33, 33, 3))
    sampled = levels(image, spec, index=[5] * 12, epoch=range(12))
    apart = [np.abs(a - b).mean() for i, a in enumerate(sampled) for b in sampled[:i]]
    assert np.median(apart) > 20
    assert min(apart) > 0  # item 43: theirs repeats
    np.testing.assert_allclose(
        levels(image, spec, index=[5] * 12, epoch=range(12)), sampled, atol=0.01
    )
    assert np.isfinite(sampled).all()
    assert sampled.min() >= -1e-3
    assert sampled.max() <= 255.001


@pytest.mark.slow
def test_the_release_preset_in_grayscale():
    images = noise(2, 33, 33, 3)
    sampled = gray(images, np.arange(2), spec=Augmentation.release())
    assert np.isfinite(sampled).all()
    np.testing.assert_allclose(np.std(sampled, axis=(1, 2)), 1, atol=1e-3)


def test_the_releases_second_view_shares_places_and_not_colors():
    spec = dataclasses.replace(
        Augmentation.release(), jitter=0.0, channel_shuffle=0.0, rgb_shift=1.0,
        brightness_contrast=0.0, hue=0.0, brightness=0.0, contrast=0.0, saturation=0.0,
    )  # fmt: skip
    image = noise(4, 33, 33, 3) // 2 + 60  # nothing is clipped
    plain = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    both = jax.jit(lambda b: augment(b, key(), spec=spec, second_view="color", **plain))
    batch = both(batch_of(image))
    shift = np.asarray(batch.second_view) - np.asarray(batch.image)
    same = np.broadcast_to(shift[:, :1, :1], shift.shape)
    np.testing.assert_allclose(shift, same, atol=0.01)
    assert np.abs(shift).max() > 3


def test_presets_and_what_overrides_them():
    one = Augmentation("release", hue=0.0)
    assert (one.hue, one.shuffle) == (0.0, 0.5)
    assert Augmentation("off") == Augmentation.off()
    with pytest.raises(ValueError, match="augment.preset is 'papr'; expected one of"):
        Augmentation("papr")
    with pytest.raises(ValueError, match="augment.shuffle is 1.5; expected 0 to 1"):
        Augmentation(shuffle=1.5)


def test_the_configs_preset_is_the_augmentation():
    from fof_jax.configs import gbmlgg

    fields = gbmlgg.get_config().augment
    assert Augmentation(**fields.to_dict()) == Augmentation.paper()
    assert {f.name for f in dataclasses.fields(Augmentation)} == set(fields) - {
        "preset"
    }
    fields.preset = "release"
    fields.crop_area = (0.5, 1.0)
    fields.hue = 0
    made = Augmentation(**fields.to_dict())
    assert made == Augmentation("release", crop_area=(0.5, 1.0), hue=0.0)

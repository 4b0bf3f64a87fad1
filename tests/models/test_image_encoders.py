"""Image encoders: sizes that fit, number types, random masks by row, refusals.

Their numbers are held to recordings (tests/parity/test_encoder_replay.py). bfloat16
is compared with float32 to 5e-2 of the maximum: eight bits of mantissa, few layers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods import encoder as encoders
from fof_jax.models import image_encoders, resnet, swin, swin_window, vgg
from fof_jax.models.batch_norm import BatchNorm
from fof_jax.models.device_rows import device_rows, keep_mask
from fof_jax.models.dropout import DropPath
from tests.support import initial, methods

SMALL = {
    "resnet": lambda dtype: resnet.ResNet(6, blocks=(1, 1), width=4, dtype=dtype),
    "vgg": lambda dtype: vgg.VGG(5, widths=(4, 0, 6, 0), dtype=dtype),
    "swin": lambda dtype: swin.SwinV2(swin.Size(8, (2,), (1,)), window=4, dtype=dtype),
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_bfloat16_is_near_float32_and_ends_in_float32(name):
    image = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    module = SMALL[name](jnp.float32)
    variables = initial.of_module(module, image, train=False)
    # Norms that start at 0 would hide the blocks.
    variables = jax.tree.map(lambda p: jnp.where(p == 0, 0.1, p), variables)
    outputs = [
        jax.jit(functools.partial(SMALL[name](dtype).apply, train=False))(
            variables, image
        )
        for dtype in (jnp.float32, jnp.bfloat16)
    ]
    assert outputs[1].dtype == jnp.float32
    assert np.any(outputs[0] != outputs[1])
    bound = 5e-2 * np.abs(outputs[0]).max()
    np.testing.assert_allclose(*outputs, atol=bound)


def fits(side, window, stages=4):
    """By hand: every map at least 2, divided by its window, even where it is halved."""
    if side % 4:
        return False
    n = side // 4
    for stage in range(stages):
        w = min(n, window)
        if n < 2 or n % w or (stage < stages - 1 and n % 2):
            return False
        n //= 2
    return True


@pytest.mark.parametrize("window", [4, 7, 8, 16])
def test_sizes_that_windows_divide(window):
    for side in range(4, 600, 4):
        fault = swin_window.fault_of((side, side), window=window, stages=4)
        assert (fault is None) == fits(side, window), (side, fault)
    offered = swin_window.sizes_that_fit(window=window, stages=4, near=112)
    assert len(offered) == 6
    assert list(offered) == sorted(offered)
    assert all(fits(side, window) for side in offered)
    # None that fits is nearer.
    far = max(abs(side - 112) for side in offered)
    nearer = [s for s in range(4, 900, 4) if abs(s - 112) < far and fits(s, window)]
    assert set(nearer) <= set(offered)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((112, 112), "stage 0 is 28 x 28.*Windows that fit this size: none"),
        ((224, 224), "stage 0 is 56|stage 1 is 28 x 28.*that fit this size: 7, 14"),
        ((32, 32), "stage 3 is 1 x 1, smaller than 2 x 2"),
        ((66, 66), "does not divide into patches of 4 pixels"),
        ((64, 96), "stage 1 is 8 x 12, which windows of 8 do not divide"),
        ((192, 192), "stage 2 is 12 x 12, which windows of 8"),
    ],
)
def test_other_sizes_are_refused_with_those_that_fit(size, message):
    with pytest.raises(ValueError, match=message) as error:
        swin.check_image_size(size, window=8)
    assert "Sizes that fit: " in str(error.value)
    swin.check_image_size((256, 256), window=8)
    swin.check_image_size((64, 64), window=8)
    with pytest.raises(ValueError, match="expected 32 or more"):
        vgg.check_image_size((16, 64), vgg.VGG19)


def test_a_name_may_give_the_window_of_the_training():
    """Eq. (4) of Liu et al. 2022, scaled by the other window (encoders.md, trap 11)."""
    encoder = image_encoders.build("swinv2_mu/16/8")
    assert (encoder.window, encoder.pretrained_window) == (16, 8)
    assert image_encoders.build("swinv2_mu/16").pretrained_window == 0
    table = swin_window.coordinates(encoder.window, encoder.pretrained_window)
    for row, column in ((0, 0), (3, 30), (15, 15), (30, 7)):
        for delta, ours in zip(
            (row - 15, column - 15), table[row, column], strict=True
        ):
            expected = np.sign(delta) * np.log2(1 + 8 * abs(delta) / (8 - 1)) / 3
            np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": "resnet50"}, "other than the ViT: resnet18, vgg19bn"),
        ({"encoder": "swinv2_huge/8"}, "not a SwinV2 variant. Expected swinv2_SIZE"),
        ({"encoder": "swinv2_tiny"}, "not a SwinV2 variant"),
        ({"encoder": "swinv2_tiny/8/"}, "not a SwinV2 variant"),
        ({"encoder": "swinv2_tiny/8/4/2"}, "not a SwinV2 variant"),
        ({"encoder": "swinv2_tiny/8", "data_image_size": 112}, "does not fit 112"),
        ({"encoder": "resnet18", "pooling": "class_token"}, "only the ViT has"),
        (
            {"encoder": "resnet18", "optimizer_freeze_blocks": 1},
            "Pass --config.optimizer.freeze_blocks=0",
        ),
        (
            {"encoder": "vgg19bn", "init_checkpoint": None},
            "Pass --config.init.checkpoint=FOLDER, or --config.encoder=vgg19bn_unfroz",
        ),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    config = methods.settings("image", **{"data_image_size": 64, **fields})
    with pytest.raises(ValueError, match=message):
        encoders.validate(config)


@pytest.mark.parametrize(
    "name", ["resnet18", "vgg19bn", "vgg19bn_unfrozen", "swinv2_tiny/4", "mu/16"]
)
def test_encoders_that_a_config_names(name):
    config = methods.settings("image", encoder=name, data_image_size=64)
    encoders.validate(config)
    untrained = getattr(encoders.build_classified(config), "untrained", ())
    assert untrained == ((("trunk",),) if name == "vgg19bn" else ())
    assert (encoders.find_vit(config) is None) == image_encoders.is_known(name)


def test_masks_of_rows_do_not_depend_on_their_neighbors():
    key, index = jax.random.key(3), jnp.array([5, 9, 2, 11])
    with device_rows(lambda rows: rows, index):
        whole = keep_mask(key, 0.5, (4, 30))
    with device_rows(lambda rows: rows, index[2:]):
        part = keep_mask(key, 0.5, (2, 30))
    np.testing.assert_array_equal(part, whole[2:])
    assert 0.3 < whole.mean() < 0.7
    # Outside, and without an index, all at once.
    plain = jax.random.bernoulli(key, 0.5, (4, 30))
    np.testing.assert_array_equal(keep_mask(key, 0.5, (4, 30)), plain)


def test_drop_path_drops_rows_whole():
    x = 1 + jax.random.uniform(jax.random.key(0), (200, 3, 2))
    layer = DropPath(0.25)
    out = layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(1)})
    kept = np.asarray(out[:, 0, 0] != 0)
    np.testing.assert_array_equal(out[~kept], 0)
    np.testing.assert_allclose(out[kept], x[kept] / 0.75, rtol=1e-6)
    assert 0.65 < kept.mean() < 0.85
    np.testing.assert_array_equal(layer.apply({}, x, train=False), x)
    with pytest.raises(ValueError, match=r"got 1\.0, expected 0 <= rate < 1"):
        DropPath(1.0).apply({}, x, train=False)


def test_statistics_are_those_of_the_gathered_rows():
    """Two halves that see each other through `gather`, against plain NumPy."""
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    variables = BatchNorm().init(jax.random.key(0), jnp.asarray(x), train=False)

    def half(rows):
        with device_rows(lambda a: jax.lax.all_gather(a, "d", tiled=True)):
            return BatchNorm().apply(
                variables, rows, train=True, mutable=["batch_stats"]
            )

    out, moved = jax.vmap(half, axis_name="d")(jnp.asarray(x.reshape(2, 3, 5)))
    expected = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    np.testing.assert_allclose(out.reshape(6, 5), expected, atol=2e-6)
    var = 0.9 + 0.1 * x.var(axis=0, ddof=1)
    for row in moved["batch_stats"]["var"]:
        np.testing.assert_allclose(row, var, rtol=1e-6)

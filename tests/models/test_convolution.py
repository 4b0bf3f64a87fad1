"""Convolution against a loop over places, on maps larger and smaller than the kernel.

Tolerance 2e-6 of the maximum, float32 rounding of sums of up to 125 products. bfloat16
is compared with the loop on the rounded numbers: the product and the sum with the bias
are each rounded by at most 2^-9 of their maximum.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.models.convolution import Convolution, convolve

# height, width, side of the kernel, stride
SHAPES = [
    (6, 5, 3, 1),
    (4, 4, 3, 2),
    (2, 2, 3, 1),
    (2, 8, 3, 1),
    (1, 3, 3, 2),
    (4, 4, 5, 2),
    (2, 2, 1, 2),
]


def loop(x, kernel, stride):
    """A sum for every place of the output, in float64."""
    side = kernel.shape[0]
    height, width = (-(-n // stride) for n in x.shape[1:3])
    y = np.zeros((len(x), height, width, kernel.shape[-1]))
    for h in range(height):
        for w in range(width):
            for i in range(side):
                for j in range(side):
                    row = h * stride + i - side // 2
                    column = w * stride + j - side // 2
                    if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                        y[:, h, w] += x[:, row, column].astype(float) @ kernel[i, j]
    return y


@pytest.mark.parametrize(("height", "width", "side", "stride"), SHAPES)
def test_sums_and_gradients_are_those_of_a_loop(height, width, side, stride):
    rng = np.random.default_rng(side)
    x = rng.normal(size=(2, height, width, 5)).astype(np.float32)
    kernel = rng.normal(size=(side, side, 5, 3)).astype(np.float32)
    expected = loop(x, kernel, stride)
    y, gradients = jax.vjp(lambda x, kernel: convolve(x, kernel, stride), x, kernel)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, atol=2e-6 * np.abs(expected).max())
    # The map is linear in each argument: <g, conv(d)> = <transposed(g), d>.
    g = rng.normal(size=expected.shape).astype(np.float32)
    for gradient, d, moved in (
        (gradients(g)[0], rng.normal(size=x.shape), lambda d: loop(d, kernel, stride)),
        (gradients(g)[1], rng.normal(size=kernel.shape), lambda d: loop(x, d, stride)),
    ):
        terms = g * moved(d)
        scale = np.abs(terms).sum()
        assert abs(terms.sum() - (gradient * d).sum()) <= 2e-6 * scale


def test_products_and_bias_have_the_type_of_the_layer():
    x = jax.random.normal(jax.random.key(0), (2, 2, 2, 4))
    layer = Convolution(3, 3, use_bias=True, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(1), x)
    shapes = jax.tree.map(lambda p: (p.shape, p.dtype.name), variables["params"])
    assert shapes == {"kernel": ((3, 3, 4, 3), "float32"), "bias": ((3,), "float32")}
    variables["params"]["bias"] = jnp.array([1.0, 2.0, 3.0])
    y = layer.apply(variables, x)
    assert y.dtype == jnp.bfloat16
    kernel = variables["params"]["kernel"]
    rounded = [np.array(a.astype(jnp.bfloat16), float) for a in (x, kernel)]
    product = loop(*rounded, 1)
    expected = product + [1, 2, 3]
    bound = 2**-9 * (np.abs(product).max() + np.abs(expected).max())
    np.testing.assert_allclose(np.array(y, float), expected, atol=bound)

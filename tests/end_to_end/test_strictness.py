"""The checks that `conftest.py` makes cheaper still find what they are for."""

import jax.numpy as jnp
import pytest
from flax import errors
from jaxtyping import TypeCheckError

from fof_jax.models.linear import Linear
from tests.support import initial


def test_a_wrong_dtype_and_a_wrong_shape_are_found():
    layer, x = Linear(3), jnp.zeros((2, 4))
    variables = initial.of_module(layer, x)
    assert layer.apply(variables, x).shape == (2, 3)
    with pytest.raises(TypeCheckError, match="parameter 'x'"):
        layer.apply(variables, jnp.zeros((2, 4), int))
    with pytest.raises(errors.ScopeParamShapeError, match=r"\(5, 3\)"):
        layer.apply(variables, jnp.zeros((2, 5)))

"""Programs are compiled once for arguments of one shape and type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.training.compilation import Ahead


def test_a_program_serves_arguments_of_its_shapes_and_types():
    program = Ahead(jax.jit(lambda tree, factor: tree["a"] * factor))
    ones = np.ones(3, np.float32)
    assert not program.is_compiled({"a": ones}, 2.0)
    assert program({"a": ones}, 2.0).tolist() == [2, 2, 2]
    assert program.is_compiled({"a": jnp.ones(3)}, 3.0)
    assert program({"a": jnp.ones(3)}, 3.0).tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"a": np.ones(4, np.float32)}, id="shape"),
        pytest.param({"a": np.ones(3, np.int32)}, id="type"),
        pytest.param({"b": np.ones(3, np.float32)}, id="name"),
    ],
)
def test_other_arguments_have_a_program_of_their_own(other):
    program = Ahead(jax.jit(lambda tree: jax.tree.map(lambda a: 2 * a, tree)))
    program({"a": np.ones(3, np.float32)})
    assert not program.is_compiled(other)
    name, value = next(iter(other.items()))
    assert np.asarray(program(other)[name]).tolist() == (2 * value).tolist()

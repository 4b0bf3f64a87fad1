"""Encoder tokens as columns: those of the encoder itself, at each nucleus's patch.

Tolerance 1e-5: float32 of the same program, compiled apart.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.configs import phantom
from fof_jax.data.augment import pipeline
from fof_jax.data.graphs import record
from fof_jax.methods import encoder
from fof_jax.training import graph_tokens, weights
from fof_jax.types import Variables
from tests.support import initial


@pytest.fixture(scope="module")
def config():
    made = phantom.get_config()
    made.encoder = "mu/16"
    return made


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    network = encoder.build_vit(config)
    pixels = jnp.zeros((1, 64, 64, 3))
    params = initial.of_module(network, pixels)["params"]
    made = tmp_path_factory.mktemp("tokens") / "weights"
    parts = {"encoder": params, "classifier": {"b": jnp.ones(3)}}
    about = {"encoder": {"variant": "mu/16", "class_token": False, "grid": [4, 4]}}
    weights.write(made, Variables(params=parts, state={}), about)
    return made


def test_columns_are_the_tokens_of_the_encoder(config, folder):
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    centroid = np.array([[3, 3], [50, 3], [20, 60]])
    graph = record.create(np.ones((3, 2)), np.zeros((2, 0), int), centroid, "ab")
    columns = graph_tokens.load(config, str(folder))
    ours = columns(rgb, graph)
    params = weights.read(folder).params["encoder"]
    network = encoder.build_vit(config)
    tokens = network.apply({"params": params}, pipeline.normalize(jnp.array(rgb)[None]))
    np.testing.assert_allclose(ours.x[:, 2:], tokens[0, [0, 3, 13]], atol=1e-5)
    assert ours.names[2:4] == ("token_0", "token_1")
    again = graph_tokens.rebuild(config, columns.about)
    np.testing.assert_array_equal(again(rgb, graph).x, ours.x)
    empty = columns(rgb, record.empty("ab"))
    assert empty.x.shape == (0, ours.x.shape[1])


def test_weights_that_are_gone_or_others_are_refused(config, folder, tmp_path):
    about = graph_tokens.load(config, str(folder)).about
    with pytest.raises(ValueError, match="holds other weights"):
        graph_tokens.rebuild(config, about | {"weights": "0"})
    with pytest.raises(ValueError, match="does not exist"):
        graph_tokens.rebuild(config, about | {"folder": str(tmp_path / "none")})
    other = tmp_path / "other"
    weights.write(other, Variables(params={"lin": {"b": np.ones(3)}}, state={}), {})
    with pytest.raises(ValueError, match="holds no ViT"):
        graph_tokens.load(config, str(other))

"""ViT: parameter counts, splits, remat policies, and PyTorch's encoder layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.base import parameter_count
from fof_jax.models import vit
from tests.support import initial

# Embedding 3 p p D + D, position P D, norms 2 D each, per block
# 4 D D + 4 D + 2 D M + M + D + 4 D, LayerScale 2 D more, gated MLP D M + M more;
# registers R D.
COUNTS = {
    ("nano/8", (64, 64)): 25_376,
    ("Ti/16", (1024, 1024)): 6_272_832,
    ("Ti/16", (224, 224)): 5_524_032,
    ("S/16", (224, 224)): 21_664_896,
    ("mu/8", (64, 64)): 216_512,
    ("mu/16", (32, 48)): 249_664,
    ("B/16", (224, 224)): 85_797_120,
    ("L/16", (224, 224)): 303_299_584,
    ("DINOv2-S/14", (518, 518)): 22_055_424,
    ("DINOv2-B/14", (518, 518)): 86_578_176,
    ("DINOv2-L/16", (224, 224)): 303_348_736,
    ("DINOv2-S+reg/14", (518, 518)): 22_056_960,
    ("DINOv2-B+reg/14", (518, 518)): 86_581_248,
    ("DINOv2-L+reg/14", (518, 518)): 304_369_664,
    ("DINOv2-L+swiglu/16", (224, 224)): 303_774_976,
}


def expected_count(name, image_size):
    size, p = vit.parse_variant(name)
    d, m = size.width, size.mlp
    patches = (image_size[0] // p) * (image_size[1] // p)
    block = 4 * d * d + 4 * d + 2 * d * m + m + d + 4 * d
    block += 2 * d * size.layer_scale + (d * m + m) * size.swiglu
    tokens = patches + size.registers
    return 3 * p * p * d + d + tokens * d + 2 * d + size.depth * block


def encoder(**options):
    defaults = {
        "size": vit.Size(width=16, depth=3, heads=2, mlp=32),
        "patch": 4,
        "image_size": (8, 12),
    }
    return vit.ViT(**(defaults | options))


def image(batch=2, height=8, width=12):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.standard_normal((batch, height, width, 3), np.float32))


@pytest.mark.parametrize(("name", "image_size"), COUNTS)
def test_parameter_counts(name, image_size):
    size, patch = vit.parse_variant(name)
    model = vit.ViT(size=size, patch=patch, image_size=image_size)
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, *image_size, 3))
    )
    assert parameter_count(shapes["params"]) == COUNTS[name, image_size]
    assert expected_count(name, image_size) == COUNTS[name, image_size]


def test_every_size_has_a_count():
    assert {name.partition("/")[0] for name, _ in COUNTS} == set(vit.SIZES)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_split_at_any_block_equals_the_whole(at):
    model = encoder()
    params = initial.of_module(model, image())
    whole = jax.jit(model.apply)(params, image())

    def split(m, x):
        tokens = m.add_position(m.embed(x))
        return m.final_norm(m.run(m.run(tokens, 0, at), at))

    in_two = jax.jit(functools.partial(model.apply, method=split))
    np.testing.assert_allclose(in_two(params, image()), whole, atol=1e-6)


@pytest.mark.slow
def test_remat_and_unrolling_do_not_change_the_gradient():
    params = initial.of_module(encoder(), image())

    def gradient(**options):
        model = encoder(**options)
        loss = jax.jit(jax.grad(lambda p: (model.apply(p, image()) ** 3).sum()))
        return jax.tree.leaves(loss(params))

    expected = gradient(remat="none")
    for options in (
        *({"remat": policy} for policy in vit.REMAT_POLICIES[1:]),
        {"unroll": 3},
    ):
        for got, leaf in zip(gradient(**options), expected, strict=True):
            np.testing.assert_allclose(got, leaf, rtol=1e-4, atol=1e-4)


def test_block_equals_pytorch():
    torch = pytest.importorskip("torch", reason="the reference is PyTorch's layer")
    d, heads, m = 16, 2, 32
    layer = torch.nn.TransformerEncoderLayer(
        d, heads, m, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    block = vit.Block(
        heads=heads,
        mlp=m,
        layer_norm_eps=layer.norm1.eps,
        compute_dtype=jnp.float32,
        implementation="chunked",
    )
    weights = {k: v.detach().numpy() for k, v in layer.state_dict().items()}

    def dense(name):
        return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}

    def norm(name):
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    params = {
        "qkv": {
            "kernel": weights["self_attn.in_proj_weight"].T,
            "bias": weights["self_attn.in_proj_bias"],
        },
        "out": dense("self_attn.out_proj"),
        "mlp_in": dense("linear1"),
        "mlp_out": dense("linear2"),
        "norm_attention": norm("norm1"),
        "norm_mlp": norm("norm2"),
    }
    x = np.random.default_rng(0).standard_normal((2, 5, d))
    expected = layer(torch.tensor(x)).detach().numpy()
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    got = block.apply({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())


def test_bfloat16_keeps_parameters_and_the_final_norm_in_float32():
    model = encoder(compute_dtype=jnp.bfloat16)
    params = initial.of_module(model, image())
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    out = jax.jit(model.apply)(params, image())
    assert out.dtype == jnp.float32
    exact = jax.jit(encoder().apply)(params, image())
    assert 0 < np.abs(np.asarray(out) - exact).max() < 0.1


def test_invalid_names_and_sizes_are_errors():
    with pytest.raises(ValueError, match="'Tiny/16' is not a variant"):
        vit.parse_variant("Tiny/16")
    with pytest.raises(ValueError, match="'Ti/x' is not a variant"):
        vit.parse_variant("Ti/x")
    with pytest.raises(ValueError, match="100 x 64 pixels .* patches of 16.*=96"):
        vit.grid((100, 64), 16)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="got an image of 12 x 12"):
        jax.eval_shape(encoder().init, key, image(height=12))
    with pytest.raises(ValueError, match="'blocks' is not a policy"):
        jax.eval_shape(encoder(remat="blocks").init, key, image())

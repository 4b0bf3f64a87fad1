"""Replays single operations of the image encoders: pools, norms, windows, attention."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fof_jax.models import resnet, swin, swin_window, vgg
from fof_jax.models.batch_norm import BatchNorm
from fof_jax.models.pretrained import image_encoder_names, torch_layers
from fof_jax.models.pretrained.torch_layers import Layers
from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import torch_layout
from fof_jax.parity.rows.encoder_tolerances import TOLERANCES
from fof_jax.parity.rows.torch_layout import Recording
from fof_jax.training import optimizer, published_optimizers

_ATTENTION: Layers = {
    "": ("attn",),
    "qkv": ("attn", "qkv"),
    "proj": ("attn", "proj"),
    "cpb_mlp.0": ("attn", "cpb_0"),
    "cpb_mlp.2": ("attn", "cpb_2"),
}


def replay(z: Recording) -> list[Row]:
    """Compares every recorded operation with ours.

    Args:
      z: `encoder_units` of methods/encoders.md, or some of its operations.

    Returns:
      one row per operation and kind of quantity.

    Source: methods/encoders.md, "Layout" (encoder_units).
    """
    rows: list[Row] = []
    for name, operation in OPERATIONS.items():
        if any(key.startswith(f"{name}/") for key in z):
            rows += operation(z)
    return rows


def _row(name: str, ours: Any, theirs: Any, kind: str = "units", **options: Any) -> Row:
    return comparison.row(name, ours, theirs, TOLERANCES[kind], kind=kind, **options)


def _numbers(z: Recording, name: str) -> list[str]:
    """Cases "NAME/0", "NAME/1", … of an operation."""
    numbers = {k.split("/")[1] for k in z if k.startswith(f"{name}/")}
    return [f"{name}/{number}" for number in sorted(numbers, key=int)]


def _last(x: np.ndarray) -> jax.Array:
    """NCHW to NHWC; other ranks as they are."""
    return jnp.asarray(np.moveaxis(x, 1, -1) if x.ndim == 4 else x)


def _floor_pool(z: Recording) -> list[Row]:
    halves = nn.max_pool(_last(z["max_pool2/in"]), (2, 2), strides=(2, 2))
    return [_row("max_pool2", halves, _last(z["max_pool2/out"]))]


def _pool(z: Recording, name: str, pool: Callable[[Any], Any]) -> Iterator[Row]:
    for case in _numbers(z, name):
        x, weight = _last(z[f"{case}/in"]), _last(z[f"{case}/weight"])
        out, pull = jax.vjp(pool, x)
        yield _row("", out, _last(z[f"{case}/out"]), where=case)
        yield _row("", pull(weight)[0], _last(z[f"{case}/grad"]), where=f"{case} grad")


def _batch_norm(z: Recording) -> Iterator[Row]:
    module = BatchNorm()

    @jax.jit
    def forward(x: Any, moving: Any, params: Any) -> Any:
        return module.apply(
            {"params": params, "batch_stats": moving},
            x,
            train=True,
            mutable=["batch_stats"],
        )

    for case in _numbers(z, "batch_norm"):
        params = {"scale": z[f"{case}/weight"], "bias": z[f"{case}/bias"]}
        moving = {"mean": z[f"{case}/running_mean"], "var": z[f"{case}/running_var"]}
        step = 0
        while f"{case}/step{step}/in" in z:
            at = f"{case}/step{step}"
            x = _last(z[f"{at}/in"])
            start = functools.partial(forward, moving=moving, params=params)
            out, pull, updated = jax.vjp(start, x, has_aux=True)
            moving = updated["batch_stats"]
            weight = _last(z[f"{at}/weight"])
            theirs = _last(z[f"{at}/grad"])
            # With two rows its terms, of the size of the incoming gradient times
            # the factor of the normalization, cancel.
            deviation = jnp.sqrt(x.reshape(-1, x.shape[-1]).var(axis=0) + 1e-5)
            term = jnp.abs(params["scale"] / deviation).max() * jnp.abs(weight).max()
            scale = float(max(jnp.abs(theirs).max(), term))
            yield _row("", out, _last(z[f"{at}/out"]), where=at)
            yield _row("", pull(weight)[0], theirs, scale=scale, where=f"{at} grad")
            for name, ours in torch_layers.STATISTICS.items():
                yield _row("", moving[ours], z[f"{at}/{name}"], where=f"{at} {ours}")
            step += 1
        out = module.apply({"params": params, "batch_stats": moving}, x, train=False)
        yield _row("", out, _last(z[f"{case}/eval"]), where=f"{case} eval")


def _windows(z: Recording) -> Iterator[Row]:
    for case in _numbers(z, "swin_window"):
        window, pretrained = z[f"{case}/window"].tolist()
        table = swin_window.coordinates(window, pretrained)
        yield _row("", table[None], z[f"{case}/coords_table"], where=case)
        if f"{case}/position_index" in z:
            index = swin_window.position_index(window)
            theirs = z[f"{case}/position_index"]
            yield _row("", index, theirs, "equal", scale=1.0, where=f"{case} index")


def _masks(z: Recording) -> Iterator[Row]:
    for case in _numbers(z, "swin_mask"):
        height, width, window, shift = z[f"{case}/hwws"].tolist()
        mask = swin_window.shift_mask((height, width), window, shift)
        yield _row("", mask, z[f"{case}/mask"], "equal", scale=1.0, where=case)
        tokens = np.arange(height * width).reshape(1, height, width, 1)
        rolled = np.roll(tokens, (-shift, -shift), axis=(1, 2))
        theirs = z[f"{case}/windows"]
        ours = swin_window.partition(rolled, window).reshape(theirs.shape)
        yield _row("", ours, theirs, "equal", scale=1.0, where=f"{case} windows")
        back = swin_window.reverse(
            swin_window.partition(rolled, window), window, (height, width)
        )
        yield _row("", back, rolled, "equal", scale=1.0, where=f"{case} reverse")


def _attention(z: Recording) -> list[Row]:
    prefix = "swin_attention/"
    tensors = torch_layout.under(z, f"{prefix}init/")
    layers = {name: path[1:] for name, path in _ATTENTION.items()}
    params = torch_layers.to_flax(tensors, layers)["params"]
    module = swin.WindowAttention(heads=len(tensors["logit_scale"]))
    mask, x = z[f"{prefix}mask"], jnp.asarray(z[f"{prefix}in"])

    @jax.jit
    def forward(params: Any, x: jax.Array) -> Any:
        out, captured = module.apply(
            {"params": params}, x, mask, mutable=["intermediates"]
        )
        return out, captured["intermediates"]["logits"][0]

    out, pull, logits = jax.vjp(forward, params, x, has_aux=True)
    gradient, of_input = pull(jnp.asarray(z[f"{prefix}weight"]))
    zero, _ = forward(params, jnp.asarray(z[f"{prefix}in_zero"]))
    probability = jax.nn.softmax(logits)
    outputs = [
        _row("", ours, z[f"{prefix}{name}"], kind, where=name)
        for name, ours, kind in (
            ("logits", logits, "units"),
            ("prob", probability, "attention"),
            ("out", out, "attention"),
            ("out_zero", zero, "attention"),
        )
    ]
    gradients = [_row("", of_input, z[f"{prefix}grad_in"], "attention gradient")]
    for name, theirs in torch_layout.under(z, f"{prefix}grad/").items():
        ours = torch_layers.from_flax(name, {"params": gradient}, layers)
        gradients.append(_row("", ours, theirs, "attention gradient", where=name))
    return [
        comparison.worst(outputs, "swin_attention"),
        comparison.worst(gradients, "swin_attention gradients"),
    ]


def _merge(z: Recording) -> list[Row]:
    """Merging; the recording has no height, which its concatenated tokens decide."""
    layers = {"reduction": ("reduction",), "norm": ("norm",)}
    tensors = torch_layout.under(z, "swin_merge/init/")
    params = torch_layers.to_flax(tensors, layers)["params"]
    x, rows = z["swin_merge/in"], []
    for height in range(2, x.shape[1], 2):
        width = x.shape[1] // height
        if height * width != x.shape[1] or width % 2:
            continue
        grid = jnp.asarray(x.reshape(x.shape[0], height, width, -1))
        out = jax.jit(swin.PatchMerging().apply)({"params": params}, grid)
        parts = swin.quadrants(grid)
        rows.append(
            [
                _row(
                    f"swin_merge{name}",
                    np.asarray(ours).reshape(theirs.shape),
                    theirs,
                )
                for name, ours, theirs in (
                    (" order", parts, z["swin_merge/concatenated"]),
                    ("", out, z["swin_merge/out"]),
                )
            ]
        )
    return min(rows, key=lambda pair: pair[0].deviation)


def _initial(z: Recording) -> list[Row]:
    """Tensors that a fresh network has at 0 and at 1, and the scale of its logits."""
    blocks = [n.split(".") for n in z["swin_init/zero"].tolist() if ".blocks." in n]
    stages = max(int(parts[1]) for parts in blocks) + 1
    depths = [
        max(int(parts[3]) for parts in blocks if int(parts[1]) == stage) + 1
        for stage in range(stages)
    ]
    size = swin.Size(width=8, depths=tuple(depths), heads=(1,) * stages)
    encoder = swin.SwinV2(size=size, window=2)
    image = jnp.zeros((1, *(swin.PATCH * 2**stages,) * 2, 3))
    start = functools.partial(encoder.init, train=False)
    fresh = jax.jit(start)(jax.random.key(0), image)["params"]
    layers = image_encoder_names.swin_layers(encoder)
    rows = []
    for name, value in (("zero", 0), ("one", 1)):
        for tensor in z[f"swin_init/{name}"].tolist():
            if tensor.startswith("head."):
                continue
            ours = torch_layers.from_flax(tensor, {"params": fresh}, layers)
            if ours is None:
                raise ValueError(f"parity: swin_init has an unknown tensor {tensor}.")
            theirs = np.full(ours.shape, value)
            rows.append(_row("", ours, theirs, "equal", scale=1.0, where=tensor))
    scale = fresh["stage0_block0"]["attn"]["logit_scale"]
    rows.append(_row("", scale, z["swin_init/logit_scale"]))
    return [comparison.worst(rows, "swin_init")]


def _rates(z: Recording) -> Iterator[Row]:
    for case in _numbers(z, "lr"):
        constant, decay = z[f"{case}/niter_decay"].tolist()
        theirs = z[f"{case}/multiplier"]
        ours = [
            published_optimizers.linear_epochs(
                epoch,
                learning_rate=1.0,
                constant_epochs=constant,
                decay_epochs=decay,
            )
            for epoch in range(len(theirs))
        ]
        yield _row("", ours, theirs, "rate", where=case)


def _optimizer(z: Recording, name: str, adam: Callable[..., Any]) -> list[Row]:
    """Three steps from given gradients."""
    rate, decay = z[f"{name}/lr_wd"].tolist()
    transform = adam(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=decay)
    params = [jnp.asarray(z[f"{name}/param"][0], jnp.float32)]
    state = transform.init(params[0])
    for gradient in z[f"{name}/grad"]:
        direction, state = transform.update(
            jnp.asarray(gradient, jnp.float32), state, params[-1]
        )
        params.append(optimizer.apply(params[-1], direction, jnp.float32(rate)))
    theirs = z[f"{name}/param"]
    return [_row(name, np.stack(params), theirs, "optimizer", scale=1.0)]


def _grouped(name: str, rows: Callable[[Recording], Iterator[Row]]) -> Any:
    return lambda z: [comparison.worst(list(rows(z)), name)]


# By the first part of the recorded names.
OPERATIONS: dict[str, Callable[[Recording], list[Row]]] = {
    "adaptive_pool": _grouped(
        "adaptive_pool",
        lambda z: _pool(z, "adaptive_pool", lambda x: vgg.adaptive_average_pool(x)),
    ),
    "max_pool": _grouped(
        "max_pool", lambda z: _pool(z, "max_pool", lambda x: resnet.max_pool(x))
    ),
    "max_pool2": _floor_pool,
    "batch_norm": _grouped("batch_norm", _batch_norm),
    "swin_window": _grouped("swin_window", _windows),
    "swin_mask": _grouped("swin_mask", _masks),
    "swin_attention": _attention,
    "swin_merge": _merge,
    "swin_init": _initial,
    "lr": _grouped("lr", _rates),
    "adam_l2": lambda z: _optimizer(z, "adam_l2", published_optimizers.adam_l2),
    "adamw": lambda z: _optimizer(z, "adamw", optimizer.adamw),
}

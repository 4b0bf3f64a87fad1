"""Parameters and images of the encoder recordings, from a name, a shape and a seed."""

import zlib

import numpy as np
from jaxtyping import Float

# First value of logit_scale, and the one above the clamp at ln 100 with its layer.
_LOGIT_SCALE, _CLAMPED, _CLAMPED_LAYER = 2.302585092994046, 4.8, "layers.1.blocks.0."
_COARSE = 8  # pixels of a coarse cell's side


def uniform(name: str, shape: tuple[int, ...], seed: int) -> Float[np.ndarray, "..."]:
    """Odd multiples of 2^-23 in (-1, 1), row-major float64.

    Args:
      name: hashed with the seed.
      shape: of the result.
      seed: `cfg/seed`.

    Source: methods/encoders.md, "The rule" (SplitMix64 of Steele et al. 2014).
    """
    count = int(np.prod(shape, dtype=np.int64))
    key = np.uint64((zlib.crc32(name.encode()) + (seed << 32)) % 2**64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += key
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    odd = 2 * (x >> np.uint64(41)).astype(np.int64) + 1
    return ((odd - 2**23) / 2**23).reshape(shape)


def tensor(name: str, shape: tuple[int, ...], seed: int) -> Float[np.ndarray, "..."]:
    """A parameter or buffer by its PyTorch name, in PyTorch's layout, float32.

    Args:
      name, shape, seed: see `uniform`.

    Source: methods/encoders.md, "The rule".
    """
    leaf = name.rpartition(".")[2]
    constant = {"num_batches_tracked": 0, "output_range": 6, "output_shift": -3}
    if leaf in constant:
        return np.full(shape, constant[leaf], np.float32)
    u = uniform(name, shape, seed)
    if leaf == "running_mean":
        value = 0.2 * u
    elif leaf == "running_var":
        value = 1 + 0.5 * u
    elif leaf == "logit_scale":
        value = _LOGIT_SCALE + 0.7 * u
        if name.startswith(_CLAMPED_LAYER):
            value[-1] = _CLAMPED
    elif len(shape) == 4:
        value = np.sqrt(6 / np.prod(shape[1:])) * u
    elif len(shape) == 2:
        value = np.sqrt(3 / shape[1]) * u
    elif name.endswith(".bn2.weight"):
        value = 0.4 + 0.12 * u
    else:
        value = 1 + 0.3 * u if leaf == "weight" else 0.1 * u
    return value.astype(np.float32)


def image(step: int, shape: tuple[int, ...], seed: int) -> Float[np.ndarray, "B C H W"]:
    """Images of a batch: noise of every pixel plus noise of 8 x 8 cells, float32.

    Args:
      step: number of the batch.
      shape: B, C, H, W.
      seed: `cfg/seed`.

    Source: methods/encoders.md, "The rule".
    """
    *batch, height, width = shape
    cells = (*batch, -(-height // _COARSE), -(-width // _COARSE))
    coarse = uniform(f"batch{step}/image/coarse", cells, seed)
    coarse = coarse.repeat(_COARSE, axis=2).repeat(_COARSE, axis=3)
    fine = uniform(f"batch{step}/image/fine", shape, seed)
    pixels = 0.75 * fine + 1.5 * coarse[:, :, :height, :width]
    return pixels.astype(np.float32)

"""Focus on Focus (Pan et al., IEEE BIBM 2024) in JAX and Flax.

    import fof_jax
    results = fof_jax.train("phantom", "runs/phantom", {"epochs": 2})
    model = fof_jax.load("runs/phantom")
    model.predict(["a.png"]).prob

`load` and `train` are imported on first use, because importing JAX takes seconds.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        from fof_jax.inference.load import load

        return load
    if name == "train":
        from fof_jax.cli.train import train

        return train
    raise AttributeError(f"module 'fof_jax' has no attribute {name!r}")

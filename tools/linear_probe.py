"""Linear probe of a frozen encoder, and of the same encoder with shuffled weights.

    python tools/linear_probe.py --checkpoint=weights/dinov2-s14 --image_size=112 \
        --store=data/cohort

Features are the mean of the patches after the final LayerNorm, of grayscale images
standardized per image; logistic regression on standardized features, five folds by
patient (seed 42). Tables: the encoder as imported; without its class token, if it has
one, as with `init.class_token=drop`; and with every tensor shuffled.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import logistic
import numpy as np

from fof_jax.data import splits, store
from fof_jax.data.augment import pipeline
from fof_jax.evaluation import metrics, tables
from fof_jax.inference import components
from fof_jax.models import vit

BATCH = 24
SEED = 42


def main(checkpoint: Path, store_folder: Path, side: int) -> None:
    """Prints the tables."""
    data = store.open_store(store_folder.parent, store_folder.name)
    folds = splits.make_splits(data, scheme="patient", folds=5, seed=SEED)
    images = np.stack([data.read(i, side) for i in range(len(data))])
    encoder, params = components.imported(checkpoint, image_size=(side, side))
    rng = np.random.default_rng(SEED)
    shuffled = jax.tree.map(
        lambda a: rng.permutation(a.ravel()).reshape(a.shape), params
    )
    rows = {"as imported": (encoder, params), "shuffled": (encoder, shuffled)}
    if encoder.class_token:
        patches_only = {**params, "ahead": params["ahead"][1:]}
        if not encoder.size.registers:
            del patches_only["ahead"]
        rows["class token dropped"] = (encoder.clone(class_token=False), patches_only)
    for caption, one in rows.items():
        tested = logistic.predict(features(*one, images), data, folds)
        table = tables.format_table(
            metrics.summarize(tested),
            unit="region",
            scheme=folds.scheme,
            caption=f"Linear probe, {checkpoint.name} at {side} px, {caption}",
        )
        print(table, flush=True)


def features(encoder: vit.ViT, params: dict, images: np.ndarray) -> np.ndarray:
    """Features [n, D] of uint8 images [n, H, W, 3]."""

    @jax.jit
    def encode(batch):
        x = pipeline.normalize(batch, color=False)
        return encoder.apply({"params": params}, x, method=lambda m, x: m.pool(m(x)))

    starts = range(0, len(images), BATCH)
    return np.concatenate([encode(jnp.asarray(images[i : i + BATCH])) for i in starts])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--image_size", type=int, default=112)
    flags = parser.parse_args()
    main(flags.checkpoint, flags.store, flags.image_size)

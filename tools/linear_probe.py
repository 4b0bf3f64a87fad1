"""What a linear classifier reads from a frozen encoder, and from a shuffled one.

    python tools/linear_probe.py --checkpoint=weights/dinov2-s14 --image_size=112 \
        --store=data/cohort

Features are the mean of the patches after the last LayerNorm, of greyscale images
standardised one by one; logistic regression on standardised features, five folds drawn
over patients (seed 42). Tables: the encoder as imported; where it has a class token,
without it, as `init.class_token=drop` trains it; and with every tensor shuffled: the
same numbers, the same network, nothing learned.
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
    draw = np.random.default_rng(SEED)
    shuffled = jax.tree.map(
        lambda a: draw.permutation(a.ravel()).reshape(a.shape), params
    )
    rows = {"as imported": (encoder, params), "shuffled": (encoder, shuffled)}
    if encoder.class_token:
        less = {**params, "ahead": params["ahead"][1:]}
        if not encoder.size.registers:
            del less["ahead"]
        rows["class token dropped"] = (encoder.clone(class_token=False), less)
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
    """[n, D] of uint8 images [n, H, W, 3]."""

    @jax.jit
    def one(batch):
        x = pipeline.normalise(batch, color=False)
        return encoder.apply({"params": params}, x, method=lambda m, x: m.pool(m(x)))

    starts = range(0, len(images), BATCH)
    return np.concatenate([one(jnp.asarray(images[i : i + BATCH])) for i in starts])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--image_size", type=int, default=112)
    flags = parser.parse_args()
    main(flags.checkpoint, flags.store, flags.image_size)

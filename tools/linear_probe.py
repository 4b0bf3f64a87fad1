"""What a linear classifier reads from a frozen encoder, and from a shuffled one.

    python tools/linear_probe.py --checkpoint=weights/dinov2-s14 --image_size=112 \
        --store=data/cohort

Features are the mean of the patches after the last LayerNorm, of greyscale images
standardised one by one; logistic regression on standardised features, five folds drawn
over patients (seed 42). The second row has every tensor of the encoder shuffled: the
same numbers, the same network, nothing learned.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fof_jax import metrics, predictions, results_table, vit, weights
from fof_jax.data import augment, splits, store
from fof_jax.pretrained import position

BATCH = 24
SEED = 42


def main(checkpoint: Path, store_folder: Path, side: int) -> None:
    """Prints both tables."""
    data = store.open_store(store_folder.parent, store_folder.name)
    folds = splits.make_splits(data, scheme="patient", folds=5, seed=SEED)
    images = np.stack([data.read(i, side) for i in range(len(data))])
    encoder, params = read(checkpoint, side)
    draw = np.random.default_rng(SEED)
    shuffled = jax.tree.map(
        lambda a: draw.permutation(a.ravel()).reshape(a.shape), params
    )
    for caption, weights_ in (("as imported", params), ("shuffled", shuffled)):
        tested = probe(features(encoder, weights_, images), data, folds)
        table = results_table.format_table(
            metrics.summarise(tested),
            unit="region",
            scheme=folds.scheme,
            caption=f"Linear probe, {checkpoint.name} at {side} px, {caption}",
        )
        print(table, flush=True)


def read(checkpoint: Path, side: int) -> tuple[vit.ViT, dict]:
    """An imported encoder for images of another size, its class token kept."""
    said = weights.about(checkpoint)["encoder"]
    size, patch = vit.variant(said["variant"])
    encoder = vit.ViT(
        size=size,
        patch=patch,
        image_size=(side, side),
        layer_norm_eps=said["layer_norm_eps"],
        class_token=said["class_token"],
    )
    params = weights.read(checkpoint).params["encoder"]
    params["position"] = position.resize(
        params["position"], grid=said["grid"], to=encoder.grid, method="bicubic"
    )
    return encoder, params


def features(encoder: vit.ViT, params: dict, images: np.ndarray) -> np.ndarray:
    """[n, D] of uint8 images [n, H, W, 3]."""

    @jax.jit
    def one(batch):
        x = augment.normalise(batch, color=False)
        return encoder.apply({"params": params}, x, method=lambda m, x: m.pool(m(x)))

    parts = [
        np.asarray(one(jnp.asarray(images[i : i + BATCH])))
        for i in range(0, len(images), BATCH)
    ]
    return np.concatenate(parts)


def probe(
    x: np.ndarray, data: store.Store, folds: splits.Splits
) -> predictions.Predictions:
    """Predictions of every image by the fold that has not seen its patient."""
    tested = []
    for k, (train, test) in enumerate(folds.folds):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(x[train], data.grades[train])
        tested.append(
            predictions.Predictions(
                patient=tuple(data.patients[i] for i in test),
                image=tuple(data.images[i] for i in test),
                fold=np.full(len(test), k),
                y=data.grades[test],
                prob=model.predict_proba(x[test]),
                error=("",) * len(test),
            )
        )
    return predictions.join(tested)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--image_size", type=int, default=112)
    flags = parser.parse_args()
    main(flags.checkpoint, flags.store, flags.image_size)

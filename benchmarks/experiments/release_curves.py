"""Compares the loss curves of the authors' code and of this package on the phantom.

    python benchmarks/experiments/release_curves.py --checkout=FoF \
        --python=VENV/bin/python --figure=docs/release_curves.png

Both start from the same weights and use the same batches. `--python` is an interpreter
with torch, transformers 4.46 and grad-cam; the plot needs matplotlib. Prints the
largest difference and the steps at which masks differ.
"""

import argparse

import numpy as np

from fof_jax.data.datasets.phantom import cohort
from fof_jax.models import vit
from fof_jax.parity import live, release_steps

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def phantom_inputs(*, steps: int, batch: int, image: int, patch: int, seed: int):
    """Phantom regions; the second view is brighter or darker by up to 20%."""
    rng = np.random.default_rng(seed)
    regions = []
    for patient, index in cohort.cohort(regions=steps * batch, seed=seed):
        regions.append(cohort.draw_region(patient, index, image_size=image))
    pixels = np.stack([r.image for r in regions]) / 255.0
    factor = rng.uniform(0.8, 1.2, (len(pixels), 1, 1, 1))
    views = [(v - MEAN) / STD for v in (pixels, np.clip(pixels * factor, 0, 1))]
    genes = [[0 if b is None else b for b in r.biomarkers] for r in regions]
    rows = (
        *views,
        np.array([r.grade for r in regions]),
        np.array(genes),
        np.array([r.floats for r in regions]),
    )
    return live.inputs_from(
        *(a.reshape(steps, batch, *a.shape[1:]) for a in rows),
        size=vit.SIZES["mu"],
        patch=patch,
        steps=steps,
        warmup=steps * 15 // 70,
        seed=seed,
    )


def main() -> None:
    """Runs both, prints the differences and plots the curves."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--checkout", required=True)
    flags.add_argument("--python", required=True)
    flags.add_argument("--figure", default="release_curves.png")
    flags.add_argument("--steps", type=int, default=100)
    flags.add_argument("--seed", type=int, default=0)
    given = flags.parse_args()
    inputs = phantom_inputs(
        steps=given.steps, batch=4, image=64, patch=8, seed=given.seed
    )
    theirs = live.record(given.checkout, inputs, python=given.python)
    ours = release_steps.per_step(theirs)
    total, recorded = ours["loss_total"], theirs["steps/loss_total"]
    difference = np.abs(total - recorded)
    masks = np.abs(ours["mask"] - theirs["steps/mask"]).sum(axis=(1, 2)).astype(int)
    differing = np.flatnonzero(masks)
    print(f"largest difference {difference.max():.1e} at step {difference.argmax()}")
    print(f"largest relative difference {(difference / recorded).max():.1e}")
    print(f"steps whose masks differ: {[(int(s), int(masks[s])) for s in differing]}")
    margin = np.abs(theirs["steps/cam_pooled"] - 0.5)
    for step in differing[:5]:
        bits = ours["mask"][step] != theirs["steps/mask"][step]
        print(f"step {step}: distance from theta {margin[step][bits].max():.1e}")

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 5), sharex=True)
    top.plot(recorded, label="authors' code (PyTorch)", lw=3, color="0.7")
    top.plot(total, label="FoF-JAX, release/", lw=1, color="C3")
    top.set_ylabel("total loss")
    top.legend()
    bottom.semilogy(np.maximum(difference, 1e-9), color="C0", lw=1)
    for step in differing:
        bottom.axvline(step, color="C1", lw=0.8)
    bottom.set_ylabel("difference")
    bottom.set_xlabel("optimizer step (bars: a mask differs)")
    figure.tight_layout()
    figure.savefig(given.figure, dpi=110)


if __name__ == "__main__":
    main()

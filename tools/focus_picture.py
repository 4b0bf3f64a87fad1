"""Draws a region, its map A and its mask M from a trained fold, side by side.

    python tools/focus_picture.py --workdir=runs/phantom --fold=0 --row=3 --out=a.png

`row` is the region's position in the store. A is that of the true grade (Eq. 1); in the
third panel the patches that M hides (Eq. 2) are dark.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from fof_jax.data import loader, prepare
from fof_jax.data.augment import pipeline
from fof_jax.training import checkpoint
from fof_jax.training import state as training_state
from fof_jax.training.build import build_program


def main(workdir: Path, fold: int, row: int, out: Path) -> None:
    """Restores the newest checkpoint of the fold and draws."""
    config = ConfigDict(json.loads((workdir / "config.json").read_text())["config"])
    data = prepare.prepare(config)
    program = build_program(config, data)
    batch = next(
        loader.eval_batches(
            data,
            np.array([row]),
            batch_size=1,
            image_size=config.data.image_size,
            cache="none",
        )
    )
    fresh = training_state.initial_state(
        program.method, program.adamw, jax.random.key(0), batch
    )
    kept = checkpoint.Checkpoints(workdir / f"fold_{fold}" / "checkpoints")
    state = kept.restore(fresh)
    kept.close()
    if state is None:
        raise ValueError(f"{workdir}/fold_{fold} has no checkpoint. Train it first.")
    image = pipeline.normalise(jnp.asarray(batch.image), color=config.data.color)
    target = jnp.asarray(batch.grade)
    A = jax.jit(program.method.explain)(state.variables, image, target)
    keep = np.asarray(program.method.keep(A))[0]  # [h, w]
    pixels = batch.image[0]
    side = pixels.shape[0] // keep.shape[0]
    mask = np.kron(keep, np.ones((side, side)))[..., None]  # [H, W, 1]
    heat = (np.asarray(A)[0, ..., None] * [255, 190, 40]).astype(np.uint8)
    panels = [pixels, heat, (pixels * np.where(mask, 1.0, 0.25)).astype(np.uint8)]
    Image.fromarray(np.concatenate(panels, axis=1)).save(out)
    print(
        f"{out}: {data.images[row]}, grade {data.classes[int(target[0])]}, "
        f"{100 * keep.mean():.1f}% of patches kept, A in [{A.min():.3f}, {A.max():.3f}]"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("focus.png"))
    flags = parser.parse_args()
    main(flags.workdir, flags.fold, flags.row, flags.out)

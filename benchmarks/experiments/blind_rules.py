"""Pointing of rules that know nothing, on a cohort with masks.

    python benchmarks/experiments/blind_rules.py --table=ebhi/table.csv --classes=0,1,2

The bar that a map has to pass on a set before it has shown anything: the table "Blind
rules on real sets" of docs/focus.md. No model is read.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from fof_jax.data import images
from fof_jax.data.cohort import read_cohort
from fof_jax.evaluation import focus_scores
from fof_jax.explainers import blind, random_map
from fof_jax.explainers.base import Query
from fof_jax.models import vit
from fof_jax.models.vit_classifier import ViTClassifier

PATCH = 16
LONGEST = 224  # pixels of the longer side
DRAWS = 20  # of the random rule
RULES = {
    "random": random_map.explain,
    "center": blind.center,
    "darkest": blind.darkest,
    "hematoxylin": blind.hematoxylin,
    "edges": blind.edges,
}


def shrink(image: Image.Image, resample: Image.Resampling) -> np.ndarray:
    """An image of at most `LONGEST` pixels a side, both sides whole patches."""
    scale = min(1.0, LONGEST / max(image.size))
    width, height = (
        max(1, round(scale * side) // PATCH) * PATCH for side in image.size
    )
    return np.asarray(image.resize((width, height), resample))


@functools.cache
def compiled(grid: tuple[int, int]) -> Callable[[Query], dict[str, jax.Array]]:
    """Evidence of each rule for images of a number of patches; none reads a model."""
    size = (grid[0] * PATCH, grid[1] * PATCH)
    encoder = vit.ViT(size=vit.Size(1, 1, 1, 1), patch=PATCH, image_size=size)
    model = ViTClassifier(encoder=encoder, params={}, logits_of=lambda tokens: tokens)
    return jax.jit(lambda query: {k: rule(model, query) for k, rule in RULES.items()})


def points(pixels: np.ndarray, mask: np.ndarray, index: int) -> dict[str, float]:
    """Pointing of each rule on one image, and the mask's share of it.

    Args:
      pixels: [H, W, 3], 0 … 255; both sides whole patches.
      mask: [H, W], True on structures.
      index: number of the image, which keys the random rule.
    """
    query = Query(
        pixels=jnp.asarray(np.repeat(pixels[None], DRAWS, axis=0)),
        image=jnp.zeros((DRAWS, *pixels.shape)),
        target=jnp.zeros(DRAWS, jnp.int32),
        index=jnp.arange(DRAWS) + DRAWS * index,
    )
    h, w = mask.shape
    masks = np.repeat(mask[None], DRAWS, axis=0)
    evidence = compiled((h // PATCH, w // PATCH))(query)
    scores = {
        name: float(focus_scores.pointing(np.asarray(one), masks).mean())
        for name, one in evidence.items()
    }
    return scores | {"area": float(mask.mean())}


def main(argv: list[str] | None = None) -> None:
    """Prints one line of the table."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--table", required=True, help="CSV with a column mask")
    flags.add_argument("--classes", required=True, help="separated by commas")
    args = flags.parse_args(argv)
    cohort = read_cohort(
        args.table, classes=tuple(args.classes.split(",")), biomarkers=()
    )
    rows = []
    for index, row in enumerate(cohort.rows):
        if row.mask is None:
            continue
        pixels = images.decode(images.encode_region(row.image))
        with Image.open(row.mask) as file:
            mask = shrink(file.convert("L"), Image.Resampling.NEAREST) > 0
        if mask.any():
            image = shrink(Image.fromarray(pixels), Image.Resampling.BILINEAR)
            rows.append(points(image, mask, index))
    if not rows:
        raise SystemExit(f"--table: {args.table} has no image with a mask.")
    means = {k: 100 * np.mean([row[k] for row in rows]) for k in (*RULES, "area")}
    print("| images | " + " | ".join(means) + " |")
    print(f"| {len(rows):,} | " + " | ".join(f"{m:.1f}" for m in means.values()) + " |")


if __name__ == "__main__":
    main()

"""Distractors independent of the grade: infiltrates and out-of-focus nuclei.

Both add hematoxylin outside of diagnostic structures, in amounts that vary more between
regions than between grades, so the amount of stain does not reveal the grade.
"""

import numpy as np
from jaxtyping import Float32

from fof_jax.data.datasets.phantom import nuclei, random, structures

_WITHOUT = 0.2  # fraction of regions without an infiltrate
_LARGEST = 0.40  # maximum fraction of the field covered by an infiltrate


def infiltrate(rng: np.random.Generator, side: int, um: float) -> nuclei.Nuclei:
    """Patches of lymphocytes: small, round, dark nuclei on up to 40% of the field."""
    field = side * um
    at = nuclei.scatter(rng, field=field, spacing=6.6, jitter=0.9)
    noise = np.float32(0.75) * random.value_noise(rng, side, side / 2.6)
    noise += np.float32(0.25) * random.value_noise(rng, side, 14 / um)
    fraction = random.between(rng, 0.0, _LARGEST) * float(rng.random() >= _WITHOUT)
    # Keeps the given fraction of points, those with the highest noise.
    level = structures.lookup(noise, at, um)
    at = at[np.argsort(level, kind="stable")[len(at) - int(fraction * len(at)) :]]
    return nuclei.make(
        rng, at, radius=2.3, spread=0.08, elongation=1.1, irregular=0.03,
        dark=random.between(rng, 0.95, 1.25), uneven=0.2,
    )  # fmt: skip


def out_of_focus(
    rng: np.random.Generator, side: int, um: float
) -> Float32[np.ndarray, "side side"]:
    """Hematoxylin of pale, blurred nuclei deeper in the section."""
    spacing = 1000 / float(np.sqrt(random.between(rng, 200.0, 2600.0)))
    at = nuclei.scatter(rng, field=side * um, spacing=spacing, jitter=1.0)
    radius = random.between(rng, 3.2, 4.6)
    canvas = np.zeros((side, side), np.float32)
    for grow in (0.55, 0.8, 1.05, 1.3):
        layer = np.zeros((side, side), np.float32)
        nuclei.stamp(layer, nuclei.discs(at, radius * grow), um)
        canvas += layer
    return canvas * np.float32(random.between(rng, 0.25, 0.6) / 4)

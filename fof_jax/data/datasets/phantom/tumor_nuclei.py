"""Tumor nuclei of one region: places, shapes and giants."""

import numpy as np
from jaxtyping import Bool

from fof_jax.data.datasets.phantom import nuclei, random
from fof_jax.data.datasets.phantom.patient import Patient

# Stream keys, one per part; region.py has the others.
_PLACES, _SHAPES, _GIANTS = 11, 12, 16
# Mean radius (um), its variation, outline: for grade II, then for III and IV, which
# differ only in structures.
_RADIUS = (3.6, 3.6)
# Distractor: scale of all nuclei of a section, independent of the grade.
_SWELLING = (0.78, 1.22)
_SPREAD = (0.08, 0.34)
_IRREGULAR = (0.03, 0.18)


def sample(
    patient: Patient, region: int, *, field: float, density: float, giants: bool
) -> tuple[nuclei.Nuclei, Bool[np.ndarray, " n"]]:
    """Samples the nuclei of a region, before those under structures are removed.

    So the same seed without structures has the same nuclei elsewhere.

    Args:
      patient, region: the region to generate.
      field: side in micrometers.
      density: nuclei per square micrometer.
      giants: False leaves giant nuclei at the size of the others.

    Returns:
      the nuclei, and which of them are giants.
    """
    seed = (patient.seed, patient.index, region)
    high = int(patient.grade > 0)
    _, _, pten, egfr, card11, _ = patient.status
    places = _places(random.stream(*seed, _PLACES), field, density, egfr)
    cells = _ordinary(random.stream(*seed, _SHAPES), places, high, pten, card11)
    big = _giants(random.stream(*seed, _GIANTS), len(places), high, field)
    if giants and len(big):
        cells = _enlarge(random.stream(*seed, _GIANTS, 1), cells, big)
    is_giant = np.zeros(len(places), bool)
    is_giant[big] = giants
    return cells, is_giant


def _places(
    rng: np.random.Generator, field: float, density: float, egfr: int
) -> np.ndarray:
    """Samples centers of nuclei, `density` per square micrometer before the gradient.

    EGFR gains cluster the nuclei, losses space them evenly.
    """
    cluster_size = (1, 3, 5)[max(0, egfr)]
    clustered = (0.0, 0.7, 0.85)[max(0, egfr)]
    single = density * (1 - clustered)
    jitter = 0.35 if egfr < 0 else 0.85
    spacing = 1 / float(np.sqrt(single))
    parts = [nuclei.scatter(rng, field=field, spacing=spacing, jitter=jitter)]
    if cluster_size > 1:
        spacing = 1 / float(np.sqrt(density * clustered / cluster_size))
        parents = nuclei.scatter(rng, field=field, spacing=spacing, jitter=jitter)
        start = rng.integers(720, size=(len(parents), 1))
        turn = np.arange(cluster_size) * (720 // cluster_size)
        ring = random.DIRECTIONS[(start + turn) % 720]
        reach = random.uniform(rng, 4.4, 6.4, len(parents) * cluster_size)
        ring = ring * reach.reshape(-1, cluster_size, 1)
        parts.append((parents[:, None] + ring).reshape(-1, 2))
    places = np.concatenate(parts).astype(np.float32)
    # Distractor for all grades: a density gradient across the field.
    way = random.directions(rng, 1)[0]
    gradient = np.float32(random.between(rng, 0.0, 0.6))
    offset = ((places / np.float32(field) - np.float32(0.5)) * way).sum(axis=1)
    probability = np.float32(0.85) + gradient * offset
    kept = rng.random(len(places), dtype=np.float32) < probability
    return places[kept]


def _ordinary(
    rng: np.random.Generator, places: np.ndarray, high: int, pten: int, card11: int
) -> nuclei.Nuclei:
    """Tumor nuclei. PTEN loss elongates, gain rounds them; CARD11 hollows them."""
    return nuclei.make(
        rng,
        places,
        radius=_RADIUS[high] * random.between(rng, *_SWELLING),
        spread=_SPREAD[high],
        elongation=(2.4, 1.9, 1.4, 1.15, 1.0)[2 + pten],
        irregular=_IRREGULAR[high],
        dark=1.0,
        uneven=random.between(rng, 0.1, 0.6),
        hollow=(0.0, 0.1, 0.55)[1 + card11],
    )


def _giants(rng: np.random.Generator, n: int, high: int, field: float) -> np.ndarray:
    """Samples indices of giant nuclei; none in grade II."""
    count = 2 + random.count_around(rng, 60e-6 * field * field)
    return rng.permutation(n)[: count * high]


def _enlarge(
    rng: np.random.Generator, cells: nuclei.Nuclei, rows: np.ndarray
) -> nuclei.Nuclei:
    """Replaces `rows` by giant, lobed, hyperchromatic nuclei."""
    giants = nuclei.make(
        rng, cells.at[rows], radius=7.0, spread=0.12, elongation=1.35,
        irregular=0.16, dark=1.3,
    )  # fmt: skip
    others = np.ones(len(cells.at), bool)
    others[rows] = False
    order = np.argsort(np.concatenate([np.flatnonzero(others), rows]), kind="stable")
    return nuclei.join(cells.keep(others), giants).keep(order)

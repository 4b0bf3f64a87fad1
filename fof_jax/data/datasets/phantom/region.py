"""Tissue of one region: hematoxylin and eosin maps and the mask of structures."""

import numpy as np
from jaxtyping import Bool, Float32

from fof_jax.data.datasets.phantom import distractors, nuclei, random, structures
from fof_jax.data.datasets.phantom.patient import Patient

# Stream keys, one per part; see `random.stream`.
(
    _FIBRES,
    _PLACES,
    _SHAPES,
    _VESSELS,
    _CYSTS,
    _STRUCTURES,
    _GIANTS,
    _CHROMATIN,
    _BENEATH,
    _INFILTRATE,
    _CROWDING,
) = range(10, 21)
# Nuclei per square millimeter, mean radius (um), its variation, outline, chromatin: for
# grade II, then for III and IV, which differ only in structures.
_DENSITY = ((1500.0, 2800.0), (2100.0, 3300.0))
_RADIUS = (3.6, 3.6)
# Distractor: scale of all nuclei of a section, independent of the grade.
_SWELLING = (0.78, 1.22)
_SPREAD = (0.08, 0.34)
_IRREGULAR = (0.03, 0.18)
_CLUMPING = (0.3, 0.6)


def micrometers_per_pixel(image_size: int) -> float:
    """Scale of a region: 0.5 um at 1024 pixels, inverse to the square root of the size.

    A compromise between a constant scale (64 pixels would hold few nuclei) and a
    constant field of view (nuclei would be one pixel at 64): 2.0 um and a field of 128
    um at 64, 1.41 and 181 at 128, 1.07 and 239 at 224, 0.5 and 512 at 1024.
    """
    return 0.5 * float(np.sqrt(1024.0 / image_size))


def nuclei_density(patient: Patient, region: int) -> float:
    """Samples the tumor nuclei per square millimeter of a region."""
    rng = random.stream(patient.seed, patient.index, region, _CROWDING)
    return random.between(rng, *_DENSITY[int(patient.grade > 0)])


def tissue(
    patient: Patient,
    region: int,
    side: int,
    *,
    with_structures: bool = True,
    density: float | None = None,
) -> tuple[
    Float32[np.ndarray, "side side"],
    Float32[np.ndarray, "side side"],
    Bool[np.ndarray, "side side"],
]:
    """Generates the unstained tissue of one region.

    Args:
      patient, region: the region to generate.
      side: side in pixels.
      with_structures: False omits the structures of the mask.
      density: tumor nuclei per square millimeter; None for `nuclei_density`.

    Returns:
      Hematoxylin and eosin in units of stain, before scaling to the slide, and the
      mask of diagnostic structures.
    """
    seed = (patient.seed, patient.index, region)
    um = micrometers_per_pixel(side)
    field = side * um
    high = int(patient.grade > 0)
    idh, codeleted, pten, egfr, card11, fgfr2 = patient.status

    diagnostic = structures.none(side)
    if with_structures:
        diagnostic = structures.sample(
            random.stream(*seed, _STRUCTURES), grade=patient.grade, side=side, um=um
        )
    eosin, haze = _neuropil(random.stream(*seed, _FIBRES), side, um, fgfr2)
    blank = np.zeros((side, side), np.float32)

    # IDH mutation: microcysts, as in mutant astrocytomas.
    cysts = blank.copy()
    if idh:
        rng = random.stream(*seed, _CYSTS)
        at = nuclei.scatter(rng, field=field, spacing=44.0, jitter=0.9)
        pools = nuclei.discs(at, random.uniform(rng, 3.0, 7.5, len(at)))
        nuclei.stamp(cysts, pools, um)
        cysts[diagnostic.vacated] = 0

    rng = random.stream(*seed, _VESSELS)
    wall, bore = blank.copy(), blank.copy()
    path, way = structures.capillaries(rng, field=field, branching=bool(codeleted))
    if with_structures:
        outside = ~structures.lookup(diagnostic.vacated, path, um)
        path, way = path[outside], way[outside]
    nuclei.stamp(wall, nuclei.discs(path, 3.6), um)
    nuclei.stamp(bore, nuclei.discs(path, 1.5), um)
    lining = _lining(rng, path, way)

    if density is None:
        density = nuclei_density(patient, region)
    places = _places(random.stream(*seed, _PLACES), field, density * 1e-6, egfr)
    # Nuclei are sampled before those under structures are removed, so that the same
    # seed without structures has the same nuclei elsewhere.
    cells = _ordinary(random.stream(*seed, _SHAPES), places, high, pten, card11)
    big = _giants(random.stream(*seed, _GIANTS), len(places), high, field)
    if with_structures and len(big):
        cells = _enlarge(random.stream(*seed, _GIANTS, 1), cells, big)
    is_giant = np.zeros(len(places), bool)
    is_giant[big] = with_structures
    taken = diagnostic.vacated | (bore > 0.3) | (cysts > 0.5)
    free = ~structures.lookup(taken, places, um)
    cells, is_giant = cells.keep(free), is_giant[free]
    lymphocytes = distractors.infiltrate(random.stream(*seed, _INFILTRATE), side, um)
    lymphocytes = lymphocytes.keep(~structures.lookup(taken, lymphocytes.at, um))

    halo = blank.copy()
    if codeleted:
        nuclei.stamp(halo, cells, um, grow=1.75)
    chromatin = blank.copy()
    every_nucleus = nuclei.join(cells, lymphocytes, lining, diagnostic.cells)
    nuclei.stamp(chromatin, every_nucleus, um)
    giants = blank.copy()
    nuclei.stamp(giants, cells.keep(is_giant), um)
    clear = blank.copy()
    nuclei.stamp(clear, diagnostic.clear, um)

    core, tuft = diagnostic.core, diagnostic.tuft
    grain = random.value_noise(random.stream(*seed, _FIBRES, 1), side, max(1.2, 2 / um))
    eosin = eosin * (1 - core) + (np.float32(0.8) + np.float32(0.6) * grain) * core
    haze = haze * (1 - core) + np.float32(0.12) * grain * core
    eosin = eosin * (1 - tuft) + np.float32(1.05) * tuft
    eosin = np.maximum(eosin, np.float32(0.95) * wall)
    empty = np.maximum(np.maximum(cysts, bore) * np.float32(0.7), diagnostic.lumen)
    eosin = eosin * (1 - np.float32(0.85) * empty)
    haze = haze * (1 - np.float32(0.85) * empty)
    pale = np.maximum(np.minimum(halo, 1) * np.float32(0.8), clear * np.float32(0.6))
    eosin = eosin * (1 - pale)
    haze = haze * (1 - pale)

    rng = random.stream(*seed, _CHROMATIN)
    clumps = random.value_noise(rng, side, max(1.0, 1.3 / um)) - np.float32(0.5)
    chromatin = chromatin * (1 + np.float32(_CLUMPING[high]) * clumps)
    haze = np.maximum(
        haze, distractors.out_of_focus(random.stream(*seed, _BENEATH), side, um)
    )
    hematoxylin = np.maximum(haze, chromatin)
    eosin = eosin * (1 - np.float32(0.55) * np.minimum(chromatin, 1))
    return hematoxylin, eosin, diagnostic.mask | (giants > 0.4)


def _neuropil(
    rng: np.random.Generator, side: int, um: float, fgfr2: int
) -> tuple[np.ndarray, np.ndarray]:
    """Eosin and hematoxylin of the fibrillary background.

    FGFR2 loss aligns the fibers into one coarse bundle, gain shortens them.
    """
    way = random.directions(rng, 1)[0]
    across = np.array([-way[1], way[0]], np.float32)
    width = max(2.2, 1.5 * um) * (1.35 if fgfr2 < 0 else 1.0) / um
    length = (34.0, 22.0, 9.0)[1 + max(-1, min(1, fgfr2))] / um
    sway = 5.0 / um
    one = random.streaks(
        rng, side, direction=way, width=width, length=length, sway=sway
    )
    two = random.streaks(
        rng, side, direction=across, width=width, length=length, sway=sway
    )
    second = np.float32(0.2 if fgfr2 < 0 else 0.95)
    fibers = np.maximum(one, two * second)
    if fgfr2 < 0:
        fibers = np.clip(fibers * np.float32(1.25) - np.float32(0.05), 0, 1)
    eosin = np.float32(0.3) + np.float32(0.6) * fibers
    haze = np.float32(0.10) + np.float32(0.10) * random.value_noise(rng, side, 30 / um)
    return eosin, haze


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


def _lining(
    rng: np.random.Generator, path: np.ndarray, way: np.ndarray
) -> nuclei.Nuclei:
    """Flat endothelial nuclei on both sides of a capillary."""
    every = np.arange(0, len(path), 7)
    side = np.where(rng.random(len(every)) < 0.5, 3.0, -3.0).astype(np.float32)
    across = np.stack([-way[every, 1], way[every, 0]], axis=1)
    return nuclei.make(
        rng, path[every] + across * side[:, None], radius=1.9, spread=0.1,
        elongation=3.4, irregular=0.0, dark=1.0, along=way[every],
    )  # fmt: skip

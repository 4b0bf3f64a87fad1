"""Tissue of one region: hematoxylin and eosin maps and the mask of structures."""

import numpy as np
from jaxtyping import Bool, Float32

from fof_jax.data.datasets.phantom import (
    distractors,
    nuclei,
    random,
    structures,
    tumor_nuclei,
)
from fof_jax.data.datasets.phantom.patient import Patient

# Stream keys, one per part; see `random.stream`. Those between are tumor_nuclei.py's.
_FIBRES, _VESSELS, _CYSTS, _STRUCTURES = 10, 13, 14, 15
_CHROMATIN, _BENEATH, _INFILTRATE, _CROWDING = 17, 18, 19, 20
# Nuclei per square millimeter, chromatin: for grade II, then for III and IV, which
# differ only in structures.
_DENSITY = ((1500.0, 2800.0), (2100.0, 3300.0))
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
    idh, codeleted, _, _, _, fgfr2 = patient.status

    diagnostic = structures.none(side)
    if with_structures:
        diagnostic = structures.sample(
            random.stream(*seed, _STRUCTURES), grade=patient.grade, side=side, um=um
        )
    eosin, haze = _neuropil(random.stream(*seed, _FIBRES), side, um, fgfr2)
    cysts = np.zeros((side, side), np.float32)
    if idh:
        cysts = _stamped(_microcysts(random.stream(*seed, _CYSTS), field), side, um)
        cysts[diagnostic.vacated] = 0

    rng = random.stream(*seed, _VESSELS)
    path, way = structures.capillaries(rng, field=field, branching=bool(codeleted))
    # Structures have vessels of their own; without them nothing is vacated.
    outside = ~structures.lookup(diagnostic.vacated, path, um)
    path, way = path[outside], way[outside]
    wall, bore = (_stamped(nuclei.discs(path, r), side, um) for r in (3.6, 1.5))
    lining = _lining(rng, path, way)

    if density is None:
        density = nuclei_density(patient, region)
    cells, is_giant = tumor_nuclei.sample(
        patient, region, field=field, density=density * 1e-6, giants=with_structures
    )
    taken = diagnostic.vacated | (bore > 0.3) | (cysts > 0.5)
    free = ~structures.lookup(taken, cells.at, um)
    cells, is_giant = cells.keep(free), is_giant[free]
    lymphocytes = distractors.infiltrate(random.stream(*seed, _INFILTRATE), side, um)
    lymphocytes = lymphocytes.keep(~structures.lookup(taken, lymphocytes.at, um))

    every_nucleus = nuclei.join(cells, lymphocytes, lining, diagnostic.cells)
    chromatin = _stamped(every_nucleus, side, um)
    giants = _stamped(cells.keep(is_giant), side, um)

    grain = random.value_noise(random.stream(*seed, _FIBRES, 1), side, max(1.2, 2 / um))
    eosin, haze = _add_structures(eosin, haze, diagnostic, grain)
    eosin = np.maximum(eosin, np.float32(0.95) * wall)
    empty = np.maximum(np.maximum(cysts, bore) * np.float32(0.7), diagnostic.lumen)
    eosin, haze = (x * (1 - np.float32(0.85) * empty) for x in (eosin, haze))
    clear = _stamped(diagnostic.clear, side, um)
    halo = _stamped(cells, side, um, grow=1.75) * np.float32(codeleted)
    pale = np.maximum(np.minimum(halo, 1) * np.float32(0.8), clear * np.float32(0.6))
    eosin, haze = (x * (1 - pale) for x in (eosin, haze))

    rng = random.stream(*seed, _CHROMATIN)
    chromatin = _clumped(rng, chromatin, um, int(patient.grade > 0))
    beneath = distractors.out_of_focus(random.stream(*seed, _BENEATH), side, um)
    hematoxylin = np.maximum(np.maximum(haze, beneath), chromatin)
    eosin = eosin * (1 - np.float32(0.55) * np.minimum(chromatin, 1))
    return hematoxylin, eosin, diagnostic.mask | (giants > 0.4)


def _stamped(
    cells: nuclei.Nuclei, side: int, um: float, *, grow: float = 1.0
) -> np.ndarray:
    """A map of these nuclei alone."""
    image = np.zeros((side, side), np.float32)
    nuclei.stamp(image, cells, um, grow=grow)
    return image


def _microcysts(rng: np.random.Generator, field: float) -> nuclei.Nuclei:
    """Samples the microcysts of an IDH mutation, as in mutant astrocytomas."""
    at = nuclei.scatter(rng, field=field, spacing=44.0, jitter=0.9)
    return nuclei.discs(at, random.uniform(rng, 3.0, 7.5, len(at)))


def _add_structures(
    eosin: np.ndarray,
    haze: np.ndarray,
    diagnostic: structures.Structures,
    grain: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces the background by granular necrosis and by the stroma of tufts."""
    core, tuft = diagnostic.core, diagnostic.tuft
    eosin = eosin * (1 - core) + (np.float32(0.8) + np.float32(0.6) * grain) * core
    haze = haze * (1 - core) + np.float32(0.12) * grain * core
    return eosin * (1 - tuft) + np.float32(1.05) * tuft, haze


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


def _clumped(
    rng: np.random.Generator, chromatin: np.ndarray, um: float, high: int
) -> np.ndarray:
    """Chromatin with clumps of the grade."""
    side = len(chromatin)
    clumps = random.value_noise(rng, side, max(1.0, 1.3 / um)) - np.float32(0.5)
    return chromatin * (1 + np.float32(_CLUMPING[high]) * clumps)


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

"""Patients of the phantom cohort: grade, biomarkers, arm copy numbers and stain."""

import dataclasses
import math

import numpy as np

from fof_jax.data.datasets.phantom import random

CLASSES = ("II", "III", "IV")
BIOMARKERS = ("idh", "codeletion", "PTEN", "EGFR", "CARD11", "FGFR2")
FLOAT_MARKERS = ("10q", "10p", "7p", "7q")

# Frequencies are counts over 74 TCGA patients of Pathomic Fusion's tables, each row
# without patients that lack one of its columns. The chain grade -> subtype -> EGFR ->
# (PTEN, CARD11), PTEN -> FGFR2 preserves the correlations of genes on one chromosome
# (7p: EGFR, CARD11; 10q: PTEN, FGFR2) and with IDH.
WILDTYPE, MUTANT, CODELETED = 0, 1, 2
SUBTYPE_BY_GRADE = (
    {WILDTYPE: 4, MUTANT: 15, CODELETED: 7},
    {WILDTYPE: 10, MUTANT: 10, CODELETED: 5},
    {WILDTYPE: 11, MUTANT: 6, CODELETED: 0},
)
EGFR_BY_SUBTYPE = (
    {0: 2, 1: 7, 2: 15},
    {-1: 2, 0: 27, 1: 2},
    {0: 11, 1: 2},
)
PTEN_BY_SUBTYPE_AND_EGFR: dict[tuple[int, int], dict[int, int]] = {
    (WILDTYPE, 0): {0: 2},
    (WILDTYPE, 1): {-1: 5, 0: 2},
    (WILDTYPE, 2): {-2: 4, -1: 11},
    (MUTANT, -1): {-1: 1, 0: 1},
    (MUTANT, 0): {-1: 5, 0: 21, 2: 1},
    (MUTANT, 1): {0: 2},
    (CODELETED, 0): {0: 11},
    (CODELETED, 1): {0: 2},
}
CARD11_BY_EGFR: dict[int, dict[int, int]] = {
    -1: {-1: 2},
    0: {-1: 1, 0: 41},
    1: {1: 12},
    2: {-1: 1, 0: 4, 1: 10},
}
FGFR2_BY_PTEN: dict[int, dict[int, int]] = {
    -2: {-2: 1, -1: 3},
    -1: {-1: 22, 2: 1},
    0: {-1: 1, 0: 42},
    2: {-2: 1},
}
# IDH and codeletion are both missing in 4 of 74 patients, all copy numbers in 3.
UNKNOWN_SUBTYPE = {1: 4, 0: 70}
UNKNOWN_COPIES = {1: 3, 0: 71}

Triple = tuple[float, float, float]

_GRADES, _PATIENT = 1, 2  # stream keys of this module


class PhantomError(ValueError):
    """An invalid size, seed or number of regions."""


@dataclasses.dataclass(frozen=True)
class Stain:
    """Stain of a patient's slide, independent of grade and biomarkers.

    Attributes:
      hematoxylin: optical density (base 10) per unit of stain in R, G, B.
      eosin: the same for eosin.
      bite: relative increase of uptake per unit of hematoxylin in dense nuclei.
      mean_h: mean hematoxylin over tissue, in units of stain.
      std_h: its standard deviation.
      mean_e: mean eosin over tissue.
      std_e: its standard deviation.
      glass: optical density of the background in R, G, B.
      focus: 0 (sharp) … 1 (soft).
    """

    hematoxylin: Triple
    eosin: Triple
    bite: float
    mean_h: float
    std_h: float
    mean_e: float
    std_e: float
    glass: Triple
    focus: float


@dataclasses.dataclass(frozen=True)
class Patient:
    """One patient.

    Attributes:
      seed: seed of the cohort.
      index: position in the cohort.
      name: patient ID in tables.
      grade: index into CLASSES.
      status: true values of BIOMARKERS, which shape the tissue.
      biomarkers: `status` as in the table, None where unknown.
      floats: copy numbers of FLOAT_MARKERS relative to two copies.
      stain: of the slide.
      regions: number of regions, 1-3.
    """

    seed: int
    index: int
    name: str
    grade: int
    status: tuple[int, ...]
    biomarkers: tuple[int | None, ...]
    floats: tuple[float, ...]
    stain: Stain
    regions: int


def draw_stain(rng: np.random.Generator) -> Stain:
    """Samples a stain around the vectors of Ruifrok and Johnston (2001)."""

    between = random.between

    def unit(base: Triple, spread: float) -> Triple:
        r, g, b = (max(0.02, v + between(rng, -spread, spread)) for v in base)
        length = math.sqrt(r * r + g * g + b * b)
        return r / length, g / length, b / length

    return Stain(
        hematoxylin=unit((0.650, 0.704, 0.286), 0.09),
        eosin=unit((0.092, 0.954, 0.283), 0.07),
        bite=between(rng, -0.35, 0.8),
        mean_h=between(rng, 0.20, 0.36),
        std_h=between(rng, 0.19, 0.27),
        mean_e=between(rng, 0.20, 0.36),
        std_e=between(rng, 0.07, 0.11),
        glass=(
            between(rng, 0.005, 0.035),
            between(rng, 0.005, 0.035),
            between(rng, 0.005, 0.035),
        ),
        focus=between(rng, 0.0, 1.0),
    )


def draw_patient(seed: int, patient_index: int) -> Patient:
    """Samples a patient, independently of the size of the cohort.

    Each three consecutive patients (0-2, 3-5, …) have one of each grade, in random
    order and with the same number of regions, so that any prefix is balanced.

    Raises:
      PhantomError: a negative seed or index.
    """
    if seed < 0 or patient_index < 0:
        raise PhantomError(
            f"Got seed {seed} and patient {patient_index}; both must be 0 or more."
        )
    trio = random.stream(seed, _GRADES, patient_index // 3)
    grade = int(trio.permutation(3)[patient_index % 3])
    regions = 1 + int(trio.integers(3))

    rng = random.stream(seed, _PATIENT, patient_index)
    subtype = random.pick(rng, SUBTYPE_BY_GRADE[grade])
    egfr = random.pick(rng, EGFR_BY_SUBTYPE[subtype])
    pten = random.pick(rng, PTEN_BY_SUBTYPE_AND_EGFR[subtype, egfr])
    card11 = random.pick(rng, CARD11_BY_EGFR[egfr])
    fgfr2 = random.pick(rng, FGFR2_BY_PTEN[pten])
    status = (int(subtype > 0), int(subtype == CODELETED), pten, egfr, card11, fgfr2)
    hidden = [bool(random.pick(rng, UNKNOWN_SUBTYPE))] * 2
    hidden += [bool(random.pick(rng, UNKNOWN_COPIES))] * 4

    # Arms are gained or lost with their genes, by about half a copy in a sample with
    # normal tissue; focal amplifications hardly change them.
    noise = random.bell(rng, 4)
    arm_10 = 0.3 * (max(-1, min(1, pten)) + max(-1, min(1, fgfr2)))
    arm_7 = 0.35 * (max(-1, min(1, egfr)) + max(-1, min(1, card11)))
    arms = (arm_10, 0.85 * arm_10, arm_7, 0.85 * arm_7)
    floats = tuple(
        round(a + 0.12 * float(n), 4) for a, n in zip(arms, noise, strict=True)
    )
    return Patient(
        seed=seed,
        index=patient_index,
        name=f"PH-{patient_index:04d}",
        grade=grade,
        status=status,
        biomarkers=tuple(
            None if hide else value for value, hide in zip(status, hidden, strict=True)
        ),
        floats=floats,
        stain=draw_stain(rng),
        regions=regions,
    )

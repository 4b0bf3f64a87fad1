"""Molecular features of phantom patients: the 80 columns of Pathomic Fusion's tables.

The columns are sampled given grade and the six biomarkers, so that they are informative
about the grade but do not determine it.

* The six biomarkers are copied to their columns.
* Genes of one arm mostly share a copy number: one gene per arm is sampled by its counts
  over 71 TCGA patients per grade, the others copy it in the fraction of patients in
  which they agree there.
* The available tables have no arm-level values. Assumption: an arm has 0.35 copies per
  unit of the mean of its genes, clipped to -1 and 1, plus noise with std 0.12. 7p, 7q,
  10p and 10q are the float markers.
* Assumption for the 23 arms without genes in the table: each is altered by 0.35 copies
  in 5, 20 and 44% of the patients of grades II, III and IV, because gliomas of higher
  grade have more altered arms; 5p, 8p, 12p and 20 are gained, the others lost. The
  rates were chosen for an accuracy of omics alone between that of images alone and 85%.
"""

import math

import numpy as np

from fof_jax.data.datasets.phantom import random
from fof_jax.data.datasets.phantom.patient import BIOMARKERS, FLOAT_MARKERS, Patient

_OMICS = 3  # stream key of this module

# Copy numbers of the sampled gene of each arm, for grades II, III, IV.
COUNTS_BY_GRADE: dict[str, tuple[dict[int, int], dict[int, int], dict[int, int]]] = {
    "MDM4": ({-1: 2, 0: 22, 2: 1}, {0: 22, 1: 2, 2: 1}, {0: 17, 1: 2}),
    "MYC": (
        {0: 22, 1: 2, 2: 1},
        {-1: 2, 0: 19, 1: 4},
        {-1: 1, 0: 15, 1: 2, 2: 1},
    ),
    "BLM": ({-1: 1, 0: 23, 1: 1}, {-1: 1, 0: 24}, {-1: 2, 0: 17}),
    "CDKN2A": (
        {-2: 2, -1: 7, 0: 16},
        {-2: 7, -1: 3, 0: 15},
        {-2: 8, -1: 5, 0: 6},
    ),
    "JAK2": (
        {-2: 1, -1: 6, 0: 18},
        {-2: 1, -1: 5, 0: 19},
        {-2: 1, -1: 11, 0: 6, 1: 1},
    ),
    "TSHR": ({-1: 3, 0: 22}, {-1: 6, 0: 19}, {-2: 2, -1: 5, 0: 12}),
    "EBF1": ({-2: 2, -1: 3, 0: 19, 2: 1}, {-1: 4, 0: 21}, {-1: 2, 0: 17}),
    "LCP1": ({-2: 1, -1: 5, 0: 19}, {-1: 6, 0: 19}, {-2: 1, -1: 5, 0: 12, 1: 1}),
    "IRF4": ({-2: 1, -1: 6, 0: 18}, {-2: 1, -1: 1, 0: 22, 1: 1}, {-1: 2, 0: 17}),
    "MYB": ({-1: 3, 0: 22}, {-1: 3, 0: 22}, {-2: 1, -1: 7, 0: 11}),
    "STK11": ({0: 22, 1: 3}, {-1: 3, 0: 18, 1: 4}, {-1: 1, 0: 12, 1: 6}),
}
# Gene -> (copied gene, number of patients that agree). EGFR counts as -1, 0 or 1.
COPIED = {
    **dict.fromkeys(("NTRK1", "PRCC"), ("MDM4", 66)),
    **dict.fromkeys(("NTRK3", "CRTC3"), ("BLM", 71)),
    "CDKN2B": ("CDKN2A", 71),
    **dict.fromkeys(("TCL1A", "GPHN", "DICER1", "TCL6"), ("TSHR", 71)),
    **dict.fromkeys(("TRIP11", "GOLGA5"), ("TSHR", 70)),
    "ITK": ("EBF1", 71),
    "RB1": ("LCP1", 70),
    **dict.fromkeys(("ROS1", "TNFAIP3", "GOPC"), ("MYB", 70)),
    "FGFR1OP": ("MYB", 68),
    "MLLT4": ("MYB", 67),
    **dict.fromkeys(("BRAF", "EZH2", "SMO", "KIAA1549"), ("EGFR", 53)),
    "MET": ("EGFR", 55),
    "CREB3L2": ("EGFR", 54),
}
PATIENTS = 71
# RPL22 and CDKN2C, both on 1p, with and without the codeletion of 1p and 19q.
COUNTS_OF_1P = (
    {(0, 0): 44, (-1, 0): 4, (-1, -1): 3, (1, 1): 2, (0, -2): 1, (1, -2): 1},
    {(-1, -1): 13},
)
GENES_OF_ARM = {
    "1q": ("MDM4", "NTRK1", "PRCC"),
    "5q": ("EBF1", "ITK"),
    "6p": ("IRF4",),
    "6q": ("FGFR1OP", "MLLT4", "MYB", "ROS1", "TNFAIP3", "GOPC"),
    "8q": ("MYC",),
    "9p": ("CDKN2A", "CDKN2B", "JAK2"),
    "13q": ("LCP1", "RB1"),
    "14q": ("TSHR", "TCL1A", "TRIP11", "GOLGA5", "GPHN", "DICER1", "TCL6"),
    "15q": ("BLM", "NTRK3", "CRTC3"),
    "19p": ("STK11",),
}
# Percent of patients of grades II, III, IV in whom an arm without genes is altered, and
# the arms that are gained then; the others are lost.
ALTERED_ARMS_BY_GRADE = (5, 20, 44)
GAINED_ARMS = ("5p", "8p", "12p", "20p", "20q")
COPIES_PER_ARM = 0.35
GENES = (
    "codeletion idh EGFR MDM4 MYC BRAF EZH2 MET SMO KIAA1549 CREB3L2 NTRK1 PRCC BLM "
    "NTRK3 CRTC3 CDKN2A CDKN2B FGFR2 TSHR TCL1A TRIP11 GOLGA5 GPHN DICER1 TCL6 EBF1 "
    "ITK RPL22 CDKN2C LCP1 RB1 IRF4 FGFR1OP MLLT4 MYB ROS1 TNFAIP3 GOPC CARD11 JAK2 "
    "STK11 PTEN"
)
ARMS = (
    "1q 2p 2q 3p 3q 4p 4q 5p 5q 6p 6q 7p 7q 8p 8q 9p 9q 10p 10q 11p 11q 12p 12q 13q "
    "14q 15q 16p 16q 17p 17q 18p 18q 19p 20p 20q 21q 22q"
)
# Column names: genes and biomarkers, then arms. The prefix keeps them apart from the
# biomarker and float columns of the same table.
OMIC_NAMES = tuple(f"omics_{name}" for name in f"{GENES} {ARMS}".split())


def omics_vector(patient: Patient) -> tuple[float | None, ...]:
    """Values of `OMIC_NAMES` for a patient; None where the table has an empty cell.

    Cells are missing where the patient's biomarkers are: the copy numbers together, in
    3 of 74 patients, IDH and codeletion together, in 4 of 74. Arms are always known.
    """
    rng = random.stream(patient.seed, _OMICS, patient.index)
    status = dict(zip(BIOMARKERS, patient.status, strict=True))
    gene = {name: float(value) for name, value in status.items()}
    for name, counts in COUNTS_BY_GRADE.items():
        gene[name] = float(random.pick(rng, counts[patient.grade]))
    for name, (source, agreed) in COPIED.items():
        copied = max(-1.0, min(1.0, gene[source])) if source == "EGFR" else gene[source]
        same = bool(random.pick(rng, {1: agreed, 0: PATIENTS - agreed}))
        gene[name] = copied if same else 0.0
    pairs = COUNTS_OF_1P[status["codeletion"]]
    order = list(pairs)
    drawn = random.pick(rng, {k: pairs[pair] for k, pair in enumerate(order)})
    gene["RPL22"], gene["CDKN2C"] = (float(v) for v in order[drawn])

    arm = _arms(rng, patient, gene)
    known = dict(zip(BIOMARKERS, patient.biomarkers, strict=True))
    no_copies, no_subtype = known["EGFR"] is None, known["idh"] is None
    values: list[float | None] = []
    for name in GENES.split():
        of_subtype = name in ("idh", "codeletion")
        hidden = no_subtype if of_subtype else no_copies
        values.append(None if hidden else gene[name])
    return (*values, *(arm[name] for name in ARMS.split()))


def _arms(
    rng: np.random.Generator, patient: Patient, gene: dict[str, float]
) -> dict[str, float]:
    """Copy numbers of ARMS relative to two copies, given those of the genes."""
    names = ARMS.split()
    noise = random.bell(rng, len(names))
    measured = dict(zip(FLOAT_MARKERS, patient.floats, strict=True))
    rate = ALTERED_ARMS_BY_GRADE[patient.grade]
    arm = {}
    for name, z in zip(names, noise, strict=True):
        if name in measured:
            arm[name] = measured[name]
            continue
        if genes := GENES_OF_ARM.get(name, ()):
            steps = [max(-1.0, min(1.0, gene[g])) for g in genes]
            change = math.fsum(steps) / len(steps)
        else:
            altered = random.pick(rng, {1: rate, 0: 100 - rate})
            change = float(altered) if name in GAINED_ARMS else -float(altered)
        arm[name] = round(COPIES_PER_ARM * change + 0.12 * float(z), 4)
    return arm

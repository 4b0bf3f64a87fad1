"""Draws the phantom: synthetic glioma regions with masks of diagnostic structures.

It measures localization, for which no public cohort has ground truth. Grade II has
sparse, uniform nuclei; III is denser and pleomorphic, with giant nuclei and mitoses; IV
adds microvascular tufts or palisading necrosis in a small part. Biomarkers are sampled
given the grade and change the tissue: IDH mutation microcysts, 1p/19q codeletion halos
and branching capillaries, PTEN elongated nuclei, EGFR clustered nuclei, CARD11 hollow
nuclei, FGFR2 aligned fibers. Distractors are independent of the grade: lymphocytes,
out-of-focus nuclei, stain, blur, blood, ink, folds, background and density gradients.
The mean amount of both stains is independent of the tissue. See docs/phantom.md and
benchmarks/experiments/difficulty.py.

Masks are not used in training.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from fof_jax import files
from fof_jax.data.datasets.phantom import region as region_
from fof_jax.data.datasets.phantom import slide
from fof_jax.data.datasets.phantom.patient import (
    BIOMARKERS,
    CLASSES,
    FLOAT_MARKERS,
    Patient,
    PhantomError,
    Stain,
    draw_patient,
)
from fof_jax.data.datasets.phantom.region import micrometers_per_pixel, nuclei_density

__all__ = [
    "BIOMARKERS",
    "CLASSES",
    "FLOAT_MARKERS",
    "Patient",
    "PhantomError",
    "Region",
    "Stain",
    "cohort",
    "contact_sheet",
    "draw_patient",
    "draw_region",
    "micrometers_per_pixel",
    "nuclei_density",
    "region_name",
]

SMALLEST, LARGEST = 64, 1024


@dataclasses.dataclass(frozen=True)
class Region:
    """One region of one patient.

    Attributes:
      image: H&E, RGB.
      mask: True on diagnostic structures: tufts, necrosis with its palisade, mitotic
        figures with their cleared cytoplasm, and giant nuclei. All False for grade
        II, so localization is measured on grades III and IV. Background is False.
      grade: index into CLASSES.
      biomarkers: known values of BIOMARKERS, None where unknown.
      floats: values of FLOAT_MARKERS, copy numbers relative to two.
      patient: patient ID.
      name: unique name of the region.
    """

    image: UInt8[np.ndarray, "S S 3"]
    mask: Bool[np.ndarray, "S S"]
    grade: int
    biomarkers: tuple[int | None, ...]
    floats: tuple[float, ...]
    patient: str
    name: str


def draw_region(
    patient: Patient,
    region_index: int,
    *,
    image_size: int,
    structures: bool = True,
    density: float | None = None,
    stain: Stain | None = None,
    artifacts: bool = True,
) -> Region:
    """Renders one region.

    Args:
      patient: from `draw_patient`.
      region_index: 0 … 2; a cohort holds the first `patient.regions`.
      image_size: side in pixels, 64 … 1024; see `micrometers_per_pixel`.
      structures: False omits the structures of the mask; the rest is unchanged.
      density: tumor nuclei per square millimeter; None for `nuclei_density`.
      stain: another stain for the same tissue; None for the patient's.
      artifacts: adds blood, ink, folds and background, each to about one region of
        eight.

    Raises:
      PhantomError: a size or index out of range.
    """
    if not SMALLEST <= image_size <= LARGEST:
        raise PhantomError(
            f"The phantom has no regions with a side of {image_size} pixels: its scale "
            f"is defined from {SMALLEST} to {LARGEST}. Pass --config.data.image_size "
            "within that range."
        )
    if region_index < 0:
        raise PhantomError(f"Got region {region_index}; expected 0 or more.")
    h, e, mask = region_.tissue(
        patient,
        region_index,
        image_size,
        with_structures=structures,
        density=density,
    )
    image, mask = slide.render(
        h,
        e,
        mask,
        stain=patient.stain if stain is None else stain,
        key=(patient.seed, patient.index, region_index),
        um=micrometers_per_pixel(image_size),
        artifacts=artifacts,
    )
    return Region(
        image=image,
        mask=mask,
        grade=patient.grade,
        biomarkers=patient.biomarkers,
        floats=patient.floats,
        patient=patient.name,
        name=region_name(patient, region_index),
    )


def region_name(patient: Patient, index: int) -> str:
    """Unique name of a patient's region."""
    return f"{patient.name}_{index}"


def cohort(*, regions: int, seed: int) -> Iterator[tuple[Patient, int]]:
    """Yields patients and region indices of a cohort of `regions` regions.

    Region counts of the grades differ by at most one. A larger cohort of the same seed
    starts with the same regions.

    Raises:
      PhantomError: fewer than one region, or a negative seed.
    """
    if regions < 1 or seed < 0:
        raise PhantomError(
            f"Got {regions} regions and seed {seed}; expected at least 1 region and "
            "a seed of 0 or more. Pass --config.data.regions and --config.seed so."
        )
    left, first = regions, 0
    while left:
        trio = [draw_patient(seed, first + i) for i in range(3)]
        for index in range(trio[0].regions):
            for patient in trio:
                if left:
                    yield patient, index
                    left -= 1
        first += 3


def contact_sheet(path: str | Path, *, image_size: int, seed: int) -> Path:
    """Writes a PNG of 12 regions, four per grade, each next to its masked version.

    Args:
      path: the PNG to write.
      image_size: side of a region, 64 … 1024; small ones are enlarged.
      seed: of the cohort; shows the first four patients of each grade.

    Returns:
      `path`.
    """
    path = Path(path)
    cell = max(image_size, 256)
    band, gap = 34, 8
    pitch = 2 * cell + gap
    sheet = Image.new("RGB", (4 * (pitch + gap), 3 * (cell + band)), "white")
    draw = ImageDraw.Draw(sheet)
    patients = [draw_patient(seed, i) for i in range(12)]
    for grade, name in enumerate(CLASSES):
        for column, patient in enumerate(p for p in patients if p.grade == grade):
            region = draw_region(patient, 0, image_size=image_size)
            x, y = column * (pitch + gap), grade * (cell + band) + band
            shade = region.image.astype(np.int16)
            shade = np.where(region.mask[..., None], shade, (shade + 2 * 255) // 3)
            marked = shade.astype(np.uint8)
            for offset, pixels in ((0, region.image), (cell + 2, marked)):
                tile = Image.fromarray(pixels)
                tile = tile.resize((cell, cell), Image.Resampling.BICUBIC)
                sheet.paste(tile, (x + offset, y))
            markers = ", ".join(
                f"{marker} {value:+d}" if marker in BIOMARKERS[2:] else marker
                for marker, value in zip(BIOMARKERS, patient.status, strict=True)
                if value
            )
            draw.text((x + 4, y - band + 2), f"{name}  {region.name}", fill="black")
            draw.text((x + 4, y - band + 17), markers or "no markers", fill="black")
    files.write_with(path, lambda file: sheet.save(file, format="PNG"))
    return path

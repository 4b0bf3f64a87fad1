"""The phantom: a procedural cohort of glioma regions with known structures.

Made for what the method claims and no public cohort can measure: where the diagnostic
structures are. Grade II has sparse, even nuclei; III is denser and pleomorphic, with
giant nuclei and mitoses; IV is III with microvascular tufts or palisading necrosis in
a small part. Biomarkers, drawn given the grade, have signs of their own: IDH mutation
microcysts, 1p/19q codeletion halos and branching capillaries, PTEN elongated nuclei,
EGFR clustered nuclei, CARD11 hollow nuclei, FGFR2 aligned fibres. Lymphocytes, nuclei
out of focus, stain, blur, blood, ink, folds, empty glass and gradients of density are
independent of the grade, and the amount of both stains on a slide is independent of
the tissue. docs/phantom.md shows all of it, and
benchmarks/experiments/difficulty.py measures it.

Training never sees the masks.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from fof_jax.data.datasets.phantom import png, slide
from fof_jax.data.datasets.phantom import region as region_
from fof_jax.data.datasets.phantom.patient import (
    BIOMARKERS,
    CLASSES,
    FLOAT_MARKERS,
    Patient,
    PhantomError,
    Stain,
    draw_patient,
)
from fof_jax.data.datasets.phantom.region import micrometres_per_pixel, nuclei_density

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
    "micrometres_per_pixel",
    "nuclei_density",
    "write_cohort",
]

SMALLEST, LARGEST = 64, 1024


@dataclasses.dataclass(frozen=True)
class Region:
    """One region of one patient.

    Attributes:
      image: H&E, RGB.
      mask: True on diagnostic structures, that is on tufts, on necrosis with its
        palisade, on mitotic figures with their cleared cell, and on giant nuclei.
        Grade II is told by their absence: its mask is False everywhere, so figures
        of focus are taken over grades III and IV. Empty glass is always False.
      grade: index into CLASSES.
      biomarkers: known values of BIOMARKERS, None where unknown.
      floats: values of FLOAT_MARKERS: copies relative to two, always known.
      patient: the patient's name.
      name: the region's name, unique in the cohort.
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
    artefacts: bool = True,
) -> Region:
    """Draw one region.

    Args:
      patient: from `draw_patient`.
      region_index: 0 … 2; a cohort holds the first `patient.regions`.
      image_size: side in pixels, 64 … 1024; see `micrometres_per_pixel`.
      structures: False leaves out everything that the mask shows; background,
        nuclei elsewhere, vessels, stain and artefacts come from the same draws.
      density: tumour nuclei per square millimetre, another region's perhaps (see
        `nuclei_density`); None is this region's own.
      stain: another patient's stain, to re-stain the same tissue.
      artefacts: blood, ink, folds and empty glass on about one region of eight each.

    Raises:
      PhantomError: a size or index out of range.
    """
    if not SMALLEST <= image_size <= LARGEST:
        raise PhantomError(
            f"The phantom has no regions of {image_size} pixels a side: its scale is "
            f"defined from {SMALLEST} to {LARGEST}. Pass --config.data.image_size "
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
    image, mask = slide.photograph(
        h,
        e,
        mask,
        stain=patient.stain if stain is None else stain,
        key=(patient.seed, patient.index, region_index),
        um=micrometres_per_pixel(image_size),
        artefacts=artefacts,
    )
    return Region(
        image=image,
        mask=mask,
        grade=patient.grade,
        biomarkers=patient.biomarkers,
        floats=patient.floats,
        patient=patient.name,
        name=f"{patient.name}_{region_index}",
    )


def cohort(*, regions: int, seed: int) -> Iterator[tuple[Patient, int]]:
    """Patients and region indices of a cohort of `regions` regions, in order.

    Grades differ in number by one region at most. A larger cohort of the same seed
    begins with the same regions.

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


def write_cohort(
    directory: str | Path,
    *,
    regions: int,
    image_size: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a cohort as a table with its images and masks.

    The same regions, image_size and seed give the same bytes on any machine.
    Existing files of the same names are replaced; each file is written under a
    temporary name and renamed, the table last.

    Args:
      directory: gets `images/*.png`, `masks/*.png` (1 bit) and `cohort.csv`.
      regions: number of regions, over patients of 1-3 regions each.
      image_size: side in pixels, 64 … 1024.
      seed: 0 or more.
      progress: called with (written, regions) after each region.

    Returns:
      The path of `cohort.csv`. Columns: image and mask (relative to the table),
      patient, grade, BIOMARKERS (integers, empty where unknown), FLOAT_MARKERS.

    Raises:
      PhantomError: a size, seed or number out of range.
    """
    directory = Path(directory)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "patient", "grade", *BIOMARKERS, *FLOAT_MARKERS, "mask"])
    for done, (patient, index) in enumerate(cohort(regions=regions, seed=seed), 1):
        region = draw_region(patient, index, image_size=image_size)
        if done == 1:  # The arguments are good: nothing is made before that.
            (directory / "images").mkdir(parents=True, exist_ok=True)
            (directory / "masks").mkdir(exist_ok=True)
        image, mask = f"images/{region.name}.png", f"masks/{region.name}.png"
        png.write(directory / image, region.image)
        png.write(directory / mask, region.mask)
        markers = ["" if b is None else b for b in region.biomarkers]
        floats = [f"{value:.4f}" for value in region.floats]
        grade = CLASSES[region.grade]
        table.writerow([image, region.patient, grade, *markers, *floats, mask])
        if progress is not None:
            progress(done, regions)
    path = directory / "cohort.csv"
    temporary = path.with_name(".cohort.csv.tmp")
    temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
    temporary.replace(path)
    return path


def contact_sheet(path: str | Path, *, image_size: int, seed: int) -> Path:
    """Write a PNG of 12 regions, four a grade, each beside its mask.

    Args:
      path: file to write.
      image_size: side of a region, 64 … 1024; small ones are shown enlarged.
      seed: of the cohort; the first four patients of each grade are shown.

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
            signs = ", ".join(
                f"{marker} {value:+d}" if marker in BIOMARKERS[2:] else marker
                for marker, value in zip(BIOMARKERS, patient.status, strict=True)
                if value
            )
            draw.text((x + 4, y - band + 2), f"{name}  {region.name}", fill="black")
            draw.text((x + 4, y - band + 17), signs or "no markers", fill="black")
    temporary = path.with_name(f".{path.name}.tmp")
    sheet.save(temporary, format="PNG")
    temporary.replace(path)
    return path

"""Writes a cohort of the phantom: table, images and masks, by several processes.

Drawing a region is Python and NumPy on small arrays, which threads do not speed up.
"""

import contextlib
import csv
import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from fof_jax import files
from fof_jax.data.datasets.phantom import cohort
from fof_jax.data.datasets.phantom import omics as omics_

SHARE = 500  # regions for which another process is worth its start


def write_cohort(
    directory: str | Path,
    *,
    regions: int,
    image_size: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    omics: bool = False,
    cores: int = 1,
) -> Path:
    """Generates a cohort: table, images and masks.

    The same regions, image_size and seed give the same pixels on any machine. Files
    are written atomically, the table last.

    Args:
      directory: output folder of `images/*.png`, `masks/*.png` (1 bit) and
        `cohort.csv`.
      regions: number of regions; a patient has 1-3.
      image_size: side in pixels, 64 … 1024.
      seed: 0 or more.
      progress: called with (written, regions) after each region.
      omics: whether the table has the columns `omics.OMIC_NAMES`.
      cores: largest number of processes; one has at least `SHARE` regions.

    Returns:
      The path of `cohort.csv`. Columns: image and mask (relative to the table),
      patient, grade, BIOMARKERS (integers, empty where unknown), FLOAT_MARKERS.

    Raises:
      PhantomError: a size, seed or count out of range; or a process that failed.
    """
    directory = Path(directory)
    members = list(cohort.cohort(regions=regions, seed=seed))
    processes = max(1, min(cores, regions // SHARE))
    job = (str(directory), regions, image_size, seed, processes)
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(_process(job, k)) for k in range(1, processes)]
        write_images(*job, part=0, progress=progress)
        failed = [code for other in others if (code := other.wait())]
    if failed:
        raise cohort.PhantomError(
            f"{len(failed)} of {processes} processes that draw regions failed, with "
            f"exit code {failed[0]}. Their messages are above; pass "
            "--config.data.threads=1 to draw in one process."
        )
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    header = ["image", "patient", "grade", *cohort.BIOMARKERS, *cohort.FLOAT_MARKERS]
    table.writerow([*header, "mask", *omics_.OMIC_NAMES * omics])
    for patient, index in members:
        image, mask = _paths(patient, index)
        markers = ["" if b is None else b for b in patient.biomarkers]
        floats = [f"{value:.4f}" for value in patient.floats]
        grade = cohort.CLASSES[patient.grade]
        row = [image, patient.name, grade, *markers, *floats, mask]
        if omics:
            values = omics_.omics_vector(patient)
            row += ["" if v is None else f"{v:g}" for v in values]
        table.writerow(row)
    path = directory / "cohort.csv"
    files.write_text(path, text.getvalue())
    return path


def write_images(
    directory: str,
    regions: int,
    image_size: int,
    seed: int,
    parts: int,
    *,
    part: int,
    progress: Callable[[int, int], None] | None = None,
    parent: int | None = None,
) -> None:
    """Writes images and masks of one part of a cohort: every `parts`-th region.

    Args:
      directory, regions, image_size, seed: as of `write_cohort`.
      parts, part: how many there are, and which one of them, 0 … parts - 1.
      progress: called with (position in the cohort, regions) after each region.
      parent: process with which this one ends; None for none.
    """
    members = list(cohort.cohort(regions=regions, seed=seed))
    for position in range(part, regions, parts):
        if parent is not None and os.getppid() != parent:
            return  # it was killed
        patient, index = members[position]
        region = cohort.draw_region(patient, index, image_size=image_size)
        image, mask = _paths(patient, index)
        _write_png(Path(directory, image), region.image)
        _write_png(Path(directory, mask), region.mask)
        if progress is not None:
            progress(min(position + parts, regions), regions)


@contextlib.contextmanager
def _process(
    job: tuple[str, int, int, int, int], part: int
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that draws a part; it is ended with the block."""
    # `multiprocessing` would run the caller's script again, or fork JAX's threads.
    call = f"from {__name__} import write_images as write; import json, sys; "
    call += "args, named = json.loads(sys.argv[1]); write(*args, **named)"
    words = json.dumps([job, {"part": part, "parent": os.getpid()}])
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    process = subprocess.Popen(
        [sys.executable, "-c", call, words],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _paths(patient: cohort.Patient, index: int) -> tuple[str, str]:
    """Files of a region's image and mask, below the folder of the cohort."""
    name = cohort.region_name(patient, index)
    return f"images/{name}.png", f"masks/{name}.png"


def _write_png(path: Path, pixels: np.ndarray) -> None:
    # Uncompressed: noisy tissue hardly compresses, and decodes faster like this.
    image = Image.fromarray(pixels)
    save = functools.partial(image.save, format="PNG", compress_level=0)
    files.write_with(path, save)

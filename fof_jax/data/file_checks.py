"""Checks the files that a cohort names: images and masks, or bags of features."""

import collections
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fof_jax.data import images
from fof_jax.data.bags import index, layouts
from fof_jax.data.bags.index import BagIndex, Entry
from fof_jax.data.errors import RowError
from fof_jax.data.records import Cohort, Row

Progress = Callable[[int, int], None]  # (done, total)


def holds_bags(cohort: Cohort) -> bool:
    """Whether any row names an HDF5 file; `check_bags` refuses the other rows then."""
    return any(layouts.is_bag(row.image) for row in cohort.rows)


def check_images(
    cohort: Cohort, *, threads: int = 2, progress: Progress | None = None
) -> list[RowError]:
    """Decodes every image and mask completely.

    Args:
      cohort: rows whose files are checked.
      threads: number of files decoded in parallel.
      progress: called with (done, total) after each image.

    Returns:
      Errors: files that are missing, unreadable, truncated or not supported by
      `fof_jax.data.images`, and masks whose size differs from their image's.
    """

    def check(row: Row) -> tuple[str, str] | None:
        try:
            region = images.check_region(row.image)
            if row.mask is None:
                return None
            mask = images.check_mask(row.mask)
        except images.ImageError as error:
            return error.kind, str(error)
        if (mask.height, mask.width) == (region.height, region.width):
            return None
        return "mask of another size", (
            f"{row.mask.name} is {mask.width}x{mask.height}, "
            f"its image {region.width}x{region.height}"
        )

    errors = []
    lines = cohort.lines or range(2, len(cohort.rows) + 2)
    with images.quiet_decoding(), ThreadPoolExecutor(threads) as pool:
        results = zip(lines, pool.map(check, cohort.rows), strict=True)
        for done, (number, result) in enumerate(results, 1):
            if result is not None:
                errors.append(RowError(result[0], number, result[1]))
            if progress is not None:
                progress(done, len(cohort.rows))
    return errors


def check_bags(
    cohort: Cohort,
    *,
    patch_size: float | None = None,
    threads: int = 2,
    progress: Progress | None = None,
) -> tuple[list[RowError], BagIndex | None]:
    """Reads every HDF5 file of patch features completely.

    Args:
      cohort: rows whose files are checked.
      patch_size: side of a patch in level-0 pixels, for files that do not state it.
      threads: number of files checked in parallel.
      progress: called with (done, total) after each file.

    Returns:
      Errors: files that `bags.reading.check` refuses, of another D than most, rows of
      images among bags, and masks of images; and the index of the files, None where
      there are errors. Slides are not looked at.
    """
    errors = []
    lines = cohort.lines or range(2, len(cohort.rows) + 2)
    checked: list[tuple[int, Entry]] = []
    bags = []
    for number, row in zip(lines, cohort.rows, strict=True):
        if not layouts.is_bag(row.image):
            text = (
                f"{row.image.name} is no HDF5 file, as those of other rows are. A "
                "cohort is of images or of bags: write two tables"
            )
            errors.append(RowError("images among bags", number, text))
            continue
        if row.mask is not None:
            text = (
                f"{row.mask.name}; the mask of a bag is a dataset 'mask' in its file. "
                "Empty the cell"
            )
            errors.append(RowError("mask beside a bag", number, text))
        bags.append((number, row))
    results = index.check_all(
        [row.image for _, row in bags],
        patch_size=patch_size,
        threads=threads,
        progress=progress,
    )
    for (number, row), result in zip(bags, results, strict=True):
        if isinstance(result, Entry):
            slide = None if row.slide is None else row.slide.absolute()
            checked.append((number, dataclasses.replace(result, slide=slide)))
        else:
            errors.append(RowError(result.kind, number, str(result)))
    errors += _other_widths(checked)
    if errors:
        return errors, None
    return [], BagIndex(tuple(entry for _, entry in checked))


def _other_widths(checked: list[tuple[int, Entry]]) -> list[RowError]:
    """Finds files whose features are of another length than those of most files."""
    counts = collections.Counter(entry.header.width for _, entry in checked)
    if len(counts) < 2:
        return []
    usual, files = counts.most_common(1)[0]
    return [
        RowError(
            "features of another length",
            number,
            f"{entry.path.name} has D {entry.header.width}, {files} of {len(checked)} "
            f"files have {usual}. Extract all with one encoder",
        )
        for number, entry in checked
        if entry.header.width != usual
    ]

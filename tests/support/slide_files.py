"""Whole slides written by tifffile: regions of the phantom on glass."""

import numpy as np

TILE = 128  # 64 pixels at 0.5 are 128 at 0.25 micrometers per pixel
PLACES = ((1, 1), (1, 2), (2, 3))  # row and column of the regions


def on_glass(regions):
    """Glass of 4 x 5 tiles, three of them tissue: regions with each pixel repeated."""
    glass = np.full((4 * TILE + 30, 5 * TILE + 50, 3), 244, np.uint8)
    for region, (row, column) in zip(regions, PLACES, strict=True):
        part = np.kron(region, np.ones((2, 2, 1), np.uint8))
        glass[row * TILE :, column * TILE :][:TILE, :TILE] = part
    return glass


def write_slide(path, pixels, *, mpp=0.25, compression=None):
    """A pyramid of two levels."""
    import tifffile

    scale = {}
    if mpp:
        per_cm = 1e4 / mpp
        scale = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for level in range(2):
            file.write(
                np.ascontiguousarray(pixels[:: 2**level, :: 2**level]),
                tile=(64, 64),
                photometric="rgb",
                compression=compression,
                subfiletype=level and 1,
                **(scale if not level else {}),
            )

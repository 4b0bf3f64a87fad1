"""Renders the figures of docs/phantom.md.

    python tools/phantom_figures.py --out=docs

phantom_grades.png is `data phantom` at 256 pixels; phantom_structures.png shows one
structure of each kind, 155 um wide, above the same with its mask applied.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from fof_jax.data.datasets.phantom import cohort

SIDE, CELL, SHOWN = 512, 220, 300
SEED, PATIENTS = 7, 60


def structures() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels and mask around one structure of each kind, identified by size and color.

    Mitoses and giant nuclei are in grade III; giant nuclei are darker. Grade IV has
    necrosis or tufts; necrosis is larger, with a pink center.
    """
    crops: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for index in range(PATIENTS):
        patient = cohort.draw_patient(SEED, index)
        region = cohort.draw_region(patient, 0, image_size=SIDE, artifacts=False)
        labels, count = ndimage.label(region.mask)
        for k in range(1, count + 1):
            own = labels == k
            rows, columns = np.nonzero(own)
            y, x = int(rows.mean()), int(columns.mean())
            half = CELL // 2
            if not (half < y < SIDE - half and half < x < SIDE - half):
                continue
            dark = np.mean(region.image[own].mean(axis=1) < 110)
            area = own.sum() * cohort.micrometers_per_pixel(SIDE) ** 2
            if patient.grade == 1:
                name = "giant nucleus" if dark > 0.8 else "mitosis"
                fits = area > 120 if dark > 0.8 else 100 < area < 160
            else:
                middle = region.image[y - 6 : y + 6, x - 6 : x + 6].mean(axis=(0, 1))
                pink = middle[0] - middle[2] > 25
                name = "necrosis and palisade" if pink else "microvascular tuft"
                fits = area > 4000
            if fits and name not in crops:
                cut = np.s_[y - half : y + half, x - half : x + half]
                crops[name] = region.image[cut], region.mask[cut]
    return crops


def main(out: Path) -> None:
    """Writes both images, with few colors, so that the files are small."""
    sheet = cohort.contact_sheet(out / "phantom_grades.png", image_size=256, seed=SEED)
    with Image.open(sheet) as opened:
        small = opened.resize((opened.width * 2 // 3, opened.height * 2 // 3))
    small.quantize(96, dither=Image.Dither.NONE).save(sheet, optimize=True)

    names = ("mitosis", "giant nucleus", "microvascular tuft", "necrosis and palisade")
    shown, head = structures(), 22
    pitch = SHOWN + 8
    image = Image.new("RGB", (pitch * len(names), head + 2 * pitch), "white")
    draw = ImageDraw.Draw(image)
    for column, name in enumerate(names):
        pixels, mask = shown[name]
        pale = ((pixels.astype(int) + 2 * 255) // 3).astype(np.uint8)
        marked = np.where(mask[..., None], pixels, pale)
        draw.text((column * pitch + 4, 4), name, fill="black")
        for row, tile in enumerate((pixels, marked)):
            large = Image.fromarray(tile).resize((SHOWN, SHOWN))
            image.paste(large, (column * pitch, head + row * pitch))
    quantized = image.quantize(96, dither=Image.Dither.NONE)
    quantized.save(out / "phantom_structures.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    main(parser.parse_args().out)

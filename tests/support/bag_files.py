"""Small HDF5 files of patch features, written as the documentation of each tool says.

Independent of the package's own writer.
"""

import csv
from pathlib import Path

import h5py
import numpy as np

CLASSES = ("0", "1", "2")
WIDTH = 6


def grid(count: int, step: float) -> np.ndarray:
    """Distinct corners of a row-major grid of five columns, from (3, 1) steps on."""
    at = np.arange(count)
    return np.stack([at % 5 + 3, at // 5 + 1], axis=1) * step


def features(seed: int, count: int, width: int = WIDTH) -> np.ndarray:
    """Noise that float16 represents exactly."""
    rng = np.random.default_rng(seed)
    return rng.integers(-64, 64, (count, width)).astype(np.float32) / 16


def write_trident(path: Path, values: np.ndarray, *, dtype="float32") -> Path:
    """Patches of 256 pixels at 20x of a 40x slide: 512 level-0 pixels."""
    with h5py.File(path, "w") as file:
        file["features"] = values.astype(dtype)
        file["features"].attrs["encoder"] = "uni_v1"
        file["coords"] = grid(len(values), 512).astype(np.int64)
        file["coords"].attrs.update(
            patch_size=256, patch_size_level0=512, level0_magnification=40,
            target_magnification=20, overlap=0, name=path.stem,
            level0_width=9000, level0_height=9000,
        )  # fmt: skip
    return path


def write_clam(path: Path, values: np.ndarray, *, attributes: bool = True) -> Path:
    """Patches of 256 pixels at a level of downsample 2; attributes are optional."""
    with h5py.File(path, "w") as file:
        file["features"] = values
        file["coords"] = grid(len(values), 512).astype(np.int32)
        if attributes:
            file["coords"].attrs.update(
                patch_size=256, patch_level=1, downsample=(2.0, 2.0),
                level_dim=(4500, 4500), name=path.stem,
            )  # fmt: skip
    return path


def write_stamp(path: Path, values: np.ndarray) -> Path:
    """Patches of 256 micrometers, half precision, coordinates in micrometers."""
    with h5py.File(path, "w") as file:
        file["feats"] = values.astype(np.float16)
        file["coords"] = grid(len(values), 256.0).astype(np.float32)
        file.attrs.update(
            stamp_version="2.4.0", extractor="uni", unit="um", tile_size_um=256.0,
            tile_size_px=224, code_hash="0", feat_type="tile",
        )  # fmt: skip
    return path


WRITERS = {"trident": write_trident, "clam": write_clam, "stamp": write_stamp}


def write_cohort(folder: Path, counts: list[int], *, write=write_trident) -> Path:
    """One file for each count, two per patient, and table.csv."""
    rows = []
    for i, count in enumerate(counts):
        write(folder / f"slide_{i:03d}.h5", features(i, count))
        rows.append({
            "image": f"slide_{i:03d}.h5",
            "patient": f"P{i // 2:03d}",
            "grade": CLASSES[i // 2 % 3],
        })  # fmt: skip
    return write_table(folder, rows)


def write_table(folder: Path, rows: list[dict[str, str]]) -> Path:
    """Writes the CSV table."""
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path

"""Write the features of tiles, in the HDF5 layouts of CLAM, TRIDENT and STAMP.

python launch.py features --checkpoint=weights/dinov2-s14 --images=T.csv --tile=112 \
    --out=features
python launch.py features --checkpoint=runs/cohort/fold_0 --images=slides --mpp=0.5 \
    --out=features

`--checkpoint` is an imported encoder, or a fold of a run. `--images` is an image or
slide, a folder, or a CSV with a column `image`; of a CSV, `--out` gets a copy that
names the files of features and is a cohort table of bags (docs/bags.md). Each image is
a file of its name with `features` and `coords`. Run the same command again to resume
an interrupted one.
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fof_jax import files
from fof_jax.cli.predict import add_path_flags, check_out, print_warnings
from fof_jax.data.bags import writing
from fof_jax.data.csv_reader import TableReader
from fof_jax.data.progress import progress_to

if TYPE_CHECKING:
    from fof_jax.inference.inputs import ImageInput

JOB = "features.json"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint, --images, --out, the tile and its scale, and --layout."""
    add_path_flags(parser)
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="side of a tile; default: that of the encoder's training images",
    )
    parser.add_argument(
        "--layout",
        choices=tuple(writing.LAYOUTS),
        default="trident",
        help="trident, which CLAM reads too (default); stamp; or npz",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="an image is one tile, resized, as training reads it; not for slides",
    )
    for name, meaning in (
        ("gray", "grayscale tiles, standardized, as with data.color=False"),
        ("drop_class_token", "as with init.class_token=drop"),
        ("shuffle", "permute the values of each tensor, a control"),
    ):
        parser.add_argument(
            f"--{name}", action="store_true", help=f"imported encoder: {meaning}"
        )
    for name, default, meaning in (
        ("mpp", 0.5, "of the tiles of slides (default: 0.5, 20x)"),
        ("slide_mpp", None, "of slides at full resolution; default: the file's"),
        ("image_mpp", None, "of images that are no slides; needed for --layout=stamp"),
    ):
        parser.add_argument(
            f"--{name}",
            type=float,
            default=default,
            metavar="UM",
            help=f"micrometers per pixel {meaning}",
        )


def run(flags: argparse.Namespace) -> int:
    """Writes a file for each image; 1 if no image could be read."""
    check_out(flags.out)
    for name in ("mpp", "slide_mpp", "image_mpp"):
        value = getattr(flags, name)
        if value is not None and not 0.01 < value < 100:
            raise ValueError(
                f"--{name}: got {value}, expected 0.01 to 100 micrometers per pixel."
            )
    if flags.tile is not None and flags.tile < 1:
        raise ValueError(f"--tile: got {flags.tile}, expected at least 1 pixel.")
    from fof_jax.data.bags import layouts
    from fof_jax.inference import features, inputs

    if flags.layout != "npz":
        layouts.hdf5()  # before anything is computed
    images = inputs.find(flags.images, exclude=flags.out)
    paths = [writing.path_of(flags.out, one.name, flags.layout) for one in images]
    _require_distinct(paths, images)
    encoder = features.read_encoder(
        flags.checkpoint,
        tile=flags.tile,
        variant=features.Variant(
            color=not flags.gray,
            class_token=not flags.drop_class_token,
            shuffled=flags.shuffle,
        ),
    )
    job = {
        "gray": flags.gray,
        "drop_class_token": flags.drop_class_token,
        "shuffle": flags.shuffle,
        "whole": flags.whole,
        "encoder": encoder.name,
        "parameters": encoder.digest,
        "tile": encoder.side,
        "layout": flags.layout,
        "mpp": flags.mpp,
        "slide_mpp": flags.slide_mpp,
        "image_mpp": flags.image_mpp,
    }
    _require_same_job(flags.out, job)
    progress = progress_to("encoded", sys.stdout)
    failed, count, width = [], 0, 0
    for k, (image, path) in enumerate(zip(images, paths, strict=True), 1):
        if not path.exists():  # written whole by an interrupted run
            try:
                patches = features.of_file(
                    encoder,
                    image,
                    mpp=flags.mpp,
                    slide_mpp=flags.slide_mpp,
                    image_mpp=flags.image_mpp,
                    whole=flags.whole,
                )
                writing.write(path, patches, flags.layout)
                count, width = count + len(patches.features), patches.features.shape[1]
            except ValueError as error:
                failed.append(f"{image.name}: {error}")
        progress(k, len(images))
    print_warnings(failed)
    done = len(images) - len(failed)
    if count:
        print(f"{count} tiles of {encoder.side} pixels, {width} features")
    print(f"{done} of {len(images)} images: {flags.out}")
    if flags.images.suffix.lower() == ".csv" and flags.layout != "npz" and not failed:
        _write_table(flags.images, flags.out, paths)
    return 1 if not done else 0


def _require_distinct(paths: Sequence[Path], images: "Sequence[ImageInput]") -> None:
    first: dict[Path, str] = {}
    for path, image in zip(paths, images, strict=True):
        if path in first:
            raise ValueError(
                f"--images: {first[path]} and {image.name} would both be {path.name}. "
                "Rename one."
            )
        first[path] = image.name


def _require_same_job(out: Path, job: dict[str, object]) -> None:
    """Raises if a folder holds features of another encoder or scale."""
    path = out / JOB
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"--out: {out} is not empty. Pass a new or empty folder.")
        files.write_text(path, json.dumps(job, indent=1) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if before != job:
        raise ValueError(
            f"--out: {out} holds features of another command ({before}, now {job}). "
            "Pass another folder, or delete it."
        )


def _write_table(table: Path, out: Path, paths: Sequence[Path]) -> None:
    """Copies a table with the files of features as `image`, the images as `slide`."""
    reader = TableReader(table)
    reader.load()
    # Masks are of pixels.
    names = [name for name in reader.header if name not in ("mask", "slide")]
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(
        stream, [*names, "slide"], lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    for (_, cells), path in zip(reader.lines, paths, strict=True):
        named = {"image": path.relative_to(out).as_posix()}
        named["slide"] = Path(
            os.path.relpath(table.parent / cells["image"], out)
        ).as_posix()
        writer.writerow(cells | named)
    files.write_text(out / "table.csv", stream.getvalue())
    print(f"table: {out / 'table.csv'}")

"""Grades, probabilities and focus for images of any size.

python launch.py predict --checkpoint=runs/phantom --images=folder --out=graded

`--checkpoint` takes a run (its folds together, with their spread), one fold, or a step
below its checkpoints. `--images` takes an image, a folder, or a CSV with a column
`image` and perhaps `patient` and `grade`. Written to `--out`: predictions.csv,
patients.csv, and a picture an image below focus/. Research use only; not for diagnosis.
"""

import argparse
import sys
from pathlib import Path

from fof_jax.cli.lines import progress_to


def add_sources(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, --images and --out, as `explain` has them too."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="PATH")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="PATH|FOLDER|TABLE"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those, and --no_pictures."""
    add_sources(parser)
    parser.add_argument(
        "--no_pictures", action="store_true", help="tables alone, several times faster"
    )


def run(flags: argparse.Namespace) -> int:
    """The flags to `inference.predict`; 0, unless no image could be read."""
    refuse_file(flags.out)
    from fof_jax import inference, trained

    asked = inference.find(flags.images)
    table = inference.predict(
        trained.load(flags.checkpoint),
        asked,
        flags.out,
        pictures=not flags.no_pictures,
        progress=progress_to("graded", sys.stdout),
    )
    failed = [(n, e) for n, e in zip(table.image, table.error, strict=True) if e]
    for name, error in failed[:10]:
        print(f"warning: {name}: {error}", file=sys.stderr)
    if len(failed) > 10:
        print(f"warning: … and {len(failed) - 10} more", file=sys.stderr)
    print(
        f"{len(asked) - len(failed)} of {len(asked)} images graded: "
        f"{flags.out / 'predictions.csv'}"
    )
    return 1 if len(failed) == len(asked) else 0


def refuse_file(out: Path) -> None:
    """Raises ValueError where a folder is to be made and a file stands."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: {out} is a file; expected a folder. Pass another.")

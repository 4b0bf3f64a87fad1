"""Grades, probabilities and focus for images of any size.

python launch.py predict --checkpoint=runs/phantom --images=folder --out=graded

`--checkpoint` takes a run (its folds together, with their spread), one fold, a step
below its checkpoints, or a file of `export --to=stablehlo`, which gives no pictures of
the focus. `--images` takes an image, a folder, or a CSV with a column
`image` and perhaps `patient` and `grade`; whole slides (.svs, .ndpi, pyramidal .tif …)
want the extra `slides`. Written to `--out`, a new folder: predictions.csv,
patients.csv, and a picture an image below focus/. Interrupted, the same command goes
on. Research use only; not for diagnosis.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fof_jax.data.errors import SHOWN
from fof_jax.data.progress import progress_to
from fof_jax.evaluation.predictions import Predictions
from fof_jax.evaluation.tables import align


def add_sources(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, --images and --out, as `explain` has them too."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="PATH")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="PATH|FOLDER|TABLE"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those, --no_pictures, and the scale of slides."""
    add_sources(parser)
    parser.add_argument(
        "--no_pictures", action="store_true", help="tables alone, several times faster"
    )
    slide = parser.add_argument_group("whole slides")
    slide.add_argument(
        "--mpp",
        type=_micrometres,
        default=0.5,
        metavar="UM",
        help="micrometres a pixel of the images of training; default 0.5 (20x)",
    )
    slide.add_argument(
        "--slide_mpp",
        type=_micrometres,
        metavar="UM",
        help="of a slide at full size, where its file does not say",
    )


def _micrometres(text: str) -> float:
    value = float(text)
    if not 0.01 < value < 100:
        raise argparse.ArgumentTypeError(f"{text}: expected 0.01 to 100 µm a pixel")
    return value


def run(flags: argparse.Namespace) -> int:
    """The flags to `inference.predict`; 0, unless no image could be read."""
    refuse_file(flags.out)
    from fof_jax.inference import batch, inputs, load, slides
    from fof_jax.inference import model as inference_model

    def slide(model: inference_model.Model, path: Path) -> slides.SlideGrades:
        return slides.grade(
            model,
            path,
            mpp=flags.mpp,
            slide_mpp=flags.slide_mpp,
            progress=progress_to(f"{path.name}:", sys.stdout, what="tiles"),
        )

    asked = inputs.find(flags.images, without=flags.out)
    model = load.load(flags.checkpoint)
    if not (model.explains or flags.no_pictures):
        warn(["no pictures of the focus: an exported file has no gradients"])
    table = batch.predict(
        model,
        asked,
        flags.out,
        pictures=not flags.no_pictures,
        progress=progress_to("graded", sys.stdout),
        job={
            "checkpoint": str(flags.checkpoint.resolve()),
            "mpp": f"{flags.mpp} {flags.slide_mpp}",
        },
        slide=slide,
    )
    names = zip(table.image, table.error, strict=True)
    failed = [f"{name}: {error}" for name, error in names if error]
    warn([*failed, *table.notes])
    print("\n".join(summary(table, model.classes)))
    print(
        f"{len(asked) - len(failed)} of {len(asked)} images graded: "
        f"{flags.out / 'predictions.csv'}"
    )
    return 1 if len(failed) == len(asked) else 0


def summary(table: Predictions, classes: Sequence[str]) -> list[str]:
    """How many images have each grade, in columns."""
    rows = [["grade", "images", "mean probability"]]
    for k, name in enumerate(classes):
        inside = table.pred == k
        mean = f"{table.prob[inside, k].mean():.2f}" if inside.any() else "-"
        rows.append([name, str(int(inside.sum())), mean])
    if not table.ok.all():
        rows.append(["none (error)", str(int((~table.ok).sum())), "-"])
    return align(rows)


def warn(faults: Sequence[str]) -> None:
    """The first ten, and how many more there are."""
    for fault in faults[:SHOWN]:
        print(f"warning: {fault}", file=sys.stderr)
    if len(faults) > SHOWN:
        print(f"warning: … and {len(faults) - SHOWN} more", file=sys.stderr)


def refuse_file(out: Path) -> None:
    """Raises ValueError where a folder is to be made and a file stands."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: {out} is a file; expected a folder. Pass another.")

"""Predict grades of images and whole slides, with class activation maps.

python launch.py predict --checkpoint=runs/phantom --images=folder --out=graded

`--checkpoint` is a run (ensemble of its folds, with their standard deviation), a fold,
a step below its checkpoints, or a file of `export --to=stablehlo`, which gives no
class activation maps. `--images` is an image, a folder, or a CSV with a column `image`
and optional columns `patient`, `grade` and `mpp`, and the model's omics columns where
its method needs them (also written --table=TABLE); whole slides (.svs, .ndpi, pyramidal
.tif …) require the extra `slides`. A model of patch features takes HDF5 files instead
(docs/bags.md), and writes its map as a plot, CSV and GeoJSON. `--out` is a new folder
for predictions.csv, patients.csv, plots below focus/, and, of slides, tables and
QuPath's GeoJSON of their tiles below tiles/. Run the same command again to resume an
interrupted one.
Research use only; not for diagnosis.
"""

import argparse
import gc
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from fof_jax.data.errors import SHOWN
from fof_jax.data.progress import progress_to
from fof_jax.evaluation.predictions import Predictions
from fof_jax.evaluation.tables import align


def add_path_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint, --images and --out."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="PATH")
    parser.add_argument(
        *("--images", "--table"),
        type=Path,
        required=True,
        metavar="PATH|FOLDER|TABLE",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")


def add_io_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `explain` has as well: model, images, output, scale."""
    add_path_flags(parser)
    scale = parser.add_argument_group("scale")
    scale.add_argument(
        "--mpp",
        type=mpp,
        default=0.5,
        metavar="UM",
        help="micrometers per pixel of the training images; default 0.5 (20x)",
    )
    scale.add_argument(
        "--resample",
        action="store_true",
        help="brings images to --mpp, by the column mpp of the table",
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `add_io_flags`, --no_pictures and --slide_mpp."""
    add_io_flags(parser)
    parser.add_argument(
        "--no_pictures",
        action="store_true",
        help="no plots, tables only; several times faster",
    )
    add_abstain_flag(parser)
    parser.add_argument(
        "--slide_mpp",
        type=mpp,
        metavar="UM",
        help="of whole slides at full resolution; default: from the file's metadata",
    )


def add_abstain_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --abstain, which `serve` and `export` have as well."""
    parser.add_argument(
        "--abstain",
        type=Path,
        metavar="FILE",
        help="when not to answer: rules of `eval --abstain_error=… --out=FILE`; "
        "default: those of an exported file, or none",
    )


def mpp(text: str) -> float:
    """A flag's micrometers per pixel."""
    value = float(text)
    if not 0.01 < value < 100:
        raise argparse.ArgumentTypeError(f"{text}: expected 0.01 to 100 µm per pixel")
    return value


def run(flags: argparse.Namespace) -> int:
    """Calls `batch.predict`; 1 if no image could be read."""
    check_out(flags.out)
    import numpy as np

    from fof_jax.evaluation import abstention
    from fof_jax.inference import bags, batch, inputs, load, provenance, slides
    from fof_jax.inference.image_scale import TrainingScale
    from fof_jax.inference.model import has_map, no_map_reason, reads_bags
    from fof_jax.inference.predictor import Predictor
    from fof_jax.inference.table_form import TableForm

    def predict_slide(
        model: Predictor, path: Path, *, slide_mpp: float | None
    ) -> slides.SlidePrediction:
        return slides.predict_slide(
            model,
            path,
            mpp=flags.mpp,
            slide_mpp=slide_mpp or flags.slide_mpp,
            maps=has_map(model) and not flags.no_pictures,
            report_progress=progress_to(f"{path.name}:", sys.stdout, what="tiles"),
        )

    model = load.load(flags.checkpoint)
    # Modules and weights stay until the end; each plot is followed by a collection.
    gc.freeze()
    of_bags = reads_bags(model)
    find = bags.find if of_bags else inputs.find
    form = TableForm.of(model.config)
    images = find(flags.images, exclude=flags.out, form=form)
    rules = abstention.read(flags.abstain) if flags.abstain else model.abstention
    job = {"mpp": f"{flags.mpp} {flags.slide_mpp}", "resample": str(flags.resample)}
    if model.omic_names:
        images = inputs.with_omics(
            images, flags.images, model.omic_names, model.config.method, form
        )
        vectors = np.array([one.omics for one in images], np.float32)
        job["omics"] = hashlib.sha256(vectors.tobytes()).hexdigest()
    if not (has_map(model) or of_bags or flags.no_pictures):
        print_warnings([f"no class activation maps: {no_map_reason(model)}"])
    table = batch.predict(
        model,
        images,
        flags.out,
        plots=not flags.no_pictures,
        report_progress=progress_to("graded", sys.stdout),
        job=job,
        about=provenance.describe(
            model,
            command="predict",
            checkpoint=flags.checkpoint,
            slides={"mpp": flags.mpp, "slide_mpp": flags.slide_mpp},
            resampled=flags.resample,
            abstention=abstention.to_json(list(rules.values())),
        ),
        predict_slide=predict_slide,
        scale=TrainingScale(flags.mpp, flags.resample),
        abstain=rules,
    )
    failed = failures(table)
    print_warnings([*failed, *table.notes])
    print("\n".join(summary(table, model.classes)))
    print(
        f"{len(images) - len(failed)} of {len(images)} images graded: "
        f"{flags.out / 'predictions.csv'}"
    )
    return 1 if len(failed) == len(images) else 0


def summary(table: Predictions, classes: Sequence[str]) -> list[str]:
    """Number of images and mean probability of each predicted grade, as a table."""
    rows = [["grade", "images", "mean probability"]]
    for k, name in enumerate(classes):
        inside = table.pred == k
        mean = f"{table.prob[inside, k].mean():.2f}" if inside.any() else "-"
        rows.append([name, str(int(inside.sum())), mean])
    if not table.ok.all():
        rows.append(["none (error)", str(int((~table.ok).sum())), "-"])
    return align(rows)


def failures(table: Predictions) -> list[str]:
    """Rows with an error, one line each."""
    rows = zip(table.image, table.error, strict=True)
    return [f"{name}: {error}" for name, error in rows if error]


def print_warnings(messages: Sequence[str]) -> None:
    """Prints the first ten messages to stderr, and the number of further ones."""
    for message in messages[:SHOWN]:
        print(f"warning: {message}", file=sys.stderr)
    if len(messages) > SHOWN:
        print(f"warning: … and {len(messages) - SHOWN} more", file=sys.stderr)


def check_out(out: Path) -> None:
    """Raises ValueError if the output folder is a file."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: {out} is a file; expected a folder. Pass another.")

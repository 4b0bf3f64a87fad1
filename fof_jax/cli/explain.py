"""Write class activation maps: A of Eq. (1) and the patch mask M of each image.

python launch.py explain --checkpoint=runs/phantom --images=a.png --out=maps
python launch.py explain --checkpoint=runs/phantom/fold_0 --images=folder \\
    --target=IV --out=maps

A is computed for the predicted class, or for `--target`. Output for each image: a plot
(PNG) and A as an array (.npy, float32, one value per pixel). A model of patch features
takes HDF5 files: a plot, CSV, GeoJSON, and one value per patch.
"""

import argparse
import gc
import sys

from fof_jax.cli import predict
from fof_jax.data.progress import progress_to


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --target to the flags of `predict.add_io_flags`."""
    predict.add_io_flags(parser)
    parser.add_argument(
        "--target", metavar="CLASS", help="default: the predicted class"
    )


def run(flags: argparse.Namespace) -> int:
    """Calls `maps.explain`; 1 if no image could be read."""
    predict.check_out(flags.out)
    from fof_jax.inference import bags, inputs, load, maps, provenance
    from fof_jax.inference.image_scale import TrainingScale
    from fof_jax.inference.model import reads_bags
    from fof_jax.inference.table_form import TableForm

    scale = TrainingScale(flags.mpp, flags.resample)
    model = load.load(flags.checkpoint)
    gc.freeze()  # as in `predict`
    find = bags.find if reads_bags(model) else inputs.find
    form = TableForm.of(model.config)
    images = find(flags.images, exclude=flags.out, form=form)
    errors = maps.explain(
        model,
        images,
        flags.out,
        target=flags.target,
        report_progress=progress_to("explained", sys.stdout),
        job={"mpp": str(flags.mpp), "resample": str(flags.resample)},
        about=provenance.describe(
            model,
            command="explain",
            checkpoint=flags.checkpoint,
            target=flags.target,
            mpp=flags.mpp,
            resampled=flags.resample,
        ),
        scale=scale,
    )
    strange = [f"{one.name}: {scale.warning(one)}" for one in images
               if scale.warning(one)]  # fmt: skip
    predict.print_warnings([*errors, *strange])
    print(f"{len(images) - len(errors)} of {len(images)} images explained: {flags.out}")
    return 1 if len(errors) == len(images) else 0

"""Where a model looked: A of Eq. (1) over each image, and the patches M keeps.

python launch.py explain --checkpoint=runs/phantom --images=a.png --out=focus
python launch.py explain --checkpoint=runs/phantom/fold_0 --images=folder \\
    --target=IV --out=focus

A speaks for the predicted class, or for `--target`. Each image gets a PNG, and A as
an array (.npy, float32, one value a pixel).
"""

import argparse
import sys

from fof_jax.cli import predict
from fof_jax.data.progress import progress_to


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, --images, --out and --target."""
    predict.add_sources(parser)
    parser.add_argument("--target", metavar="CLASS", help="default: the predicted one")


def run(flags: argparse.Namespace) -> int:
    """The flags to `inference.explain`; 0, unless no image could be read."""
    predict.refuse_file(flags.out)
    from fof_jax.inference import batch, inputs, load

    asked = inputs.find(flags.images, without=flags.out)
    faults = batch.explain(
        load.load(flags.checkpoint),
        asked,
        flags.out,
        target=flags.target,
        progress=progress_to("explained", sys.stdout),
        job={"checkpoint": str(flags.checkpoint.resolve())},
    )
    predict.warn(faults)
    print(f"{len(asked) - len(faults)} of {len(asked)} images explained: {flags.out}")
    return 1 if len(faults) == len(asked) else 0

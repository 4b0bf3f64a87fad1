"""Write a trained model in the form of another program.

python launch.py export --to=release --checkpoint=runs/x/fold_0 --out=fold_0.pth

`release` is the authors' code, which loads the .pth as the state dict of its model;
only a model of the method `release` has that shape. The newest whole step of a fold is
taken.
"""

import argparse
from pathlib import Path

FORMS = ("release",)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--to, --checkpoint, --out and --whole."""
    parser.add_argument(
        "--to", dest="form", choices=FORMS, required=True, help="whose form to write"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a fold of a run, a step of it, or an imported folder",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--whole",
        action="store_true",
        help="with projection heads and names prefixed; default: the model alone",
    )


def run(flags: argparse.Namespace) -> int:
    """Reads, converts, writes; 0."""
    from fof_jax import weights
    from fof_jax.release import convert

    variables = weights.read(flags.checkpoint)
    if "global_classifier" not in variables.params.get("model", {}):
        raise ValueError(
            f"export: {flags.checkpoint} holds {', '.join(sorted(variables.params))}, "
            "expected a model of the method 'release', the only one that the authors' "
            "code can load. Train with --config=configs/gbmlgg_release.py."
        )
    convert.export_pth(
        flags.out,
        variables,
        patch=convert.patch_of(variables),
        model_only=not flags.whole,
    )
    print(f"{flags.out}: written for the authors' code")
    return 0

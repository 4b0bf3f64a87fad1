"""Write a trained model in the form of another program.

python launch.py export --to=release --checkpoint=runs/x/fold_0 --out=fold_0.pth
python launch.py export --to=hf --checkpoint=runs/x/fold_0 --out=fold_0

`hf` is a folder that Hugging Face's transformers loads, the classifier of the K grades
with it; of an imported encoder, the encoder alone. `release` is the authors' code,
which loads the .pth as the state dict of its model; only a model of the method
`release` has that shape. The newest whole step of a fold is taken.
"""

import argparse
from pathlib import Path

FORMS = ("release", "hf")


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
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="hf makes a folder"
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="with projection heads and names prefixed; default: the model alone",
    )


def run(flags: argparse.Namespace) -> int:
    """Reads, converts, writes; 0."""
    if flags.form == "hf":
        return _hf(flags)
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


def _hf(flags: argparse.Namespace) -> int:
    from fof_jax.pretrained import hf_export, parts

    model = parts.read(flags.checkpoint)
    name = hf_export.write(
        flags.out,
        model.encoder,
        model.params,
        head=model.head,
        classes=model.classes,
        color=model.color,
    )
    print(f"{flags.out}: {name}, for transformers' from_pretrained")
    if not model.color:
        print(
            "note: trained on greyscale standardised per image (data.color=False), "
            "which no image processor of transformers does: prepare images yourself"
        )
    return 0

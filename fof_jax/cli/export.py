"""Write a trained model in the form of another program.

python launch.py export --to=stablehlo --checkpoint=runs/x --out=model.fof
python launch.py export --to=release --checkpoint=runs/x/fold_0 --out=fold_0.pth
python launch.py export --to=hf --checkpoint=runs/x/fold_0 --out=fold_0

`stablehlo` is one file that JAX runs without this package, on cpu, cuda and tpu; the
folds of a run become an ensemble (docs/export.md). `hf` is a folder that Hugging Face's
transformers loads, the classifier of the K grades with it; of an imported encoder, the
encoder alone. `release` is the authors' code, which loads the .pth as the state dict of
its model; only a model of the method `release` has that shape. The newest whole step of
a fold is taken.
"""

import argparse
from collections.abc import Callable
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--to, --checkpoint, --out, and flags of one form."""
    parser.add_argument(
        "--to", dest="form", choices=FORMS, required=True, help="whose form to write"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a run (stablehlo), a fold, a step of it, or an imported folder",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="hf makes a folder"
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="release: with projection heads and names prefixed; default: the model "
        "alone",
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="stablehlo: operating points that `eval --out=FILE` has written",
    )


def run(flags: argparse.Namespace) -> int:
    """Reads, converts, writes; 0."""
    for flag, form in (("whole", "release"), ("thresholds", "stablehlo")):
        if getattr(flags, flag) and flags.form != form:
            raise ValueError(f"export: --{flag} goes with --to={form} alone.")
    print(FORMS[flags.form](flags))
    return 0


def _release(flags: argparse.Namespace) -> str:
    from fof_jax import files
    from fof_jax.inference import model_card, outputs
    from fof_jax.methods.release import state_dict
    from fof_jax.training import weights

    variables = weights.read(flags.checkpoint)
    if "global_classifier" not in variables.params.get("model", {}):
        raise ValueError(
            f"export: {flags.checkpoint} holds {', '.join(sorted(variables.params))}, "
            "expected a model of the method 'release', the only one that the authors' "
            "code can load. Train with --config=configs/gbmlgg_release.py."
        )
    described = model_card.of_folder(flags.checkpoint)
    state_dict.export_pth(
        flags.out,
        variables,
        patch=state_dict.patch_of(variables),
        model_only=not flags.whole,
    )
    beside = flags.out.with_name(f"{flags.out.stem}_{outputs.CARD_FILE}")
    files.write_text(beside, described)
    return f"{flags.out}: written for the authors' code; {beside.name} beside it"


def _stablehlo(flags: argparse.Namespace) -> str:
    from fof_jax.evaluation import operating_points
    from fof_jax.inference import exported, load, model_card

    points = operating_points.read(flags.thresholds) if flags.thresholds else ()
    model = load.load(flags.checkpoint)
    card = model_card.of_model(model)
    exported.write(flags.out, model, card=card, thresholds=points)
    size = flags.out.stat().st_size / 2**20
    return (
        f"{flags.out}: {len(model.folds)} fold(s), {', '.join(exported.PLATFORMS)}, "
        f"{size:.1f} MiB, model card inside"
    )


def _hf(flags: argparse.Namespace) -> str:
    from fof_jax import files
    from fof_jax.data.augment import pipeline
    from fof_jax.inference import components, model_card
    from fof_jax.models.pretrained import hf_export

    model = components.read(flags.checkpoint)
    name = hf_export.write(
        flags.out,
        model.encoder,
        model.params,
        head=model.head,
        classes=model.classes,
        mean=pipeline.IMAGENET_MEAN,
        std=pipeline.IMAGENET_STD,
        color=model.color,
    )
    # Where the users of that form look for a card.
    files.write_text(flags.out / "README.md", model_card.of_folder(flags.checkpoint))
    said = f"{flags.out}: {name}, for transformers' from_pretrained"
    if not model.color:
        said += (
            "\nnote: trained on greyscale standardised per image (data.color=False), "
            "which no image processor of transformers does: prepare images yourself"
        )
    return said


# name -> writes the form, and returns the line to say
FORMS: dict[str, Callable[[argparse.Namespace], str]] = {
    "hf": _hf,
    "release": _release,
    "stablehlo": _stablehlo,
}

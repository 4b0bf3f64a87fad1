"""Export a model to StableHLO, Hugging Face transformers or the authors' code.

python launch.py export --to=stablehlo --checkpoint=runs/x --out=model.fof
python launch.py export --to=release --checkpoint=runs/x/fold_0 --out=fold_0.pth
python launch.py export --to=hf --checkpoint=runs/x/fold_0 --out=fold_0

`stablehlo` is one file that runs in JAX without this package, on cpu, cuda and tpu; the
folds of a run become an ensemble (docs/export.md). `hf` is a folder that Hugging Face's
transformers loads: the encoder with the classifier of the K grades, or an imported
encoder alone. `release` is a .pth that the authors' code loads as the state dict of its
model; this requires a model of the method `release`. Of a fold the best step on its
validation rows is exported, if it has some, else its newest valid checkpoint.
`--push=hf:OWNER/NAME` uploads the result of stablehlo or hf.
"""

import argparse
from collections.abc import Callable
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --to, --checkpoint, --out, and flags of single formats."""
    parser.add_argument(
        "--to", dest="format", choices=FORMATS, required=True, help="output format"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a run (stablehlo), a fold, a step of it, or an imported folder",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a folder for hf"
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="release: with projection heads and prefixed names; default: model only",
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="stablehlo: operating points written by `eval --out=FILE`",
    )
    parser.add_argument(
        "--abstain",
        type=Path,
        metavar="FILE",
        help="stablehlo: when the model abstains; written by `eval --abstain_error=0.1 "
        "--out=FILE`",
    )
    parser.add_argument(
        "--push",
        metavar="hf:OWNER/NAME",
        help="stablehlo, hf: also upload to this repository of the Hugging Face Hub",
    )
    parser.add_argument(
        "--license",
        default="unknown",
        metavar="ID",
        help="hf, --push: identifier of the license of the weights in the model card",
    )


def run(flags: argparse.Namespace) -> int:
    """Reads, converts and writes the model."""
    of_one_format = (
        ("whole", "release"),
        ("thresholds", "stablehlo"),
        ("abstain", "stablehlo"),
    )
    for flag, format_ in of_one_format:
        if getattr(flags, flag) and flags.format != format_:
            raise ValueError(f"export: --{flag} requires --to={format_}.")
    if flags.push and flags.format == "release":
        raise ValueError("export: --push requires --to=stablehlo or --to=hf.")
    if flags.push:
        from fof_jax.inference import hub

        hub.name_of(flags.push)  # before anything is written
        if flags.format == "stablehlo" and flags.out.suffix != hub.SUFFIX:
            raise ValueError(
                f"export: --out={flags.out} would not be found by the address "
                f"{flags.push}; expected a name that ends in {hub.SUFFIX}."
            )
    print(FORMATS[flags.format](flags))
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
            "code can load. Train one with --config=configs/gbmlgg_release.py."
        )
    card = model_card.of_folder(flags.checkpoint)
    state_dict.export_pth(
        flags.out,
        variables,
        patch=state_dict.patch_of(variables),
        model_only=not flags.whole,
    )
    card_file = flags.out.with_name(f"{flags.out.stem}_{outputs.CARD_FILE}")
    files.write_text(card_file, card)
    return f"{flags.out}: state dict for the authors' code; card: {card_file.name}"


def _stablehlo(flags: argparse.Namespace) -> str:
    from fof_jax.evaluation import abstention, operating_points
    from fof_jax.inference import exported, load, model_card

    points = operating_points.read(flags.thresholds) if flags.thresholds else ()
    rules = abstention.read(flags.abstain) if flags.abstain else {}
    model = load.load(flags.checkpoint)
    card = model_card.of_model(model)
    exported.write(
        flags.out, model, card=card, thresholds=points, rules=list(rules.values())
    )
    size = flags.out.stat().st_size / 2**20
    platforms = ", ".join(exported.PLATFORMS)
    return (
        f"{flags.out}: {len(model.fold_names)} fold(s), {platforms}, "
        f"{size:.1f} MiB, model card included"
    ) + _push(flags, card, "fof-jax")


def _hf(flags: argparse.Namespace) -> str:
    from fof_jax import files
    from fof_jax.data.augment import pipeline
    from fof_jax.inference import components, load, model_card, provenance
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
        stain=model.stain,
    )
    # README.md is where Hugging Face expects the model card.
    card = model_card.of_folder(flags.checkpoint)
    files.write_text(flags.out / "README.md", _with_front_matter(flags, card))
    if model.head is not None:  # not an imported encoder
        about = provenance.describe(
            load.load(flags.checkpoint), command="export", checkpoint=flags.checkpoint
        )
        provenance.write(flags.out, about)
    message = f"{flags.out}: {name}, for transformers' from_pretrained"
    if not model.color:
        message += (
            "\nnote: trained on grayscale standardized per image (data.color=False), "
            "which no image processor of transformers does: preprocess images yourself"
        )
    if model.stain != "none":
        message += (
            f"\nnote: trained on images normalized by {model.stain} (data.stain), "
            "which no image processor of transformers does: normalize images first, "
            "with fof_jax/data/stain.py or stain.stablehlo of export --to=stablehlo"
        )
    return message + _push(flags, card, "transformers")


def _with_front_matter(
    flags: argparse.Namespace,
    card: str,
    library: str = "transformers",
    repo: str | None = None,
) -> str:
    from fof_jax.inference import hub_card

    return hub_card.with_front_matter(
        card,
        flags.checkpoint,
        license_name=flags.license,
        library=library,
        repo=repo,
    )


def _push(flags: argparse.Namespace, card: str, library: str) -> str:
    """Uploads what was exported, and says where; "" without --push."""
    if not flags.push:
        return ""
    from fof_jax.inference import hub

    text = _with_front_matter(flags, card, library, hub.name_of(flags.push))
    return f"\n{flags.push}: {hub.push(flags.push, flags.out, text)}"


# Format -> function that writes it and returns the message to print.
FORMATS: dict[str, Callable[[argparse.Namespace], str]] = {
    "hf": _hf,
    "release": _release,
    "stablehlo": _stablehlo,
}

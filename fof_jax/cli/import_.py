"""Bring weights of other programs in, as a folder for --config.init.checkpoint.

python launch.py import --from=release fold_0.pth --out=weights/fold_0

`release` is the authors' code: a .pth of its model, with or without projection heads.
It is read with torch's `weights_only`, so nothing in it is executed.
"""

import argparse
import hashlib
from pathlib import Path

FORMS = ("release",)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The file, --from and --out."""
    parser.add_argument("file", type=Path, metavar="FILE", help="what to import")
    parser.add_argument(
        "--from", dest="form", choices=FORMS, required=True, help="whose form it has"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="is made"
    )


def run(flags: argparse.Namespace) -> int:
    """Reads, converts, writes; 0."""
    from fof_jax import weights
    from fof_jax.method import parameter_count
    from fof_jax.release import convert

    variables = convert.import_pth(flags.file)
    model = variables.params["model"]
    blocks = model["encoder"]["blocks"]["qkv"]["bias"].shape
    about = {
        "method": "release",
        "from": flags.form,
        "file": flags.file.name,
        "sha256": hashlib.sha256(flags.file.read_bytes()).hexdigest(),
        "encoder": {
            "depth": blocks[0],
            "width": blocks[1] // 3,
            "patch": convert.patch_of(variables),
            "tokens": model["encoder"]["position"].shape[0],
        },
        "num_classes": model["global_classifier"]["bias"].shape[0],
        "parts": sorted([*variables.params, *variables.state]),
    }
    weights.write(flags.out, variables, about)
    count = parameter_count(variables.params)
    print(f"{flags.out}: {', '.join(about['parts'])}; {count:,} parameters")
    return 0

"""Bring weights of other programs in, as a folder for --config.init.checkpoint.

python launch.py import --from=hf vit-tiny/model.safetensors --out=weights/vit-tiny
python launch.py import --from=augreg Ti_16.npz --image_size=224 --out=weights/ti
python launch.py import --from=release fold_0.pth --out=weights/fold_0

hf: Hugging Face's ViT, I-JEPA and DINOv2 (with registers), with their config.json
beside the file. timm, augreg, dinov2: encoders of timm, of google-research's
vision_transformer, of Meta's DINOv2. release: a .pth of the authors' code. Files are
safetensors, .pth or .bin (read with torch's weights_only: nothing in them is executed)
or .npz; their content tells which. What config.json does not say, you do:
--image_size, and --encoder where the numbers fit no variant.
"""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FORMS = ("hf", "timm", "augreg", "dinov2", "release")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The file, --from, --out, and what the file does not tell."""
    parser.add_argument("file", type=Path, metavar="FILE", help="what to import")
    parser.add_argument(
        "--from", dest="form", choices=FORMS, required=True, help="whose names it has"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="is made"
    )
    parser.add_argument(
        "--encoder", metavar="NAME", help="variant, e.g. DINOv2-S/14; default: it fits"
    )
    parser.add_argument(
        "--image_size",
        type=side,
        metavar="SIDE",
        help="at which it was trained, 224 or 224x320; default: config.json's",
    )


def run(flags: argparse.Namespace) -> int:
    """Reads, converts, writes; 0."""
    from fof_jax.methods.base import parameter_count
    from fof_jax.training import weights

    read = _release if flags.form == "release" else _encoder
    path, variables, about = read(flags)
    about = {
        **about,
        "from": flags.form,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    weights.write(flags.out, variables, about)
    count = parameter_count(variables.params)
    parts = sorted([*variables.params, *variables.state])
    print(f"{flags.out}: {', '.join(parts)}; {count:,} parameters")
    return 0


def _encoder(flags: argparse.Namespace) -> tuple[Path, Any, dict[str, Any]]:
    from fof_jax.models import vit
    from fof_jax.models.pretrained import encoder_import, weight_files
    from fof_jax.types import Variables

    found = weight_files.read(flags.file)
    got = encoder_import.import_encoder(
        found, flags.form, variant=flags.encoder, image_size=flags.image_size
    )
    if got.variant is None:
        raise ValueError(
            f"{found.path}: {got.size} in patches of {got.patch} is no variant that a "
            f"config can name. There are {', '.join(vit.SIZES)}."
        )
    height, width = got.image_size
    token = "with" if got.class_token else "without"
    print(
        f"{found.path}: {found.format}, {got.variant}, trained at {height} x {width} "
        f"pixels, {token} class token, LayerNorm eps {got.layer_norm_eps:g}"
    )
    print(f"loaded: {_collapsed(got.loaded)}")
    print(f"left out: {_collapsed(got.left_out) or 'nothing'}")
    print(
        f"use: --config.init.checkpoint={flags.out} --config.encoder={got.variant} "
        f"--config.layer_norm_eps={got.layer_norm_eps:g}"
    )
    about = {
        "method": "encoder",
        "form": found.format,
        "encoder": encoder_import.describe(got),
    }
    about |= {"loaded": got.loaded, "left_out": got.left_out}
    return found.path, Variables(params={"encoder": got.params}, state={}), about


def _release(flags: argparse.Namespace) -> tuple[Path, Any, dict[str, Any]]:
    from fof_jax.methods.release import state_dict

    if flags.encoder or flags.image_size:
        raise ValueError(
            "import: --encoder and --image_size are of the other forms; a file of the "
            "authors' code tells both. Leave them out."
        )
    variables = state_dict.import_pth(flags.file)
    model = variables.params["model"]
    blocks = model["encoder"]["blocks"]["qkv"]["bias"].shape
    about = {
        "method": "release",
        "encoder": {
            "depth": blocks[0],
            "width": blocks[1] // 3,
            "patch": state_dict.patch_of(variables),
            "tokens": model["encoder"]["position"].shape[0],
        },
        "num_classes": model["global_classifier"]["bias"].shape[0],
        "parts": sorted([*variables.params, *variables.state]),
    }
    return flags.file, variables, about


def _collapsed(names: Iterable[str]) -> str:
    """Names, those that differ in the number of the block once, with how many."""
    counts = Counter(re.sub(r"([._/])\d+([./])", r"\1*\2", name) for name in names)
    return ", ".join(f"{n} x {c}" if c > 1 else n for n, c in sorted(counts.items()))


def side(text: str) -> tuple[int, int]:
    """H, W of "224" or "224x320"."""
    sides = [int(side) for side in text.split("x")]  # argparse says it is invalid
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError(text)
    return sides[0], sides[-1]

"""Import pretrained weights, as a folder for --config.init.checkpoint.

python launch.py import --from=hf vit-tiny/model.safetensors --out=weights/vit-tiny
python launch.py import --from=augreg Ti_16.npz --image_size=224 --out=weights/ti
python launch.py import --from=release fold_0.pth --out=weights/fold_0
python launch.py import --from=torchvision resnet18.pth --out=weights/resnet18

hf: ViT, I-JEPA and DINOv2 (with registers) of Hugging Face, with config.json in the
same folder. timm, augreg, dinov2: encoders of timm, of google-research's
vision_transformer, of Meta's DINOv2. release: a .pth of the authors' code. torchvision:
resnet18, vgg19_bn, swin_v2_t; microsoft and timm: SwinV2-T. Files are
safetensors, .pth or .bin (read with torch's weights_only, which executes no code) or
.npz, detected by content. Without config.json, pass --image_size, and --encoder if the
dimensions match no variant.
"""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SOURCES = ("hf", "timm", "augreg", "dinov2", "release", "torchvision", "microsoft")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the file, --from, --out, and metadata that the file may lack."""
    parser.add_argument("file", type=Path, metavar="FILE", help="what to import")
    parser.add_argument(
        "--from", dest="form", choices=SOURCES, required=True, help="origin of the file"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="new folder"
    )
    parser.add_argument(
        "--encoder", metavar="NAME", help="variant, e.g. DINOv2-S/14; default: detected"
    )
    parser.add_argument(
        "--image_size",
        type=image_size,
        metavar="SIDE",
        help="of pretraining, 224 or 224x320; default: from config.json",
    )


def run(flags: argparse.Namespace) -> int:
    """Reads, converts and writes the weights."""
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
    from fof_jax.models.pretrained import (
        encoder_import,
        image_encoder_import,
        weight_files,
    )
    from fof_jax.types import Variables

    source = weight_files.read(flags.file)
    if flags.form in image_encoder_import.SOURCES and (
        flags.form != "timm" or image_encoder_import.recognizes(source.tensors)
    ):
        return _image_encoder(flags, source)
    imported = encoder_import.import_encoder(
        source, flags.form, variant=flags.encoder, image_size=flags.image_size
    )
    if imported.variant is None:
        raise ValueError(
            f"{source.path}: {imported.size} with patches of {imported.patch} is not a "
            f"variant that a config can name. Expected one of {', '.join(vit.SIZES)}."
        )
    height, width = imported.image_size
    token = "with" if imported.class_token else "without"
    print(
        f"{source.path}: {source.format}, {imported.variant}, trained at "
        f"{height} x {width} pixels, {token} class token, "
        f"LayerNorm eps {imported.layer_norm_eps:g}"
    )
    print(f"loaded: {_collapsed(imported.loaded)}")
    print(f"left out: {_collapsed(imported.left_out) or 'nothing'}")
    print(
        f"use: --config.init.checkpoint={flags.out} "
        f"--config.encoder={imported.variant} "
        f"--config.layer_norm_eps={imported.layer_norm_eps:g}"
    )
    about = {
        "method": "encoder",
        "form": source.format,
        "encoder": encoder_import.describe(imported),
    }
    about |= {"loaded": imported.loaded, "left_out": imported.left_out}
    return source.path, Variables(params={"encoder": imported.params}, state={}), about


def _image_encoder(
    flags: argparse.Namespace, source: Any
) -> tuple[Path, Any, dict[str, Any]]:
    from fof_jax.models.pretrained import image_encoder_import
    from fof_jax.types import Variables

    if flags.image_size:
        raise ValueError(
            "import: --image_size does not apply to convolutional encoders and SwinV2, "
            "whose weights fit any size. Leave it out."
        )
    imported = image_encoder_import.import_image_encoder(
        source, flags.form, variant=flags.encoder
    )
    print(f"{source.path}: {source.format}, {imported.name}")
    print(f"loaded: {_collapsed(imported.loaded)}")
    print(f"left out: {_collapsed(imported.left_out) or 'nothing'}")
    print(f"use: --config.init.checkpoint={flags.out} --config.encoder={imported.name}")
    about = {
        "method": "encoder",
        "form": source.format,
        "encoder": {"variant": imported.name},
        "loaded": imported.loaded,
        "left_out": imported.left_out,
    }
    statistics = {"batch_stats": {"encoder": imported.statistics}}
    variables = Variables(
        params={"encoder": imported.params},
        state=statistics if imported.statistics else {},
    )
    return source.path, variables, about


def _release(flags: argparse.Namespace) -> tuple[Path, Any, dict[str, Any]]:
    from fof_jax.methods.release import state_dict

    if flags.encoder or flags.image_size:
        raise ValueError(
            "import: --encoder and --image_size do not apply to --from=release, whose "
            "files determine both. Leave them out."
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
    """Names, with those that differ only in the block number counted as one."""
    counts = Counter(re.sub(r"([._/])\d+([./])", r"\1*\2", name) for name in names)
    return ", ".join(f"{n} x {c}" if c > 1 else n for n, c in sorted(counts.items()))


def image_size(text: str) -> tuple[int, int]:
    """Parses "224" or "224x320" to H, W."""
    sides = [int(side) for side in text.split("x")]  # argparse reports ValueError
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError(text)
    return sides[0], sides[-1]

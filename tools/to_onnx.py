"""Converts a trained model to ONNX and compares the result with JAX.

    python3 -m venv onnx
    onnx/bin/pip install -e . && onnx/bin/pip install jax2onnx onnxruntime
    onnx/bin/python tools/to_onnx.py runs/x model.onnx

Use a separate environment, because jax2onnx requires an older Orbax than training.
Input: uint8 [b, S, S, 3], RGB; outputs: mean [b, K] and std [b, K] over folds, and the
probabilities of each fold [F, b, K]. Class names, stain normalization and the model
card are in the metadata (docs/export.md).
"""

import json
import os
import sys
from pathlib import Path

import jax
import jax.extend.core
import numpy as np
import onnx
import onnxruntime
from jax2onnx import to_onnx

from fof_jax.inference import exported, load, model_card

TOLERANCE = 1e-5  # of a probability


def main(checkpoint: Path, out: Path) -> None:
    """Converts, compares on random images at two batch sizes, then writes `out`."""
    model = load.load_trained(checkpoint)
    side = model.image_size
    program, image = exported.ensemble(model)
    # jax2onnx replaces functions of jax.numpy and Flax while it traces, which breaks
    # Flax's check of parameters: pass primitives only.
    traced = jax.make_jaxpr(program)(image)
    converted = to_onnx(
        jax.extend.core.jaxpr_as_fun(traced),
        [image],
        model_name="fof",
        input_names=["image"],
        output_names=["prob", "spread", "folds"],
    )
    metadata = {
        "card": model_card.of_model(model),
        "classes": json.dumps(model.classes),
        "stain_normalization": model.config.data.stain,  # not part of the graph
    }
    if model.config.data.stain != "none":
        print(f"note: images need stain normalization: {model.config.data.stain}")
    for name, text in metadata.items():
        converted.metadata_props.append(
            onnx.StringStringEntryProto(key=name, value=text)
        )
    session = _session(converted.SerializeToString())
    rng = np.random.default_rng(0)
    for rows in (1, 3):
        image = rng.integers(0, 256, (rows, side, side, 3), np.uint8)
        expected = jax.jit(program)(image)
        outputs = session.run(None, {"image": image})
        worst = max(np.abs(a - b).max() for a, b in zip(expected, outputs, strict=True))
        print(f"{rows} image(s): largest difference {worst:.1e}")
        if not worst < TOLERANCE:
            raise ValueError(f"{out}: not written, the difference exceeds {TOLERANCE}")
    unfinished = out.with_name(f".{out.name}.tmp")
    onnx.save(converted, unfinished)
    os.replace(unfinished, out)
    size = out.stat().st_size / 2**20
    print(f"{out}: {len(converted.graph.node)} nodes, {size:.1f} MiB")


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # hides warnings about unused constants
    return onnxruntime.InferenceSession(model, options)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tools/to_onnx.py CHECKPOINT FILE")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except ValueError as error:
        sys.exit(f"error: {error}")

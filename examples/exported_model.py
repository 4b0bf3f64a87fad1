"""Grades images with an exported model, without fof_jax.

    pip install jax flatbuffers pillow
    python exported_model.py model.fof a.png b.png

For 8-bit RGB or grayscale images that are not larger than the training images; stain
normalization is done where the model was trained with it. Models of cropped images are
rejected: `launch.py predict` supports them, larger images, and other files.
"""

import json
import sys
import zipfile

import numpy as np
from jax import export
from PIL import Image

with zipfile.ZipFile(sys.argv[1]) as file:
    about = json.loads(file.read("about.json"))
    model = export.deserialize(bytearray(file.read("model.stablehlo")))
    stain = None
    if about["preparation"].get("stain_program"):
        program = file.read(about["preparation"]["stain_program"])
        stain = export.deserialize(bytearray(program))

preparation, side = about["preparation"], about["image_size"]
if preparation["test_view"] != "resize" or (
    preparation["stain"] != "none" and stain is None
):
    sys.exit(
        f"{sys.argv[1]}: expects images prepared by {preparation}; this example only "
        "resizes. Use: python launch.py predict --checkpoint=FILE --images=…"
    )
longest = max(side, *(about["sides"] or ()))

images = []
for path in sys.argv[2:]:
    image = Image.open(path)
    enlarges = min(image.size) < side and preparation["small"] != "resize"
    if image.mode not in ("RGB", "L") or max(image.size) > longest or enlarges:
        sys.exit(
            f"{path}: {image.mode}, {image.width} x {image.height}; this example takes "
            f"RGB or L up to {longest} pixels. Use: python launch.py predict …"
        )
    pixels = np.array(image.convert("RGB"))
    if stain is not None:  # before resizing, as in training
        pixels = np.asarray(stain.call(pixels))
    resized = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    images.append(np.array(resized))

prob, spread, _ = model.call(np.stack(images))
# When not to answer: the rule of images, see docs/export.md.
rules = [rule for rule in about.get("abstention", []) if rule["unit"] == "region"]
for path, p, s in zip(sys.argv[2:], prob, spread, strict=True):
    values = zip(about["classes"], p, s, strict=True)
    best, second = np.argsort(-p, kind="stable")[:2]
    words = [f"{name} {mean:.6f}±{std:.6f}" for name, mean, std in values]
    for rule in rules:
        low = p[best] < rule["thresholds"][best]
        if low or p[best] - p[second] < rule["margin"]:
            words.append("abstain")
    print(path, *words)
print(about["use"])

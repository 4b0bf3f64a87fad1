"""Grades images with an exported model: JAX, NumPy and Pillow, without fof_jax.

python examples/exported_model.py model.fof a.png b.png

For images that are not larger than the training images. Models with cropping or stain
normalization are rejected: `launch.py predict` supports them.
"""

import json
import sys
import zipfile

import numpy as np
from jax import export
from PIL import Image

with zipfile.ZipFile(sys.argv[1]) as file:
    model = export.deserialize(bytearray(file.read("model.stablehlo")))
    about = json.loads(file.read("about.json"))

preparation = about["preparation"]
if (preparation["test_view"], preparation["stain"]) != ("resize", "none"):
    sys.exit(
        f"{sys.argv[1]}: expects images prepared by {preparation}; this example only "
        "resizes. Use: python launch.py predict --checkpoint=FILE --images=…"
    )

side = about["image_size"]
images = []
for path in sys.argv[2:]:
    image = Image.open(path).convert("RGB")
    images.append(np.array(image.resize((side, side), Image.Resampling.BICUBIC)))

prob, spread, _ = model.call(np.stack(images))
for path, p, s in zip(sys.argv[2:], prob, spread, strict=True):
    values = zip(about["classes"], p, s, strict=True)
    print(path, *(f"{name} {mean:.6f}±{std:.6f}" for name, mean, std in values))
print(about["use"])

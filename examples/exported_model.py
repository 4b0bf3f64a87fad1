"""Grades of images from an exported file: JAX, NumPy and Pillow, without fof_jax.

python examples/exported_model.py model.fof a.png b.png

For images that are no larger than those of training. A model that cuts its images or
normalises their stains first is refused: `launch.py predict` does that.
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

wanted = about["preparation"]
if (wanted["test_view"], wanted["stain"]) != ("resize", "none"):
    sys.exit(
        f"{sys.argv[1]}: wants images prepared by {wanted}; this example resizes "
        "them alone. Use: python launch.py predict --checkpoint=FILE --images=…"
    )

side = about["image_size"]
images = []
for path in sys.argv[2:]:
    image = Image.open(path).convert("RGB")
    images.append(np.array(image.resize((side, side), Image.Resampling.BICUBIC)))

prob, spread, _ = model.call(np.stack(images))
for path, p, s in zip(sys.argv[2:], prob, spread, strict=True):
    shown = zip(about["classes"], p, s, strict=True)
    print(path, *(f"{name} {mean:.6f}±{std:.6f}" for name, mean, std in shown))
print(about["use"])

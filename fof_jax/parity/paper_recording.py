"""Reads recordings of the reference implementation as method, parameters and batches.

An .npz with parameters, five batches, all intermediate results of the first step, the
losses of all steps, and the parameters after the first and the last step.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.methods.paper import method as paper_method
from fof_jax.methods.paper import model
from fof_jax.models import vit
from fof_jax.models.pretrained import param_tree, tensor_names
from fof_jax.parity import comparison
from fof_jax.types import Batch, Params

CAM_BLOCK = -2  # of every recording
_ENCODER = "vit."  # name prefix of the encoder in recordings


class Recording:
    """The arrays of a recording, by name."""

    def __init__(self, path: Path):
        """Reads the file.

        Raises:
          ValueError: not an .npz archive of plain arrays.
          FileNotFoundError: the file does not exist.
        """
        self.path = path
        self._arrays = comparison.load(path)

    def __getitem__(self, name: str) -> np.ndarray:
        """The array `name`."""
        if name not in self._arrays:
            raise ValueError(
                f"golden: {self.path} has no array {name!r} among its "
                f"{len(self._arrays)}. Is it a recording of the paper's equations?"
            )
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        """Whether the recording has the array."""
        return name in self._arrays

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays PREFIX/NAME, by NAME."""
        prefix += "/"
        n = len(prefix)
        return {k[n:]: a for k, a in self._arrays.items() if k.startswith(prefix)}

    def number(self, name: str) -> float:
        """The scalar cfg/NAME."""
        return float(self[f"cfg/{name}"].item())

    def method(self, **encoder_options: Any) -> paper_method.FocusOnFocus:
        """The recorded method; options are fields of `vit.ViT`, such as `remat`."""
        number = self.number
        side = int(number("image"))
        height = self["batch0/image"].shape[2]
        width = self["batch0/image"].shape[3]
        if side not in (height, width):
            raise ValueError(
                f"golden: {self.path} has images of {height} x {width}, expected a "
                f"side of {side} as in its cfg/image. Is the file damaged?"
            )
        encoder = vit.ViT(
            size=vit.Size(
                width=int(number("hidden")),
                depth=int(number("layers")),
                heads=int(number("heads")),
                mlp=int(number("mlp")),
            ),
            patch=int(number("patch")),
            image_size=(height, width),
            layer_norm_eps=number("layer_norm_eps"),
            **encoder_options,
        )
        network = model.Model(
            encoder=encoder,
            num_classes=int(number("num_classes")),
            num_biomarkers=self["batch0/biomarkers"].shape[1],
            cam_block=CAM_BLOCK,
            mask_token=False,
        )
        return paper_method.FocusOnFocus(
            network=network,
            theta=number("theta"),
            tau=number("tau"),
            lambda_frl=number("lambda_frl"),
            lambda_mca=number("lambda_mca"),
            normalize_positives=False,
            frl=True,
        )

    def params(self, method: paper_method.FocusOnFocus) -> Params:
        """The initial parameters as a tree."""
        tensors = {
            name.removeprefix(_ENCODER): a for name, a in self.under("init").items()
        }
        h, w = method.network.encoder.grid
        n = method.network.num_biomarkers
        return jax.tree.map(
            lambda a: jnp.asarray(a, jnp.float32),
            {
                "encoder": param_tree.encoder_from(
                    tensors, tensor_names.HF_VIT, patches=h * w
                ),
                "classifier": {
                    "kernel": self["init/classifier.weight"].T,
                    "bias": self["init/classifier.bias"],
                },
                "projectors": np.stack(
                    [self[f"init/projectors.{i}.weight"].T for i in range(n)]
                ),
            },
        )

    def batch(self, step: int) -> Batch:
        """The normalized batch of a step."""
        image = self[f"batch{step}/image"].transpose(0, 2, 3, 1)
        rows = image.shape[0]
        return Batch(
            image=np.asarray(image, np.float32),
            grade=np.asarray(self[f"batch{step}/grade"], np.int32),
            biomarkers=np.asarray(self[f"batch{step}/biomarkers"], np.int32),
            known=np.asarray(self[f"batch{step}/known"], bool),
            floats=np.zeros((rows, 0), np.float32),
            index=np.arange(rows, dtype=np.int32),
            epoch=np.zeros(rows, np.int32),
            valid=np.ones(rows, bool),
        )


def named(params: Params, method: paper_method.FocusOnFocus) -> dict[str, np.ndarray]:
    """Parameters or gradients under the recording's names."""
    patch = method.network.encoder.patch
    encoder = param_tree.encoder_to(params["encoder"], tensor_names.HF_VIT, patch=patch)
    return {
        **{f"{_ENCODER}{name}": a for name, a in encoder.items()},
        "classifier.weight": np.asarray(params["classifier"]["kernel"]).T,
        "classifier.bias": np.asarray(params["classifier"]["bias"]),
        **{
            f"projectors.{i}.weight": np.asarray(kernel).T
            for i, kernel in enumerate(params["projectors"])
        },
    }
